"""Kernels for TPUs, interpreted: values and gradients of the plain formulation.

Shapes are those of the configs, some with fewer elements of the batch.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from mmdiff_jax.aot import bundles
from mmdiff_jax.models import attention, layers, plain, rs_mma
from mmdiff_jax.models.tpu import cross_attention, self_attention, tiles
from tests.attention_oracle import normal


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
  """Kernels run on this machine, a product in float32 as such."""
  call = functools.partial(pl.pallas_call, interpret=True)
  monkeypatch.setattr(pl, "pallas_call", call)
  with jax.default_matmul_precision("highest"):
    yield


def plain_self_attention(x, heads):
  """Of `[N, T, 3C]` over T, of `[B, F, P, 3C]` over F."""
  tokens = x if x.ndim == 3 else layers.pixels_first(x)
  q, k, v = (
    part.reshape(*part.shape[:2], heads, -1)
    for part in jnp.split(tokens, 3, -1)
  )
  out = plain.attend(q, k, v).reshape(*tokens.shape[:2], -1)
  shape = (*x.shape[:-1], out.shape[-1])
  return out if x.ndim == 3 else layers.frames_first(out, shape)


def both_ways(function, args):
  """Values and gradients, as one jitted program."""

  def run(*args):
    out, vjp = jax.vjp(function, *args)
    weights = jnp.cos(jnp.arange(out.size)).reshape(out.shape)
    return out, vjp(weights.astype(out.dtype))

  return jax.tree.leaves(jax.jit(run)(*args))


def assert_same(function, expected, *args, atol=2e-5):
  for a, b in zip(
    both_ways(function, args), both_ways(expected, args), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=atol)


# By where they come from: shape of `[q|k|v]` and heads.
SELF = {
  "smoke": ((2, 16, 3 * 32), 4),
  "shapes, ds 4": ((3, 64, 3 * 64), 4),
  "default, ds 2": ((1, 1024, 3 * 256), 4),
  "default, ds 4: heads across registers": ((2, 256, 3 * 384), 4),
  "default, ds 8: several at once": ((16, 64, 3 * 512), 4),
  "audioset, ds 4": ((1, 256, 3 * 768), 4),
  "superres, ds 16: wide heads": ((2, 64, 3 * 768), 4),
  "default over frames, ds 2": ((1, 16, 32, 3 * 256), 4),
  "default over frames, ds 4": ((1, 16, 16, 3 * 384), 4),
  "shapes over frames": ((2, 8, 64, 3 * 64), 4),
  "few pixels": ((1, 16, 4, 3 * 32), 2),
}


@pytest.mark.parametrize("case", SELF)
def test_self_attention_in_place_is_that_of_its_parts(case):
  shape, heads = SELF[case]
  assert_same(
    functools.partial(self_attention.self_attend, heads=heads),
    functools.partial(plain_self_attention, heads=heads),
    normal(*shape),
  )


# Frames, queries and keys of a frame, channels, heads and window.
WINDOWS = {
  "default, ds 2, to audio": (4, 1024, 400, 256, 4, 1),
  "default, ds 2, to video": (4, 400, 1024, 256, 4, 1),
  "default, ds 4": (6, 256, 100, 384, 6, 4),
  "default, ds 8: a ring": (16, 25, 64, 128, 2, 8),
  "audioset, ds 8": (4, 64, 25, 256, 4, 2),
  "smoke": (4, 16, 8, 32, 2, 2),
}


@pytest.mark.parametrize("case", WINDOWS)
def test_windows_are_those_of_the_ring(case):
  frames, queries, keys, channels, heads, window = WINDOWS[case]
  shift = frames - window

  def expected(q, k, v):
    ring = (jnp.arange(frames)[:, None] + shift + jnp.arange(window)) % frames
    width = channels // heads
    q, k, v = (
      x.reshape(frames, -1, heads, width)
      for x in (
        q,
        *(x[:, ring].reshape(1, frames, -1, channels) for x in (k, v)),
      )
    )
    return plain.attend(q, k, v).reshape(1, frames, -1, channels)

  def kernel(q, k, v):
    return cross_attention.attend_windows(
      q, k, v, heads, window, jnp.int32(shift)
    )

  sizes = (queries, keys, keys)
  args = (normal(1, frames, n, channels, seed=i) for i, n in enumerate(sizes))
  assert_same(kernel, expected, *args)


def test_half_precision_is_rounded_and_large_scores_do_not_overflow():
  x = 6 * normal(2, 64, 3 * 128)
  exact = both_ways(functools.partial(plain_self_attention, heads=2), (x,))
  kernel = functools.partial(self_attention.self_attend, heads=2)
  for a, b in zip(both_ways(kernel, (x,)), exact, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)
  half = jnp.asarray(normal(2, 64, 3 * 128), jnp.bfloat16)
  wide = (half.astype(jnp.float32),)
  exact = both_ways(functools.partial(plain_self_attention, heads=2), wide)
  for a, b in zip(both_ways(kernel, (half,)), exact, strict=True):
    assert a.dtype == jnp.bfloat16
    np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.05)


@pytest.mark.parametrize(("window", "shift"), [(1, 3), (2, 1), (4, 0)])
@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_rs_mma_is_the_same_on_every_platform(platform, window, shift):
  """On TPUs by kernels; on GPUs by windows read in one pass."""
  video, audio = normal(2, 4, 4, 4, 128), normal(2, 32, 128, seed=1)
  on = attention.On("auto", platform)
  blocks = [
    rs_mma.RSMMA(window, 64, attention=a, kernels="plain") for a in (on, "xla")
  ]
  params = blocks[0].init(jax.random.key(0), video, audio)
  # The last maps start at zero, which would hide all before them.
  params = jax.tree.map(lambda x: x + 0.01, params)

  def both(block):
    def total(params, video, audio):
      out = block.apply(params, video, audio, shift)
      return sum(jnp.sum(jnp.sin(x)) for x in out)

    return jax.jit(jax.value_and_grad(total, (0, 1, 2)))(params, video, audio)

  results = [jax.tree.leaves(both(block)) for block in blocks]
  for a, b in zip(*results, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max() + 1e-4)


@pytest.mark.parametrize("shape", [(2, 64, 128), (2, 8, 32, 128)])
@pytest.mark.parametrize("heads_first", [False, True])
@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_self_attention_is_the_same_on_every_platform(
  platform, heads_first, shape
):
  x = normal(*shape)
  modules = [
    layers.SelfAttention(2, heads_first, attention=a, kernels="plain")
    for a in (attention.On("auto", platform), "xla")
  ]
  params = modules[1].init(jax.random.key(0), x)
  params = jax.tree.map(lambda x: x + 0.01, params)

  def both(module):
    def total(params, x):
      return jnp.sum(jnp.sin(module.apply(params, x)))

    return jax.jit(jax.value_and_grad(total, (0, 1)))(params, x)

  results = [jax.tree.leaves(both(module)) for module in modules]
  for a, b in zip(*results, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max() + 1e-4)


@pytest.mark.parametrize(
  ("shape", "heads", "taken"),
  [
    ((8, 1024, 256), 4, True),
    ((8, 16, 1024, 256), 4, True),
    ((8, 1024, 96), 4, False),  # No whole registers.
    ((8, 16, 10, 256), 4, False),  # Nor whole rows of them.
    ((8, 8192, 256), 4, False),  # Too many for the fast memory.
  ],
)
def test_kernels_are_used_where_they_fit(shape, heads, taken):
  assert attention.On("auto", "tpu").in_place(shape, heads) is taken
  assert not attention.On("auto", "gpu").in_place(shape, heads)
  assert not attention.On("lanes", "tpu").in_place(shape, heads)


def test_a_kernel_states_its_cost():
  x = jnp.zeros((2, 64, 3 * 128), jnp.bfloat16)
  jaxpr = jax.make_jaxpr(lambda x: self_attention.self_attend(x, 2))(x)
  text = str(jaxpr)
  moved = 2 * (2 * 64 * 3 * 128 + 2 * 64 * 128)
  assert f"bytes_accessed={moved}" in text
  assert f"flops={2 * 2 * 2 * 64 * 64 * 128}" in text


def test_groups_are_whole_heads_and_registers():
  assert tiles.group_width(256, 64) == 128
  assert tiles.group_width(384, 96) == 384
  assert tiles.group_width(768, 192) == 384
  assert tiles.group_width(32, 8) == 32


SCHEDULE = """
iteration_bounds: (4, 2)
     0   :  { %6 = vsyncpa }
   0x1   :  { %7 = vsyncpa }
   0x2 LB: > { %8 = sadd }
   0x3 LB: >> { %9 = vld  ;;  %p = scmp.ge.s32.totalorder %s9, 16 /* loop exit test */ }
   0x4   : >> { %10 = vst }
   0x5   : > { %11 = sadd }
   0x6 LB: >> { %12 = vld ;; %p = scmp.ge.s32.totalorder %s12, 3 /* loop exit test */ }
   0x7 PF: > { %13 = sadd }
   0x8   :  { %14 = exit }
"""  # noqa: E501


def test_bundles_count_as_often_as_their_loops_run():
  kernel = bundles.count("attend", SCHEDULE)
  assert kernel.steps == 8
  assert kernel.cycles == 3 + 8 * (3 + 2 * 16 + 1 * 3)
