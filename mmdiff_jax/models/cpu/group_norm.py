"""The parts of a group normalisation that XLA:CPU would not vectorise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.models import plain


def group_mean(x: jax.Array, groups: int) -> jax.Array:
  """See `ops.group_mean`.

  XLA:CPU fuses a repeat into all that reads it, which then looks up the group
  of each element and is not vectorised. It never fuses a product.
  """
  size = x.shape[-1] // groups
  member = np.repeat(np.eye(groups, dtype=np.float32), size, 0)
  dot = functools.partial(jnp.matmul, precision="highest")
  return dot(dot(x, member) / size, member.T)


@jax.custom_vjp
def scale(x: jax.Array, a: jax.Array) -> jax.Array:
  """See `ops.scale`."""
  return plain.scale(x, a)


def _forward(x: jax.Array, a: jax.Array) -> tuple[jax.Array, tuple]:
  return plain.scale(x, a), (x, a)


def _backward(
  residuals: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Gradients of `x` and `a`; the latter is a product for its speed.

  XLA:CPU takes up to 100 times as long for the sum of `x * grad` along one
  axis of a single element.
  """
  x, a = residuals
  return plain.scale(grad, a), jnp.einsum("n...c,n...c->nc", x, grad)


scale.defvjp(_forward, _backward)
