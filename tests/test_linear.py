"""Linear maps and their gradients, in each formulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax.models import ops
from mmdiff_jax.models.cpu import linear

SIDES = pytest.mark.parametrize("kernels", ["plain", "cpu"])


# Rows of a block: none is full, two are and a rest is left, all are.
@pytest.mark.parametrize("block", [64, 10, 8])
@SIDES
def test_map_and_gradients_are_matrix_products(monkeypatch, block, kernels):
  monkeypatch.setattr(linear, "_ROWS", block)
  rng = np.random.default_rng(0)
  x, kernel = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((5, 6))
  grad = rng.standard_normal((2, 3, 4, 6))

  arguments = jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)
  with jax.default_matmul_precision("highest"):
    out, vjp = jax.vjp(lambda x, k: ops.linear(x, k, kernels), *arguments)
    x_grad, kernel_grad = vjp(jnp.asarray(grad, jnp.float32))

  np.testing.assert_allclose(out, x @ kernel, atol=1e-5)
  np.testing.assert_allclose(x_grad, grad @ kernel.T, atol=1e-5)
  expected = x.reshape(-1, 5).T @ grad.reshape(-1, 6)
  np.testing.assert_allclose(kernel_grad, expected, atol=1e-5)


def test_gradient_of_half_precision_does_not_stall(monkeypatch):
  # Sums of ones in bfloat16 would end at 256.
  monkeypatch.setattr(linear, "_ROWS", 1)
  x, kernel = jnp.ones((1024, 2), jnp.bfloat16), jnp.ones((2, 3), jnp.bfloat16)
  grad = jax.grad(lambda k: ops.linear(x, k, "cpu").sum())(kernel)
  assert grad.dtype == jnp.bfloat16
  np.testing.assert_array_equal(np.float32(grad), 1024.0)
