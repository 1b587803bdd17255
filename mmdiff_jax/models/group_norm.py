"""Group normalisation with float32 statistics."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mmdiff_jax.models import ops

GROUPS = 32


class GroupNorm(nn.Module):
  """Group normalisation over (channel group, every axis but the first).

  Statistics come from per-channel sums, so that the input is read once for
  both moments; they and the affine map are float32 whatever the input.
  """

  dtype: DTypeLike = jnp.float32
  epsilon: float = 1e-5
  kernels: str = "auto"

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    scale: jax.Array | None = None,
    shift: jax.Array | None = None,
  ) -> jax.Array:
    """Normalises, then applies `y * (1 + scale) + shift` where given.

    Args:
      x: `[N, ..., C]`.
      scale: `[N, C]`, an array that broadcasts against x, or None.
      shift: likewise.

    Returns:
      Array like `x`, of type `dtype`.
    """
    channels = x.shape[-1]
    gamma = self.param("scale", nn.initializers.ones, (channels,))
    beta = self.param("bias", nn.initializers.zeros, (channels,))
    x = x.astype(jnp.float32)
    axes = tuple(range(1, x.ndim - 1))

    moments = jnp.stack([x.mean(axes), (x * x).mean(axes)])
    mean, square = ops.group_mean(moments, GROUPS, self.kernels)
    variance = jnp.maximum(square - mean * mean, 0.0)
    inverse = jax.lax.rsqrt(variance + self.epsilon)
    a = inverse * gamma
    b = beta - mean * a
    varies = scale is not None and scale.ndim == x.ndim
    if varies:
      a, b = jnp.expand_dims(a, axes), jnp.expand_dims(b, axes)
    if scale is not None:
      a, b = a * (1.0 + scale), b * (1.0 + scale)
    if shift is not None:
      b = b + shift
    if varies:
      y = x * a + b
    else:
      y = ops.scale(x, a, self.kernels) + jnp.expand_dims(b, axes)
    return y.astype(self.dtype)
