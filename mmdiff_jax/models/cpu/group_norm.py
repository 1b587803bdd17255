"""The parts of a group normalisation that XLA:CPU would not vectorise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.models import normalise as plain
from mmdiff_jax.models.normalise import How


def normalise(
  how: How, x: jax.Array, gain: jax.Array, bias: jax.Array
) -> jax.Array:
  """See `ops.normalise`."""
  varies = gain.ndim == x.ndim and max(gain.shape[1:-1]) > 1
  if varies or how.axes != tuple(range(1, x.ndim - 1)):
    return plain.normalise(how, x, gain, bias)
  wide = x.astype(jnp.float32)
  moments = jnp.stack([wide.mean(how.axes), (wide * wide).mean(how.axes)])
  mean, square = group_mean(moments, how.groups)
  variance = jnp.maximum(square - mean * mean, 0.0)
  inverse = jax.lax.rsqrt(variance + how.epsilon)
  gain, bias = (_by_channel(v, x.ndim) for v in (gain, bias))
  a = inverse * gain
  b = bias - mean * a
  y = (scale(wide, a) + jnp.expand_dims(b, how.axes)).astype(how.dtype)
  return jax.nn.silu(y) if how.activate else y


def _by_channel(v: jax.Array, ndim: int) -> jax.Array:
  """`[C]` as it is, `[N, 1, ..., C]` as `[N, C]`."""
  return v.reshape(v.shape[0], -1) if v.ndim == ndim else v


def group_mean(x: jax.Array, groups: int) -> jax.Array:
  """Replaces each channel of `[..., C]` by the mean of its group.

  XLA:CPU fuses a repeat into all that reads it, which then looks up the group
  of each element and is not vectorised. It never fuses a product.
  """
  size = x.shape[-1] // groups
  member = np.repeat(np.eye(groups, dtype=np.float32), size, 0)
  dot = functools.partial(jnp.matmul, precision="highest")
  return dot(dot(x, member) / size, member.T)


@jax.custom_vjp
def scale(x: jax.Array, a: jax.Array) -> jax.Array:
  """Multiplies `[N, ..., C]` by `[N, C]`."""
  return x * _spread(a, x.ndim)


def _spread(a: jax.Array, ndim: int) -> jax.Array:
  return jnp.expand_dims(a, tuple(range(1, ndim - 1)))


def _forward(x: jax.Array, a: jax.Array) -> tuple[jax.Array, tuple]:
  return x * _spread(a, x.ndim), (x, a)


def _backward(
  residuals: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Gradients of `x` and `a`; the latter is a product for its speed.

  XLA:CPU takes up to 100 times as long for the sum of `x * grad` along one
  axis of a single element.
  """
  x, a = residuals
  return grad * _spread(a, grad.ndim), jnp.einsum("n...c,n...c->nc", x, grad)


scale.defvjp(_forward, _backward)
