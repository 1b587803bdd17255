"""The order of the backward pass changes its memory and nothing else."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax.models.cpu.backward import in_turn


class Block(nn.Module):
  """A residual block with dropout and an option."""

  @nn.compact
  def __call__(self, x, sign=1):
    h = nn.Dense(x.shape[-1], name="in")(nn.silu(x))
    h = nn.Dropout(0.5, deterministic=False)(nn.silu(h))
    return x + sign * nn.Dense(x.shape[-1], name="out")(h)


class Chain(nn.Module):
  """Eight blocks, plain or in turn."""

  ordered: bool

  @nn.compact
  def __call__(self, x):
    for i in range(8):
      block = nn.remat(Block)(name=f"block_{i}")
      if self.ordered:
        x = in_turn(block, x, remat=True, sign=-1)
      else:
        x = block(x, sign=-1)
    return x


@pytest.fixture(scope="module")
def compiled():
  """Loss and gradients of both chains as compiled programs, and inputs."""
  x = jax.random.normal(jax.random.key(0), (4096, 64))
  rngs = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
  variables = Chain(False).init(rngs, x)

  def program(ordered):
    def loss(variables, x):
      out = Chain(ordered).apply(variables, x, rngs={"dropout": rngs["params"]})
      return jnp.sum(out**2)

    return jax.jit(jax.value_and_grad(loss, (0, 1))).lower(variables, x)

  options = {"xla_cpu_enable_concurrency_optimized_scheduler": False}
  if jax.default_backend() != "cpu":
    options = {}
  programs = [program(o).compile(compiler_options=options) for o in (0, 1)]
  return programs, (variables, x)


def test_gradients_are_those_of_a_plain_call(compiled):
  (plain, ordered), inputs = compiled
  leaves = zip(
    *(jax.tree.leaves(p(*inputs)) for p in (plain, ordered)), strict=True
  )
  for a, b in leaves:
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-3)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of a CPU only")
def test_rematerialised_blocks_share_their_memory(compiled):
  (plain, ordered), _ = compiled
  sizes = [p.memory_analysis().temp_size_in_bytes for p in (plain, ordered)]
  assert sizes[1] < 0.7 * sizes[0]


def test_nan_is_not_hidden(compiled):
  (_, ordered), (variables, x) = compiled
  _, (gradients, _) = ordered(variables, x.at[0, 0].set(jnp.nan))
  assert all(np.isnan(g).any() for g in jax.tree.leaves(gradients))
