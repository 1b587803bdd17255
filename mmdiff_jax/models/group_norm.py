"""Group normalisation with float32 statistics."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mmdiff_jax.models import ops
from mmdiff_jax.models.normalise import How

GROUPS = 32


class GroupNorm(nn.Module):
  """Group normalisation over (channel group, every axis but the first).

  Statistics come from per-channel sums, so that the input is read once for
  both moments; they and the affine map are float32 whatever the input.

  Attributes:
    dtype: of the result.
    epsilon: added to the variance.
    kernels: see `ops`.
    activate: whether SiLU follows.
    axes: that are normalised over in place of every axis but the first.
  """

  dtype: DTypeLike = jnp.float32
  epsilon: float = 1e-5
  kernels: str = "auto"
  activate: bool = False
  axes: tuple[int, ...] | None = None

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
    gain = self.param("scale", nn.initializers.ones, (channels,))
    bias = self.param("bias", nn.initializers.zeros, (channels,))
    between = tuple(range(1, x.ndim - 1))

    def spread(v: jax.Array) -> jax.Array:
      return v if v.ndim == x.ndim else jnp.expand_dims(v, between)

    if scale is not None:
      gain, bias = gain * (1.0 + spread(scale)), bias * (1.0 + spread(scale))
    if shift is not None:
      bias = bias + spread(shift)
    axes = between if self.axes is None else self.axes
    how = How(axes, GROUPS, self.epsilon, self.activate, jnp.dtype(self.dtype))
    return ops.normalise(x, gain, bias, how, self.kernels)
