"""Convolutions and their gradients, in each formulation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax.models.ops import convolve

pytestmark = pytest.mark.parametrize("kernels", ["plain", "cpu"])

# Shape of the input, sizes of the kernel, dilation.
CASES = [
  ((2, 9, 4), (3,), 1),
  ((2, 9, 4), (3,), 4),
  ((2, 5, 3, 2, 4), (3,), 1),
  ((2, 5, 3, 4), (3,), 2),
  ((2, 6, 5, 4), (3, 3), 1),
  ((2, 6, 5, 4), (5, 3), 1),
  ((2, 6, 5, 4), (3, 3), 2),
  ((1, 4, 3, 5, 4), (3, 3, 3), 1),
]


def draw(shape, sizes, features=3):
  rng = np.random.default_rng(0)
  x = rng.standard_normal(shape)
  kernel = rng.standard_normal((*sizes, shape[-1], features))
  return x.astype(np.float32), kernel.astype(np.float32)


def by_hand(x, kernel, dilation):
  """Sum over the taps of shifted inputs, zeros beyond the borders."""
  sizes = kernel.shape[:-2]
  halos = [(size - 1) // 2 * dilation for size in sizes]
  pads = [(0, 0), *((h, h) for h in halos)]
  x_padded = np.pad(x, pads + [(0, 0)] * (x.ndim - len(pads)))
  out = 0.0
  for tap in itertools.product(*map(range, sizes)):
    cut = tuple(
      slice(i * dilation, i * dilation + size)
      for i, size in zip(tap, x.shape[1:], strict=False)
    )
    out = out + x_padded[(slice(None), *cut)] @ kernel[tap]
  return out


@pytest.mark.parametrize(("shape", "sizes", "dilation"), CASES)
def test_convolution_sums_shifted_inputs(shape, sizes, dilation, kernels):
  x, kernel = draw(shape, sizes)
  with jax.default_matmul_precision("highest"):
    out = convolve(jnp.asarray(x), jnp.asarray(kernel), dilation, kernels)
  np.testing.assert_allclose(out, by_hand(x, kernel, dilation), atol=1e-4)


@pytest.mark.parametrize(("shape", "sizes", "dilation"), CASES)
def test_gradients_are_the_adjoints(shape, sizes, dilation, kernels):
  """<grad, conv(x, k)> is <d/dk, k> and <d/dx, x>: it is linear in both."""
  x, kernel = draw(shape, sizes)
  out, vjp = jax.vjp(lambda x, k: convolve(x, k, dilation, kernels), x, kernel)
  grad = np.random.default_rng(1).standard_normal(out.shape)
  x_grad, kernel_grad = vjp(jnp.asarray(grad, jnp.float32))
  others = draw(shape, sizes)
  for i, other in enumerate(others):
    other = np.random.default_rng(2 + i).standard_normal(other.shape)
    pair = (other, kernel) if i == 0 else (x, other)
    expected = np.vdot(grad, by_hand(*pair, dilation))
    np.testing.assert_allclose(
      np.vdot((x_grad, kernel_grad)[i], other), expected, rtol=1e-4, atol=1e-3
    )
