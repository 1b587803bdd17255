"""Group normalisation and SiLU, with a backward pass of their own.

The backward pass keeps the input as it came, in the compute type, and the
statistics: not the float32 arrays in between, which it computes again while it
reads. There is no forward-mode derivative.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mmdiff_jax.models.remat import product


class How(NamedTuple):
  """What is static of a normalisation.

  Attributes:
    axes: that are normalised over, beside the channels of a group.
    groups: of channels.
    epsilon: added to the variance.
    activate: whether SiLU follows.
    dtype: of the result.
  """

  axes: tuple[int, ...]
  groups: int
  epsilon: float
  activate: bool
  dtype: DTypeLike


def _group_mean(x: jax.Array, groups: int) -> jax.Array:
  """Replaces each channel of `[..., C]` by the mean of its group."""
  means = x.reshape(*x.shape[:-1], groups, -1).mean(-1)
  return jnp.repeat(means, x.shape[-1] // groups, -1)


def _summed(x: jax.Array, shape: Sequence[int]) -> jax.Array:
  """Sums `x` to the shape of what was broadcast to it."""
  x = x.sum(tuple(range(x.ndim - len(shape))))
  axes = tuple(i for i, n in enumerate(shape) if n == 1 and x.shape[i] > 1)
  return x.sum(axes, keepdims=True)


def _varies(gain: jax.Array, axes: Sequence[int]) -> bool:
  """Whether a gain differs along the axes that are normalised over."""
  return any(gain.ndim > 1 and gain.shape[axis] > 1 for axis in axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def normalise(
  how: How, x: jax.Array, gain: jax.Array, bias: jax.Array
) -> jax.Array:
  """See `ops.normalise`."""
  return _forward(how, x, gain, bias)[0]


def _forward(
  how: How, x: jax.Array, gain: jax.Array, bias: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  wide = x.astype(jnp.float32)
  # Both moments from one reading.
  mean = _group_mean(wide.mean(how.axes, keepdims=True), how.groups)
  square = (wide * wide).mean(how.axes, keepdims=True)
  variance = _group_mean(square, how.groups) - mean * mean
  inverse = jax.lax.rsqrt(jnp.maximum(variance, 0.0) + how.epsilon)
  mean, inverse = product(mean), product(inverse)
  a = inverse * gain
  y = wide * a + (bias - mean * a)
  if how.activate:
    y = jax.nn.silu(y)
  return y.astype(how.dtype), (x, gain, bias, mean, inverse)


def _backward(
  how: How, kept: tuple[jax.Array, ...], grad: jax.Array
) -> tuple[jax.Array, ...]:
  """Gradients of input, gain and bias.

  With `n = (x - mean) * inverse` and d the gradient of `gain * n + bias`, that
  of x is `inverse * (d gain - <d gain> - n <d gain n>)`, `<>` the mean over
  what is normalised together.
  """
  x, gain, bias, mean, inverse = kept
  # Or XLA keeps what the forward pass made of x.
  x = jax.lax.optimization_barrier(x)
  normal = (x.astype(jnp.float32) - mean) * inverse
  d = grad.astype(jnp.float32)
  if how.activate:
    y = normal * gain + bias
    gate = jax.nn.sigmoid(y)
    d = d * (gate * (1.0 + y * (1.0 - gate)))
  total = d.sum(how.axes, keepdims=True)
  moment = (d * normal).sum(how.axes, keepdims=True)
  count = math.prod(x.shape[axis] for axis in how.axes)
  if _varies(gain, how.axes):
    first = (d * gain).sum(how.axes, keepdims=True)
    second = (d * gain * normal).sum(how.axes, keepdims=True)
    gradients = _summed(d * normal, gain.shape), _summed(d, bias.shape)
  else:
    first, second = total * gain, moment * gain
    gradients = _summed(moment, gain.shape), _summed(total, bias.shape)
  first = _group_mean(first, how.groups) / count
  second = _group_mean(second, how.groups) / count
  dx = inverse * (d * gain - first - normal * second)
  return dx.astype(x.dtype), *gradients


normalise.defvjp(_forward, _backward)
