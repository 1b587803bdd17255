"""Attention with bounded scores: the values of the definition, everywhere."""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax.devices.mesh import make_mesh
from mmdiff_jax.models import attention, ops, plain
from mmdiff_jax.task import make_task
from tests.attention_oracle import normal, softmax_attention
from tests.conftest import make_tiny_config


def largest_value(function, *args):
  """Elements of the largest floating-point value within a traced function."""

  def visit(jaxpr):
    for eqn in jaxpr.eqns:
      yield from (v.aval.size for v in eqn.outvars)
      for value in eqn.params.values():
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns"):
          yield from visit(inner)

  return max(visit(jax.make_jaxpr(function)(*args).jaxpr))


def both_ways(attend, q, k, v):
  """Values and gradients."""

  def loss(*qkv):
    return jnp.sum(jnp.sin(attend(*qkv)))

  return [attend(q, k, v), *jax.grad(loss, (0, 1, 2))(q, k, v)]


@pytest.mark.parametrize(
  "attend",
  [
    functools.partial(attention.tiled, tile=2 * 2 * 5 * 7),
    functools.partial(attention.tiled, tile=2 * 7),
    functools.partial(attention.tiled, tile=1),
    attention.lanes,
    functools.partial(attention.lanes, tile=2 * 2 * 5 * 7),
    functools.partial(attention.lanes, tile=2 * 7),
    attention.elementwise,
    attention.packed,
  ],
  ids=[
    "elements",
    "queries",
    "one query",
    "lanes",
    "lanes in parts",
    "lanes left to tiles",
    "elementwise",
    "packed",
  ],
)
def test_formulations_match_the_definition_and_plain_gradients(attend):
  q, k, v = (normal(6, t, 2, 8, seed=t) for t in (5, 7, 7))
  out, *grads = both_ways(attend, q, k, v)
  np.testing.assert_allclose(out, softmax_attention(q, k, v), atol=1e-5)
  expected = both_ways(lambda *x: ops.attend(*x, "xla", "plain"), q, k, v)
  for a, b in zip([out, *grads], expected, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("attend", [attention.lanes, attention.elementwise])
def test_own_gradients_hold_for_large_scores_and_in_half_precision(attend):
  q, k, v = (normal(256, 5, 2, 8, seed=t) for t in range(3))

  def plain(*qkv):
    return ops.attend(*qkv, "xla", "plain")

  # Softmax is all but one key; exp() of such scores alone would overflow.
  large = both_ways(attend, 20 * q, 20 * k, v)
  for a, b in zip(large, both_ways(plain, 20 * q, 20 * k, v), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-3)
  half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
  exact = both_ways(plain, *(x.astype(jnp.float32) for x in half))
  for a, b in zip(both_ways(attend, *half), exact, strict=True):
    assert a.dtype == jnp.bfloat16
    np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("formulation", [attention.tiled, attention.lanes])
def test_scores_are_bounded_forward_and_backward(formulation):
  q, k, v = (normal(8, 64, 2, 4, seed=t) for t in range(3))
  scores, tile = 8 * 2 * 64 * 64, 64 * 64
  plain = functools.partial(both_ways, lambda *x: ops.attend(*x, "xla"))
  tiled = functools.partial(
    both_ways, functools.partial(formulation, tile=tile)
  )
  assert largest_value(plain, q, k, v) == scores
  # Nothing but the arrays that came in and their gradients is larger.
  assert largest_value(tiled, q, k, v) == max(tile, q.size)


@pytest.mark.parametrize(
  ("platform", "tokens", "chosen"),
  [
    ("tpu", 16, attention.elementwise),
    ("tpu", 64, attention.packed),
    ("tpu", 1024, attention.lanes),  # Eight channels fill no register.
    ("gpu", 1024, attention.tiled),  # float32 is not for cuDNN.
  ],
)
def test_auto_follows_platform_type_and_shape(platform, tokens, chosen):
  x = jax.ShapeDtypeStruct((2, tokens, 1, 8), jnp.float32)
  assert attention.On("auto", platform).choose(x, x, x) is chosen
  assert attention.On("xla", platform).choose(x, x, x) is None


def test_cudnn_is_chosen_where_it_can_be_traced(monkeypatch):
  monkeypatch.setattr(attention, "cudnn_refusal", lambda q, k, v: None)
  x = jax.ShapeDtypeStruct((2, 16, 1, 8), jnp.bfloat16)
  assert attention.On("auto", "gpu").choose(x, x, x) is attention.cudnn


@pytest.mark.parametrize(
  ("tokens", "keys", "chosen"),
  [
    (24, 512, attention.cudnn),
    # The gradient of cuDNN's attention takes no odd number of tokens.
    (25, 512, attention.tiled),
    (512, 25, attention.tiled),
  ],
)
def test_what_is_chosen_on_a_gpu_has_a_gradient(
  monkeypatch, tokens, keys, chosen
):
  from jax._src.cudnn import fused_attention_stablehlo as fused

  # Tracing asks whether there is a cuDNN.
  monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
  monkeypatch.setattr(fused, "check_compute_capability", lambda _: True)
  q, k = (
    jax.ShapeDtypeStruct((2, count, 4, 32), jnp.bfloat16)
    for count in (tokens, keys)
  )
  attend = attention.On("auto", "gpu").choose(q, k, k)
  assert attend is chosen
  jax.eval_shape(
    jax.grad(lambda *args: attend(*args).sum(), (0, 1, 2)), q, k, k
  )


def test_cudnn_never_gets_more_sequences_than_it_takes(monkeypatch):
  sizes = []

  def stand_in(q, k, v, implementation):
    assert implementation == "cudnn"
    sizes.append(len(q))
    return plain.attend(q, k, v)

  monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
  q, k, v = (normal(12, 5, 2, 8, seed=seed) for seed in range(3))
  expected = softmax_attention(q, k, v)
  for limit, expected_sizes in ((12, {12}), (11, {6}), (5, {4})):
    monkeypatch.setattr(attention, "_CUDNN_MAX_BATCH", limit)
    sizes.clear()
    np.testing.assert_allclose(attention.cudnn(q, k, v), expected, atol=1e-5)
    assert set(sizes) == expected_sizes
  # 64 clips of the release's size, temporal attention at half resolution.
  monkeypatch.undo()
  assert 64 * 32 * 32 == attention._CUDNN_MAX_BATCH + 1


FOUR_DEVICES = """
import jax, numpy as np
from mmdiff_jax.devices import sharding
from mmdiff_jax.devices.mesh import make_mesh
from mmdiff_jax.models import attention
from tests.attention_oracle import normal, softmax_attention
mesh = make_mesh(2, 2)
q, k, v = (normal(8, 5, 2, 8, seed=t) for t in range(3))
split = sharding.batch_sharded(mesh)
for name in ("packed", "tiled", "lanes", "elementwise"):
  on = attention.On(name, "tpu", mesh)
  compiled = jax.jit(on, in_shardings=split, out_shardings=split).lower(
    q, k, v).compile()
  assert "all-" not in compiled.as_text(), name
  out = compiled(*(jax.device_put(x, split) for x in (q, k, v)))
  np.testing.assert_allclose(out, softmax_attention(q, k, v), atol=1e-5)
"""


def test_devices_attend_for_themselves():
  root = pathlib.Path(__file__).parents[1]
  flag = "--xla_force_host_platform_device_count=4"
  result = subprocess.run(
    [sys.executable, "-c", FOUR_DEVICES],
    cwd=root,
    env=os.environ | {"PYTHONPATH": str(root), "XLA_FLAGS": flag},
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr[-3000:]


def test_the_task_decides_by_the_devices_it_is_made_for(monkeypatch):
  config = make_tiny_config()
  mesh = make_mesh()
  assert make_task(config, mesh).network.module.attention == "auto"
  monkeypatch.setattr("mmdiff_jax.task.platform_of", lambda mesh: "tpu")
  chosen = make_task(config, mesh).network.module.attention
  assert (chosen.name, chosen.platform) == ("auto", "tpu")


def test_a_kernel_of_tpus_is_refused_elsewhere():
  config = make_tiny_config()
  config.model.attention = "pallas"
  with pytest.raises(ValueError, match="'pallas' is for TPUs, not for a cpu"):
    make_task(config, make_mesh())


def test_a_kernel_of_gpus_is_refused_on_tpus(monkeypatch):
  config = make_tiny_config()
  config.model.update(attention="cudnn", dtype="bfloat16")
  monkeypatch.setattr("mmdiff_jax.task.platform_of", lambda mesh: "tpu")
  with pytest.raises(ValueError, match="'cudnn' is for GPUs, not for a tpu"):
    make_task(config, make_mesh())
