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


def _uniform(fan_in: int) -> nn.initializers.Initializer:
  """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), for weights and biases alike."""
  bound = 1.0 / math.sqrt(fan_in)

  def init(rng: jax.Array, shape, dtype=jnp.float32) -> jax.Array:
    return jax.random.uniform(rng, shape, dtype, -bound, bound)

  return init


def inherited(module: Any) -> dict[str, Any]:
  """The fields that a module hands on to the layers it is made of."""
  return {"dtype": jnp.dtype(module.dtype), "kernels": module.kernels}


class Dense(nn.Module):
  """Linear map of the last axis: a linear layer or a 1x1 convolution."""

  features: int
  zero_init: bool = False
  dtype: DTypeLike = jnp.float32
  kernels: str = "auto"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[..., C]` to `[..., features]`."""
    shape = (x.shape[-1], self.features)
    init = nn.initializers.zeros if self.zero_init else _uniform(shape[0])
    kernel = self.param("kernel", init, shape).astype(self.dtype)
    bias = self.param("bias", init, shape[1:]).astype(self.dtype)
    return ops.linear(x.astype(self.dtype), kernel, self.kernels) + bias


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
    return y + bias


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
    """Mixes the tokens of `[N, T, C]`; the norm is per element of N."""
    n, tokens, channels = x.shape
    how = inherited(self)
    h = GroupNorm(**how, name="norm")(x)
    h = Dense(3 * channels, **how, name="qkv")(h)
    if self.heads_first:
      h = h.reshape(n, tokens, self.num_heads, 3, -1).swapaxes(2, 3)
    else:
      h = h.reshape(n, tokens, 3, self.num_heads, -1)
    q, k, v = (x.squeeze(2) for x in jnp.split(h, 3, 2))
    h = ops.attend(q, k, v, self.attention, self.kernels)
    h = h.reshape(n, tokens, channels)
    return x + Dense(channels, zero_init=True, **how, name="out")(h)
