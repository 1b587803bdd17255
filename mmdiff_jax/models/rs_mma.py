"""Random-shift multi-modal attention (Ruan et al., CVPR 2023, section 3.3)."""

from collections.abc import Iterable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mmdiff_jax.models import layers, ops
from mmdiff_jax.models.attention import On

QKV = tuple[jax.Array, jax.Array, jax.Array]


def windows(
  x: jax.Array, start: int | jax.Array, stride: int, width: int, count: int
) -> jax.Array:
  """Cuts overlapping windows from a ring of tokens.

  Window i holds the tokens `(start + i*stride + j) mod T`, `j < width`.

  Args:
    x: tokens `[B, T, ...]`.
    start: first token of window 0; may be traced. At most
      `2T - (count-1)*stride - width`, so that one copy of the ring is enough.
    stride: tokens from one window to the next; divides `width`.
    width: tokens per window.
    count: number of windows.

  Returns:
    `[B, count, width, ...]`.
  """
  per_window = width // stride
  length = (count - 1 + per_window) * stride
  if isinstance(start, int) and start + length <= x.shape[1]:
    x = x[:, start : start + length]
  else:
    ring = jnp.concatenate([x, x], 1)
    x = jax.lax.dynamic_slice_in_dim(ring, start, length, 1)
  strides = x.reshape(x.shape[0], count - 1 + per_window, stride, *x.shape[2:])
  parts = [strides[:, k : k + count] for k in range(per_window)]
  return parts[0] if per_window == 1 else jnp.concatenate(parts, 2)


def cross_attend(
  video: QKV,
  audio: QKV,
  window: int,
  shift: int | jax.Array = 0,
  attention: str | On = "auto",
  kernels: str = "auto",
) -> tuple[jax.Array, jax.Array]:
  """Attention between each frame and a window of the other modality.

  With P video tokens per frame and `apf = L // F` audio tokens per frame,
  frame i attends to the audio tokens `((i + s) * apf + j) mod L`,
  `j < w * apf`; audio segment i to the frames `(i + s + k) mod F`, `k < w`.
  The last segment also takes the `L - F * apf` tokens left over. All windows
  of a direction are one batched product: O(w * apf * P * F).

  Args:
    video: queries, keys and values `[B, F, P, K, D]`.
    audio: queries, keys and values `[B, L, K, D]`.
    window: w, in frames.
    shift: s in 0..F-w; may be traced.
    attention: see `ops.attend`.
    kernels: see `ops`.

  Returns:
    Video `[B, F, P, K, D]` and audio `[B, L, K, D]`.
  """
  (video_q, *video_kv), (audio_q, *audio_kv) = video, audio
  batch, frames, pixels, *heads = video_q.shape
  length = audio_q.shape[1]
  apf = length // frames

  def per_frame(x: jax.Array) -> jax.Array:
    return x.reshape(batch * frames, -1, *heads)

  def whole(x: jax.Array) -> jax.Array:
    return x.reshape(batch, -1, *heads)

  def attend(q: jax.Array, kv: Iterable[jax.Array]) -> jax.Array:
    k, v = kv
    return ops.attend(q, k, v, attention, kernels)

  # Windows of all frames hold the same tokens in another order, which
  # attention does not see: one window instead of F copies of it.
  full = window == frames
  if full and length == frames * apf:
    video_out = attend(whole(video_q), audio_kv)
  else:
    audio_windows = [
      per_frame(windows(x, shift * apf, apf, window * apf, frames))
      for x in audio_kv
    ]
    video_out = attend(per_frame(video_q), audio_windows)
  video_out = video_out.reshape(video_q.shape)
  if full:
    return video_out, attend(audio_q, map(whole, video_kv))

  video_kv = [windows(x, shift, 1, window, frames) for x in video_kv]
  segments = per_frame(audio_q[:, : frames * apf])
  audio_out = whole(attend(segments, map(per_frame, video_kv)))
  if length > frames * apf:
    last = (whole(x[:, -1]) for x in video_kv)
    rest = attend(audio_q[:, frames * apf :], last)
    audio_out = jnp.concatenate([audio_out, rest], 1)
  return video_out, audio_out


class RSMMA(nn.Module):
  """One RS-MMA block: norms, joint projections, `cross_attend`, residuals.

  Attributes:
    window: frames per window, w.
    head_channels: width of a head, D.
    attention: see `ops.attend`.
    dtype: compute type.
    kernels: see `ops`.
  """

  window: int
  head_channels: int
  attention: str | On = "auto"
  dtype: DTypeLike = jnp.float32
  kernels: str = "auto"

  @nn.compact
  def __call__(
    self, video: jax.Array, audio: jax.Array, shift: int | jax.Array = 0
  ) -> tuple[jax.Array, jax.Array]:
    """Lets the two streams attend to each other.

    Args:
      video: `[B, F, H, W, C]`.
      audio: `[B, L, C]`.
      shift: first frame of window 0, in 0..F-w; may be traced.

    Returns:
      Arrays like `video` and `audio`.
    """
    channels = audio.shape[-1]
    how = layers.inherited(self)

    def project(x: jax.Array, name: str) -> QKV:
      x = layers.GroupNorm(**how, name=f"{name}_norm")(x)
      dense = layers.Dense(3 * channels, **how, name=f"{name}_qkv")
      x = dense(x.reshape(x.shape[0], -1, channels))
      x = x.reshape(*x.shape[:2], 3, -1, self.head_channels)
      q, k, v = (part.squeeze(2) for part in jnp.split(x, 3, 2))
      return q, k, v

    batch, frames, height, width, _ = video.shape
    q, k, v = (
      x.reshape(batch, frames, height * width, *x.shape[2:])
      for x in project(video, "video")
    )
    video_h, audio_h = cross_attend(
      (q, k, v),
      project(audio, "audio"),
      self.window,
      shift,
      self.attention,
      self.kernels,
    )

    def out(x: jax.Array, h: jax.Array, name: str) -> jax.Array:
      dense = layers.Dense(channels, zero_init=True, **how, name=f"{name}_out")
      return x + dense(h.reshape(x.shape))

    return out(video, video_h, "video"), out(audio, audio_h, "audio")
