"""Building blocks of both U-Nets; all tensors are channels last.

Parameters, statistics of norms and softmax are float32; the rest is computed
in the type that each module is given as `dtype`, by the formulations that
`kernels` names (see `models.ops`).
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mmdiff_jax.models import ops
from mmdiff_jax.models.attention import On
from mmdiff_jax.models.group_norm import GroupNorm
from mmdiff_jax.models.remat import product


def _uniform(fan_in: int) -> nn.initializers.Initializer:
  """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), for weights and biases alike."""
  bound = 1.0 / math.sqrt(fan_in)

  def init(rng: jax.Array, shape, dtype=jnp.float32) -> jax.Array:
    return jax.random.uniform(rng, shape, dtype, -bound, bound)

  return init


def inherited(module: Any) -> dict[str, Any]:
  """The fields that a module hands on to the layers it is made of."""
  return {"dtype": jnp.dtype(module.dtype), "kernels": module.kernels}


class _Linear(nn.Module):
  """What linear maps of the last axis have in common."""

  features: int
  zero_init: bool = False
  dtype: DTypeLike = jnp.float32
  kernels: str = "auto"

  def _weights(self, channels: int) -> tuple[jax.Array, jax.Array]:
    """Kernel `[C, features]` and bias, in the compute type."""
    init = nn.initializers.zeros if self.zero_init else _uniform(channels)
    shape = (channels, self.features)
    kernel = self.param("kernel", init, shape).astype(self.dtype)
    return kernel, self.param("bias", init, shape[1:]).astype(self.dtype)

  def _map(self, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    y = ops.linear(x.astype(self.dtype), kernel, self.kernels)
    return product(ops.add_bias(y, bias, self.kernels))


class Dense(_Linear):
  """Linear map of the last axis: a linear layer or a 1x1 convolution."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[..., C]` to `[..., features]`."""
    return self._map(x, *self._weights(x.shape[-1]))


class QKV(_Linear):
  """The joint map to queries, keys and values, each of `features / 3` channels.

  Attributes:
    apart: computes the three by a product each, so that what needs them apart
      copies nothing.
    heads_first: number of heads whose (q, k, v) lie side by side in the
      parameters; 0 where they are three thirds q|k|v.
  """

  apart: bool = False
  heads_first: int = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
    """Maps `[..., C]` to `[..., q|k|v]`, or to the three of them."""
    kernel, bias = self._weights(x.shape[-1])
    if self.heads_first:
      kernel, bias = (
        v.reshape(*v.shape[:-1], self.heads_first, 3, -1)
        .swapaxes(-3, -2)
        .reshape(v.shape)
        for v in (kernel, bias)
      )
    if not self.apart:
      return (self._map(x, kernel, bias),)
    weights = zip(jnp.split(kernel, 3, 1), jnp.split(bias, 3), strict=True)
    return tuple(self._map(x, *one) for one in weights)


