"""Residual blocks of the coupled U-Net: both streams, one time embedding."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mmdiff_jax.models import layers, levels, ops
from mmdiff_jax.models.attention import On

VIDEO_FACTORS = (1, 2, 2)
AUDIO_FACTORS = (4,)


class VideoConv(nn.Module):
  """The "2D+1D" convolution: 3x3 over space, then 3 over time."""

  features: int
  dtype: DTypeLike = jnp.float32
  kernels: str = "auto"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, F, H, W, C]` to `[B, F, H, W, features]`."""
    shape = (*x.shape[:-1], self.features)
    how = layers.inherited(self)
    # Frames folded into the batch, then pixels into one axis beside time: two
    # 2-D convolutions are up to 3x faster on CPU than 3-D ones.
    x = x.reshape(-1, *x.shape[2:])
    x = layers.Conv(self.features, (3, 3), **how, name="spatial")(x)
    x = x.reshape(*shape[:2], -1, self.features)
    x = layers.Conv(self.features, (3,), **how, name="temporal")(x)
    return x.reshape(shape)


class VideoHead(nn.Module):
  """Zero-initialised 3x3x3 convolution to few channels.

  The taps over time become output channels of a 2-D convolution, whose
  results are then added with one frame's offset: 20x faster on CPU than the
  3-D convolution to 3 channels.
  """

  # Not a field: a head always starts at zero.
  zero_init = True
  features: int
  dtype: DTypeLike = jnp.float32
  kernels: str = "auto"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, F, H, W, C]` to `[B, F, H, W, features]`."""
    batch, frames, height, width, channels = x.shape
    shape = (3, 3, 3, channels, self.features)
    kernel = self.param("kernel", nn.initializers.zeros, shape)
    bias = self.param("bias", nn.initializers.zeros, shape[-1:])
    kernel = kernel.transpose(1, 2, 3, 0, 4).reshape(3, 3, channels, -1)
    x = x.astype(self.dtype).reshape(-1, height, width, channels)
    y = ops.convolve(x, kernel.astype(self.dtype), kernels=self.kernels)
    y = y.reshape(batch, frames, height, width, 3, self.features)
    y = jnp.pad(y, [(0, 0), (1, 1)] + [(0, 0)] * 4)
    taps = [y[:, i : i + frames, :, :, i] for i in range(3)]
    return taps[0] + taps[1] + taps[2] + bias.astype(self.dtype)


class MMBlock(nn.Module):
  """Residual block of both streams, with optional self-attention.

  Attributes:
    features: output channels.
    dilation: of the audio convolution.
    resample: "", "down" or "up".
    video_attention: spatial, then temporal self-attention at the end.
    audio_attention: audio self-attention at the end.
    num_heads: heads of the self-attentions.
    use_scale_shift_norm: the time embedding scales and shifts the second
      norm's output; otherwise it is added ahead of that norm.
    dropout: rate; 0 when not training.
    attention: see `ops.attend`.
    attention_cls: class of the self-attention (plain or rematerialised).
    dtype: compute type.
    kernels: see `ops`.
  """

  features: int
  dilation: int = 1
  resample: str = ""
  video_attention: bool = False
  audio_attention: bool = False
  num_heads: int = 4
  use_scale_shift_norm: bool = True
  dropout: float = 0.0
  attention: str | On = "auto"
  attention_cls: Callable[..., nn.Module] = layers.SelfAttention
  dtype: DTypeLike = jnp.float32
  kernels: str = "auto"

  @nn.compact
  def __call__(
    self,
    video: jax.Array,
    audio: jax.Array,
    emb: jax.Array | dict[str, jax.Array],
  ) -> tuple[jax.Array, jax.Array]:
    """Applies the block.

    Args:
      video: `[B, F, H, W, C]`.
      audio: `[B, L, C]`.
      emb: time embedding `[B, E]`, or by stream `[B, E]` or `[B, F, E]`.

    Returns:
      Both streams with `features` channels, resampled as configured.
    """
    width = self.features * (2 if self.use_scale_shift_norm else 1)
    # One linear map serves both streams, whatever their levels.
    dense = layers.Dense(width, kernels=self.kernels, name="embedding")
    emb = jax.tree.map(lambda e: dense(nn.silu(e)), emb)
    by_stream = emb if isinstance(emb, dict) else {"video": emb, "audio": emb}
    video = self._stream(video, by_stream["video"], "video", VIDEO_FACTORS)
    audio = self._stream(audio, by_stream["audio"], "audio", AUDIO_FACTORS)
    if self.video_attention:
      video = self._video_attention(video)
    if self.audio_attention:
      audio = self._attention("audio_attention")(audio)
    return video, audio

  def _stream(
    self, x: jax.Array, emb: jax.Array, name: str, factors: tuple[int, ...]
  ) -> jax.Array:
    how = layers.inherited(self)
    norm_in, norm_out = (
      layers.GroupNorm(activate=True, **how, name=f"{name}_norm_{place}")
      for place in ("in", "out")
    )
    h = norm_in(x)
    if name == "video":
      h = VideoConv(self.features, **how, name="video_conv")(h)
    else:
      h = layers.Conv(
        self.features, (3,), self.dilation, **how, name="audio_conv"
      )(h)
    if self.resample == "down":
      h, x = (layers.downsample(part, factors) for part in (h, x))

    # Repeated values do not change norm and SiLU; levels of frames would not be
    # laid out along the audio in the same way.
    late = self.resample == "up" and emb.ndim == 2
    if self.resample == "up" and not late:
      h, x = (layers.upsample(part, factors) for part in (h, x))
    if emb.ndim == 3 or not self.use_scale_shift_norm:
      emb = levels.spread(emb, h.shape)
    if self.use_scale_shift_norm:
      h = norm_out(h, *jnp.split(emb, 2, -1))
    else:
      h = norm_out(h + emb)
    if late:
      h, x = (layers.upsample(part, factors) for part in (h, x))
    h = nn.Dropout(self.dropout, deterministic=False)(h)
    h = layers.Dense(self.features, zero_init=True, **how, name=f"{name}_out")(
      h
    )
    if x.shape[-1] != self.features:
      x = layers.Dense(self.features, **how, name=f"{name}_skip")(x)
    return x + h

  def _attention(self, name: str) -> nn.Module:
    return self.attention_cls(
      self.num_heads,
      attention=self.attention,
      **layers.inherited(self),
      name=name,
    )

  def _video_attention(self, x: jax.Array) -> jax.Array:
    shape = x.shape
    x = x.reshape(shape[0] * shape[1], -1, shape[-1])
    x = self._attention("spatial_attention")(x)
    x = x.reshape(*shape[:2], -1, shape[-1])
    return self._attention("temporal_attention")(x).reshape(shape)
