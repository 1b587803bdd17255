"""Building blocks of both U-Nets; all tensors are channels last.

Parameters, statistics of norms and softmax are float32; the rest is computed
in the type that each module is given as `dtype`.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mmdiff_jax.models.convolution import convolve
from mmdiff_jax.models.group_norm import GroupNorm
from mmdiff_jax.models.linear import linear

_CUDNN_TYPES = (jnp.bfloat16, jnp.float16)
_CUDNN_MAX_WIDTH = 128
# Attention scores that are computed at once on a CPU: 4 MiB.
_CPU_TILE = 2**20


def _uniform(fan_in: int) -> nn.initializers.Initializer:
  """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), for weights and biases alike."""
  bound = 1.0 / math.sqrt(fan_in)

  def init(rng: jax.Array, shape, dtype=jnp.float32) -> jax.Array:
    return jax.random.uniform(rng, shape, dtype, -bound, bound)

  return init


class Dense(nn.Module):
  """Linear map of the last axis: a linear layer or a 1x1 convolution."""

  features: int
  zero_init: bool = False
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[..., C]` to `[..., features]`."""
    shape = (x.shape[-1], self.features)
    init = nn.initializers.zeros if self.zero_init else _uniform(shape[0])
    kernel = self.param("kernel", init, shape).astype(self.dtype)
    bias = self.param("bias", init, shape[1:]).astype(self.dtype)
    return linear(x.astype(self.dtype), kernel) + bias


class Conv(nn.Module):
  """Same-size convolution, zero padded, over the first axes after the batch.

  Axes between those and the channels are left alone.
  """

  features: int
  kernel_size: tuple[int, ...]
  dilation: int = 1
  zero_init: bool = False
  dtype: DTypeLike = jnp.float32

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
    y = convolve(x.astype(self.dtype), kernel, self.dilation)
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

  @nn.compact
  def __call__(self, t: jax.Array) -> jax.Array:
    """Maps step indices `[B]` to `[B, features]`."""
    h = timestep_embedding(t, self.sinusoids)
    h = nn.silu(Dense(self.features, name="dense_0")(h))
    return Dense(self.features, name="dense_1")(h)


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


def cudnn_obstacle(width: int, dtype: DTypeLike) -> str | None:
  """Says why cuDNN's flash attention cannot run here; None if it can.

  Args:
    width: channels per head.
    dtype: compute type.
  """
  if jax.default_backend() != "gpu":
    return f"it needs a GPU, the backend is {jax.default_backend()!r}"
  if jnp.dtype(dtype) not in map(jnp.dtype, _CUDNN_TYPES):
    return f"it needs a 16-bit type, dtype is {jnp.dtype(dtype).name!r}"
  if width % 8 or width > _CUDNN_MAX_WIDTH:
    return (
      f"heads must be a multiple of 8 and at most {_CUDNN_MAX_WIDTH} "
      f"channels wide, these have {width}"
    )
  return None


def attend(
  q: jax.Array, k: jax.Array, v: jax.Array, kernel: str = "auto"
) -> jax.Array:
  """Softmax attention, `softmax(q k^T / sqrt(D)) v`.

  Args:
    q: queries `[N, T, K, D]`.
    k: keys `[N, S, K, D]`.
    v: values `[N, S, K, D]`.
    kernel: "auto" (cuDNN where possible), "xla" or "cudnn".

  Returns:
    `[N, T, K, D]`.

  Raises:
    ValueError: "cudnn" was asked for where it cannot run.
  """
  width = q.shape[-1]
  obstacle = cudnn_obstacle(width, q.dtype)
  if kernel == "cudnn" and obstacle:
    raise ValueError(
      f"model.attention='cudnn' is impossible here: {obstacle}. "
      "Use 'auto' or 'xla'."
    )
  if kernel != "xla" and not obstacle:
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
  # Heads ahead of tokens: every head of every element is one matrix product.
  q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
  n, heads, queries, _ = q.shape
  rows = max(1, _CPU_TILE // (queries * k.shape[2]))
  if jax.default_backend() != "cpu" or n * heads <= rows:
    return _softmax_average((q, k, v)).swapaxes(1, 2)
  # On a CPU the scores must stay in the cache, which makes this 3x faster; the
  # backward pass computes them again rather than read them from memory.
  tile = jax.checkpoint(_softmax_average)
  parts = tuple(x.reshape(n * heads, *x.shape[2:]) for x in (q, k, v))
  # A plain matrix product is faster than a batch of one.
  out = jax.lax.map(tile, parts, batch_size=rows if rows > 1 else None)
  return out.reshape(q.shape).swapaxes(1, 2)


def _softmax_average(qkv: tuple[jax.Array, ...]) -> jax.Array:
  """`softmax(q k^T / sqrt(D)) v` of matrices `[..., T, D]`."""
  q, k, v = qkv
  scale = q.shape[-1] ** -0.25
  scores = jnp.matmul(
    q * scale, (k * scale).mT, preferred_element_type=jnp.float32
  )
  peak = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
  weights = jnp.exp(scores - peak)
  # The division comes after the second product: T x D instead of T x S
  # elements.
  total = weights.sum(-1, keepdims=True)
  out = jnp.matmul(
    weights.astype(v.dtype), v, preferred_element_type=jnp.float32
  )
  return (out / total).astype(v.dtype)


class SelfAttention(nn.Module):
  """GroupNorm, multi-head self-attention, zero-initialised map, residual.

  Attributes:
    num_heads: heads K; the channels are split evenly among them.
    heads_first: layout of the 3C channels of the joint projection: [head,
      (q,k,v), width] if true, three contiguous thirds q|k|v otherwise.
    kernel: see `attend`.
    dtype: compute type.
  """

  num_heads: int
  heads_first: bool = False
  kernel: str = "auto"
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Mixes the tokens of `[N, T, C]`; the norm is per element of N."""
    n, tokens, channels = x.shape
    h = GroupNorm(self.dtype, name="norm")(x)
    h = Dense(3 * channels, dtype=self.dtype, name="qkv")(h)
    if self.heads_first:
      h = h.reshape(n, tokens, self.num_heads, 3, -1).swapaxes(2, 3)
    else:
      h = h.reshape(n, tokens, 3, self.num_heads, -1)
    h = attend(*(x.squeeze(2) for x in jnp.split(h, 3, 2)), self.kernel)
    h = h.reshape(n, tokens, channels)
    return x + Dense(channels, True, self.dtype, name="out")(h)
