"""Linear maps whose gradients are fast on a CPU."""

import functools

import jax
import jax.numpy as jnp

_ROWS = 1024


def linear(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """See `ops.linear`."""
  y = _linear(x.reshape(-1, x.shape[-1]), kernel)
  return y.reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def _linear(x: jax.Array, kernel: jax.Array) -> jax.Array:
  return x @ kernel


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple]:
  return _linear(x, kernel), (x, kernel)


def _backward(
  residuals: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Gradients of the rows and of the kernel; the latter in blocks of rows.

  XLA:CPU transposes one side of `x^T grad` while it computes it: element by
  element from arrays too large for the cache, up to 9 times as slow as the
  product itself. A loop has its operands computed first and then transposes
  blocks that stay in the cache. The sum over blocks is float32.
  """
  x, kernel = residuals
  product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
  blocks = x.shape[0] // _ROWS
  whole = blocks * _ROWS
  kernel_grad = product(x[whole:].T, grad[whole:])
  if blocks:

    def add(
      total: jax.Array, rows: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, None]:
      x, grad = rows
      return total + product(x.T, grad), None

    rows = (
      x[:whole].reshape(blocks, _ROWS, -1),
      grad[:whole].reshape(blocks, _ROWS, -1),
    )
    kernel_grad, _ = jax.lax.scan(add, kernel_grad, rows)
  return grad @ kernel.T, kernel_grad.astype(kernel.dtype)


_linear.defvjp(_forward, _backward)
