"""The order of the backward pass changes its memory and nothing else."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax.devices.mesh import make_mesh
from mmdiff_jax.models.cpu.backward import in_turn
from mmdiff_jax.models.remat import MEMORY_FIRST
from mmdiff_jax.task import make_task


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
  """Loss and gradients of both chains as compiled programs, and inputs.

  The third program is the chain in turn, compiled as XLA likes.
  """
  x = jax.random.normal(jax.random.key(0), (4096, 64))
  rngs = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
  variables = Chain(False).init(rngs, x)

  def program(ordered):
    def loss(variables, x):
      out = Chain(ordered).apply(variables, x, rngs={"dropout": rngs["params"]})
      return jnp.sum(out**2)

    return jax.jit(jax.value_and_grad(loss, (0, 1))).lower(variables, x)

  options = MEMORY_FIRST.get(jax.default_backend(), {})
  programs = [program(o).compile(compiler_options=options) for o in (0, 1)]
  programs.append(program(True).compile())
  return programs, (variables, x)


def test_gradients_are_those_of_a_plain_call(compiled):
  (plain, ordered, _), inputs = compiled
  leaves = zip(
    *(jax.tree.leaves(p(*inputs)) for p in (plain, ordered)), strict=True
  )
  for a, b in leaves:
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-3)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of a CPU only")
def test_rematerialised_blocks_share_their_memory(compiled):
  programs, _ = compiled
  plain, ordered, early = (
    p.memory_analysis().temp_size_in_bytes for p in programs
  )
  assert ordered < 0.5 * plain
  assert ordered < 0.7 * early  # The compiler obeys the options.


@pytest.mark.parametrize(
  ("remat", "platform", "options"),
  [
    ("none", "gpu", {}),
    ("blocks", "cpu", MEMORY_FIRST["cpu"]),
    ("attention", "gpu", MEMORY_FIRST["gpu"]),
    ("blocks", "tpu", {}),
  ],
)
def test_training_compiles_rematerialised_networks_so(
  tiny_config, monkeypatch, remat, platform, options
):
  tiny_config.model.remat = remat
  monkeypatch.setattr("mmdiff_jax.task.platform_of", lambda mesh: platform)
  task = make_task(tiny_config, make_mesh())
  assert task.compiler_options == options


def test_nan_is_not_hidden(compiled):
  (_, ordered, _), (variables, x) = compiled
  _, (gradients, _) = ordered(variables, x.at[0, 0].set(jnp.nan))
  assert all(np.isnan(g).any() for g in jax.tree.leaves(gradients))
