"""Random-shift multi-modal attention (Ruan et al., CVPR 2023, section 3.3)."""

import functools
from collections.abc import Iterable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def frame_windows(x: jax.Array, start: jax.Array, width: int) -> jax.Array:
  """Cuts a window for each frame from a ring of frames, in one reading.

  Args:
    x: `[B, F, ...]`.
    start: first frame of window 0; may be traced, and negative.
    width: frames per window.

  Returns:
    `[B, F, width, ...]`: frames `(i + start + j) mod F`.
  """
  frames = jnp.arange(x.shape[1])
  places = (start + frames[:, None] + jnp.arange(width)) % x.shape[1]
  return x.at[:, places].get(mode="promise_in_bounds")


def _frame_windows(
  x: jax.Array, start: jax.Array, width: int
) -> tuple[jax.Array, jax.Array]:
  return frame_windows(x, start, width), start


def _frame_windows_gradient(
  width: int, start: jax.Array, grad: jax.Array
) -> tuple[jax.Array, np.ndarray]:
  """Sums what each frame gave: read from where it went, not added there."""
  count = grad.shape[1]
  frames, places = jnp.arange(count)[:, None], jnp.arange(width)
  owner = (frames - start - places) % count
  parts = grad.at[:, owner, places].get(mode="promise_in_bounds")
  total = parts.sum(2, dtype=jnp.float32).astype(grad.dtype)
  return total, np.zeros(jnp.shape(start), jax.dtypes.float0)


frame_windows.defvjp(_frame_windows, _frame_windows_gradient)


def _roll(x: jax.Array, start: jax.Array) -> jax.Array:
  return frame_windows(x, start, 1).squeeze(2)


def attend_frames(
  video: QKV, audio: QKV, window: int, shift: int | jax.Array, attention: On
) -> tuple[jax.Array, jax.Array]:
  """`cross_attend` of streams with as many audio tokens in every frame.

  With windows of one frame, audio alone is moved: it is the smaller stream.

  Args:
    video: queries, keys and values `[B, F, P, K, D]`.
    audio: likewise, `[B, F, A, K, D]`.
    window: in frames.
    shift: see `cross_attend`.
    attention: see `ops.attend`.
  """
  batch, frames, _, *heads = video[0].shape
  start = jnp.asarray(shift, jnp.int32)

  def attend(q: jax.Array, *kv: jax.Array) -> jax.Array:
    q, k, v = (x.reshape(batch * frames, -1, *heads) for x in (q, *kv))
    return ops.attend(q, k, v, attention, "plain")

  (video_q, *video_kv), (audio_q, *audio_kv) = video, audio
  if window == 1:
    audio_kv = [_roll(x, start) for x in audio_kv]
    moved = attend(_roll(audio_q, -start), *video_kv)
    audio_out = _roll(moved.reshape(audio_q.shape), start)
  else:
    audio_kv = [frame_windows(x, start, window) for x in audio_kv]
    video_kv = [frame_windows(x, start, window) for x in video_kv]
    audio_out = attend(audio_q, *video_kv)
  video_out = attend(video_q, *audio_kv).reshape(video_q.shape)
  return video_out, audio_out.reshape(batch, -1, *heads)


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
  even = length == frames * apf
  if isinstance(attention, On) and even and not full:
    q, k, v = (x.reshape(batch, frames, apf, *heads) for x in audio)
    return attend_frames(video, (q, k, v), window, shift, attention)
  if full and even:
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
    on = self.attention if isinstance(self.attention, On) else None

    def project(x: jax.Array, name: str) -> QKV:
      x = layers.GroupNorm(**how, name=f"{name}_norm")(x)
      qkv = layers.QKV(
        3 * channels, apart=on is not None, **how, name=f"{name}_qkv"
      )
      parts = qkv(x.reshape(x.shape[0], -1, channels))
      q, k, v = parts if len(parts) == 3 else jnp.split(parts[0], 3, -1)
      return q, k, v

    batch, frames, height, width, _ = video.shape
    parts = project(video, "video"), project(audio, "audio")
    outs = None
    if on is not None:
      outs = self._in_place(on, *parts, frames, shift)
    if outs is None:
      pixels = (batch, frames, height * width)
      outs = cross_attend(
        _with_heads(parts[0], self.head_channels, *pixels),
        _with_heads(parts[1], self.head_channels, batch, audio.shape[1]),
        self.window,
        shift,
        self.attention,
        self.kernels,
      )

    def out(x: jax.Array, h: jax.Array, name: str) -> jax.Array:
      dense = layers.Dense(channels, zero_init=True, **how, name=f"{name}_out")
      return x + dense(h.reshape(x.shape))

    return out(video, outs[0], "video"), out(audio, outs[1], "audio")

  def _in_place(
    self,
    on: On,
    video: QKV,
    audio: QKV,
    frames: int,
    shift: int | jax.Array,
  ) -> tuple[jax.Array, ...] | None:
    """Both directions by kernels that read `[B, T, C]` as it lies, or None."""
    window = self.window
    count = 1 if window == frames else frames
    if any(x.shape[1] % count for x in (video[0], audio[0])):
      return None
    if window == frames:
      # A window of all frames holds the same tokens wherever it begins.
      window, shift = 1, 0
    (vq, vk, vv), (aq, ak, av) = (
      tuple(x.reshape(x.shape[0], count, -1, x.shape[-1]) for x in part)
      for part in (video, audio)
    )
    pairs = ((vq, ak, av), (aq, vk, vv))
    if not all(on.takes_windows(q.shape, k.shape, window) for q, k, _ in pairs):
      return None
    heads = vq.shape[-1] // self.head_channels
    return tuple(
      on.attend_windows(q, k, v, heads, window, shift) for q, k, v in pairs
    )


def _with_heads(qkv: QKV, width: int, *shape: int) -> QKV:
  """`[B, T, C]` to `[*shape, K, D]`."""
  q, k, v = (x.reshape(*shape, -1, width) for x in qkv)
  return q, k, v
