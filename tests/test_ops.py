"""The seam between networks and backends: one value, whatever runs it.

What each operation computes is tested by tests/test_convolution.py,
test_linear.py and test_layers.py, on both sides; here is attention, and that
the right side is chosen.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax.models import attention as formulations
from mmdiff_jax.models import ops
from mmdiff_jax.models.cpu import attention
from mmdiff_jax.models.normalise import How
from tests.attention_oracle import normal, softmax_attention

# Every operation, with arguments that its two sides treat differently.
CASES = {
  "convolve": (ops.convolve, normal(2, 6, 5, 4), normal(3, 3, 4, 3)),
  "linear": (ops.linear, normal(2048, 4), normal(4, 3)),
  "normalise": (
    functools.partial(
      ops.normalise, how=How((1,), 2, 1e-5, True, np.dtype("float32"))
    ),
    normal(2, 6, 4),
    normal(4, seed=1),
    normal(2, 1, 4, seed=2),
  ),
  "attend": (ops.attend, *(normal(2, t, 2, 8, seed=t) for t in (3, 7, 7))),
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
  """Attention of a few tokens takes several tiles on a CPU."""
  monkeypatch.setattr(attention, "_TILE", 21)


def value_and_gradients(name, kernels):
  """A jitted function and its arguments."""
  function, *args = CASES[name]
  places = tuple(range(len(args)))

  def loss(*args):
    return jnp.sum(jnp.sin(function(*args, kernels=kernels)))

  return jax.jit(jax.value_and_grad(loss, places)), args


def work(lowered):
  """The operations of a lowered program that do arithmetic on many elements.

  The residuals of a branch that is not lowered are constants, spread out.
  """
  kinds = "convolution|dot_general|reduce|while|tan"
  return re.findall(rf"stablehlo\.({kinds})\b", lowered.as_text())


@pytest.mark.parametrize("name", CASES)
def test_both_sides_agree(name):
  results = []
  for kernels in ("plain", "cpu"):
    function, args = value_and_gradients(name, kernels)
    results.append(jax.tree.leaves(function(*args)))
  for plain, cpu in zip(*results, strict=True):
    np.testing.assert_allclose(plain, cpu, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
  ("platform", "side"), [("cpu", "cpu"), ("cuda", "plain"), ("tpu", "plain")]
)
def test_the_target_chooses_not_the_host(name, platform, side):
  lowered = {}
  for kernels in ops.KERNELS:
    function, args = value_and_gradients(name, kernels)
    traced = function.trace(*args)
    lowered[kernels] = work(traced.lower(lowering_platforms=(platform,)))
  assert lowered["plain"] != lowered["cpu"]
  assert lowered["auto"] == lowered[side]


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_kept_for_the_side_that_does_not_run(name):
  """Differentiating a switch saves residuals of all its branches."""
  side = "cpu" if jax.default_backend() == "cpu" else "plain"
  sizes, results = [], []
  for kernels in ("auto", side):
    function, args = value_and_gradients(name, kernels)
    compiled = function.lower(*args).compile()
    sizes.append(compiled.memory_analysis().temp_size_in_bytes)
    results.append(jax.tree.leaves(compiled(*args)))
  assert sizes[0] == sizes[1]
  for a, b in zip(*results, strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kernels", ["plain", "cpu"])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_attention_matches_its_definition(scale, kernels):
  # The larger scores would overflow exp in float32.
  q, k, v = (normal(2, t, 2, 8, seed=t) for t in (3, 7, 7))
  out = ops.attend(q * scale, k, v, kernels=kernels)
  expected = softmax_attention(q * scale, k, v)
  np.testing.assert_allclose(out, expected, atol=1e-5 * scale)


@pytest.mark.parametrize("rows", [1, 4])
def test_tiles_change_neither_attention_nor_its_gradient(monkeypatch, rows):
  q, k, v = (normal(3, t, 2, 8, seed=t) for t in (5, 7, 7))

  def loss(*qkv):
    return jnp.sum(jnp.sin(ops.attend(*qkv, kernels="cpu")))

  gradients = functools.partial(jax.value_and_grad(loss, (0, 1, 2)), q, k, v)
  monkeypatch.setattr(attention, "_TILE", 2**20)
  whole = gradients()
  # Six products of 5 x 7 scores, `rows` at once: 4 leaves a remainder.
  monkeypatch.setattr(attention, "_TILE", rows * 5 * 7)
  tiled = gradients()
  assert "scan" in str(jax.make_jaxpr(loss)(q, k, v))
  for a, b in zip(*map(jax.tree.leaves, (whole, tiled)), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
  ("dtype", "width", "kernels", "message"),
  [
    ("float32", 8, "auto", "16-bit type, dtype is 'float32'"),
    ("bfloat16", 12, "auto", "multiple of 8.*these have 12"),
    ("bfloat16", 136, "plain", "at most 128.*these have 136"),
    ("bfloat16", 8, "cpu", "model.kernels is 'cpu'"),
  ],
)
def test_cudnn_where_it_cannot_run_is_refused(dtype, width, kernels, message):
  x = jnp.zeros((1, 4, 1, width), dtype)
  with pytest.raises(ValueError, match=f"{message}.*'auto' or 'xla'"):
    ops.attend(x, x, x, "cudnn", kernels)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="cuDNN may be there")
def test_cudnn_where_there_is_none_is_refused():
  x = jnp.zeros((1, 4, 1, 8), jnp.bfloat16)
  with pytest.raises((ValueError, NotImplementedError)):
    jax.jit(lambda x: ops.attend(x, x, x, "cudnn")).lower(x)


def test_cudnn_is_for_cuda_alone(monkeypatch):
  """A stand-in for the kernel shows where it is lowered."""
  monkeypatch.setattr(formulations, "cudnn", lambda q, k, v: jnp.tan(q))
  x = jnp.zeros((1, 4, 1, 8), jnp.bfloat16)

  def is_used(platform, kind, kernels="auto", x=x):
    traced = jax.jit(lambda x: ops.attend(x, x, x, kind, kernels)).trace(x)
    return "tan" in work(traced.lower(lowering_platforms=(platform,)))

  assert is_used("cuda", "auto")
  assert is_used("cuda", "auto", "plain")
  assert not is_used("cuda", "auto", "cpu")
  assert not is_used("cuda", "xla")
  assert not is_used("cuda", "auto", x=x.astype(jnp.float32))
  for platform in ("cpu", "tpu"):
    assert not is_used(platform, "auto")
    assert not is_used(platform, "auto", "plain")


def test_unknown_kernels_are_refused():
  with pytest.raises(ValueError, match="kernels='gpu' is unknown.*'plain'"):
    ops.linear(normal(2, 3), normal(3, 4), kernels="gpu")
