"""Operations are counted from what was traced, as by hand."""

import types

import jax
import jax.numpy as jnp
import pytest

from mmdiff_jax.models import attention
from mmdiff_jax.training.flops import count_flops, peak_flops


def count(function, *args):
  return count_flops(jax.make_jaxpr(function)(*args).jaxpr)


def test_products_and_convolutions_count_two_per_multiply_add():
  a, b = jnp.ones((5, 7)), jnp.ones((7, 3))
  assert count(jnp.matmul, a, b) == 2 * 5 * 7 * 3
  x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 6))

  def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  assert count(convolve, x, kernel) == 2 * (2 * 8 * 8 * 6) * (3 * 3 * 4)
  # The gradients of both arguments, and the value, whose graph it needs not.
  loss = jax.value_and_grad(lambda b: (a @ b).sum())
  assert count(loss, b) == 2 * (2 * 5 * 7 * 3)


def test_loops_count_as_often_as_they_run():
  a = jnp.ones((4, 4))

  def repeated(a):
    return jax.lax.scan(lambda x, _: (x @ a, None), a, None, length=9)[0]

  assert count(jax.jit(repeated), a) == 9 * 2 * 4**3


@pytest.mark.parametrize(
  ("kind", "peak"),
  [("NVIDIA H100 80GB HBM3", 989e12), ("TPU v5 lite", 197e12), ("cpu", None)],
)
def test_peaks_are_known_by_the_kind_of_device(kind, peak):
  assert peak_flops(types.SimpleNamespace(device_kind=kind)) == peak


def test_attention_kernels_count_their_products(monkeypatch):
  from jax._src.cudnn import fused_attention_stablehlo as fused

  # Tracing asks whether there is a cuDNN; compiling is not needed here.
  monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
  monkeypatch.setattr(fused, "check_compute_capability", lambda _: True)
  q = jnp.zeros((2, 64, 4, 32), jnp.bfloat16)
  k = jnp.zeros((2, 128, 4, 32), jnp.bfloat16)
  forward = 2 * 2 * (2 * 4 * 64 * 128 * 32)
  assert count(attention.cudnn, q, k, k) == forward

  def loss(q, k, v):
    return attention.cudnn(q, k, v).sum()

  # Scores and four gradients more.
  assert count(jax.grad(loss, (0, 1, 2)), q, k, k) == forward * (2 + 5) / 2
  q = jnp.zeros((2, 256, 4, 32))
  assert count(attention.pallas, q, q, q) == 2 * 2 * (2 * 4 * 256 * 256 * 32)