class Conv(nn.Module):
  """Same-size convolution, zero padded, over the first axes after the batch.

  Axes between those and the channels are left alone.
  """

  features: int
  kernel_size: tuple[int, ...]
  dilation: int = 1
  zero_init: bool = False
  dtype: DTypeLike = jnp.float32
  kernels: str = "auto"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[N, ..., C]` to `[N, ..., features]`."""
    shape = (*self.kernel_size, x.shape[-1], self.features)
    init = (
      nn.initializers.zeros
      if self.zero_init
      else _uniform(math.prod(shape[:-1]))
    )
    kernel = self.param("kernel", init, shape).astype(self.dtype)
    bias = self.param("bias", init, shape[-1:]).astype(self.dtype)
    x = x.astype(self.dtype)
    y = ops.convolve(x, kernel, self.dilation, self.kernels)
    return product(ops.add_bias(y, bias, self.kernels))


def timestep_embedding(t: jax.Array, width: int) -> jax.Array:
  """Sinusoidal embedding `[cos | sin]` of `t * 10000^(-i/half)`.

  Args:
    t: step indices `[B]`.
    width: even width of the embedding.

  Returns:
    float32 `[B, width]`.
  """
  half = width // 2
  frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half) / half)
  angles = t.astype(jnp.float32)[:, None] * frequencies
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


class TimeEmbedding(nn.Module):
  """Sinusoids, Linear, SiLU, Linear; float32, since it is tiny."""

  sinusoids: int
  features: int
  kernels: str = "auto"

  @nn.compact
  def __call__(self, t: jax.Array) -> jax.Array:
    """Maps step indices `[...]` to `[..., features]`."""
    h = timestep_embedding(t.reshape(-1), self.sinusoids)
    dense_0, dense_1 = (
      Dense(self.features, kernels=self.kernels, name=f"dense_{i}")
      for i in range(2)
    )
    return dense_1(nn.silu(dense_0(h))).reshape(*t.shape, -1)


def downsample(x: jax.Array, factors: Sequence[int]) -> jax.Array:
  """Average-pools `[N, ..., C]`, one factor per axis in between."""
  split = [x.shape[0]]
  for size, factor in zip(x.shape[1:-1], factors, strict=True):
    split += [size // factor, factor]
  pooled = tuple(range(2, len(split), 2))
  return x.reshape(*split, x.shape[-1]).mean(pooled)


def upsample(x: jax.Array, factors: Sequence[int]) -> jax.Array:
  """Repeats `[N, ..., C]` (nearest), one factor per axis in between."""
  for axis, factor in enumerate(factors, start=1):
    if factor > 1:
      x = jnp.repeat(x, factor, axis)
  return x


class SelfAttention(nn.Module):
  """GroupNorm, multi-head self-attention, zero-initialised map, residual.

  Attributes:
    num_heads: heads K; the channels are split evenly among them.
    heads_first: layout of the 3C channels of the joint projection: [head,
      (q,k,v), width] if true, three contiguous thirds q|k|v otherwise.
    attention: see `ops.attend`.
    dtype: compute type.
    kernels: see `ops`.
  """

  num_heads: int
  heads_first: bool = False
  attention: str | On = "auto"
  dtype: DTypeLike = jnp.float32
  kernels: str = "auto"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Mixes tokens; the norm is per sequence.

    Args:
      x: `[N, T, C]`, attention over T, or `[B, F, P, C]`, attention of each
        pixel over its frames.

    Returns:
      Array like `x`.
    """
    how = inherited(self)
    on = self.attention if isinstance(self.attention, On) else None
    in_place = on is not None and on.in_place(x.shape, self.num_heads)
    given, channels = x, x.shape[-1]
    if x.ndim == 4 and not in_place:
      x = pixels_first(x)
    h = GroupNorm(axes=(1,), **how, name="norm")(x)
    qkv = QKV(
      3 * channels,
      apart=on is not None and on.platform == "gpu",
      heads_first=self.num_heads if self.heads_first else 0,
      **how,
      name="qkv",
    )
    parts = qkv(h)
    if on is not None and in_place:
      h = on.self_attend(parts[0], self.num_heads)
    else:
      if len(parts) == 1:
        parts = tuple(jnp.split(parts[0], 3, -1))
      q, k, v = (p.reshape(*p.shape[:2], self.num_heads, -1) for p in parts)
      h = ops.attend(q, k, v, self.attention, self.kernels).reshape(x.shape)
    y = x + Dense(channels, zero_init=True, **how, name="out")(h)
    return y if x is given else frames_first(y, given.shape)


def pixels_first(x: jax.Array) -> jax.Array:
  """`[B, F, P, C]` -> `[B*P, F, C]`."""
  return x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[-1])


def frames_first(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Inverse of `pixels_first`; `shape` is that of its input."""
  batch, frames, pixels, _ = shape
  return x.reshape(batch, pixels, frames, -1).swapaxes(1, 2)
