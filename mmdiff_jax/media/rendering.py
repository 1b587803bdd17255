"""Pictures of clips: frames over waveform over mel spectrogram.

All rows share one time axis, which spans the whole width.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  from PIL import Image

WIDTH = 1024
_MAX_FRAMES = 16
# CSS pixels of a row of frames on a page, and of one of its frames at most.
_SHOWN, _THUMBNAIL = 512, 128
_WAVE_HEIGHT, _MEL_HEIGHT, _GAP = 72, 128, 4
BACKGROUND, _WAVE, _AXIS = (16, 16, 20), (120, 190, 255), (60, 60, 70)
SEEN, HEARD = (64, 224, 208), (255, 190, 60)
# Dark to light by way of violet, red and yellow: perceived as one scale, and
# still one in grey.
_COLORMAP = (
  (0, 0, 4), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122),
  (229, 80, 100), (251, 135, 97), (254, 194, 135), (252, 253, 191),
)  # fmt: skip
_DYNAMIC_RANGE_DB = 60.0


def render_clip(
  video: np.ndarray | None,
  audio: np.ndarray | None,
  sample_rate: int | None,
  width: int = WIDTH,
  events: tuple[np.ndarray, np.ndarray] | None = None,
  duration: float | None = None,
  slots: int | None = None,
  scale: int = 1,
) -> "Image.Image":
  """Draws a clip; each stream may be absent.

  Args:
    video: `[F, H, W, 3]` uint8; up to 16 frames are shown.
    audio: `[L, 1]` in [-1, 1], over the same time span as the video.
    sample_rate: of the audio, Hz.
    width: of the picture in pixels.
    events: times in seconds to mark on the frames and on the sound.
    duration: of the clip in seconds; needed with events.
    slots: how many frames are shown; by default up to 16.
    scale: of the heights of waveform and spectrogram.

  Raises:
    ValueError: if both streams are absent, or a rate.
  """
  from PIL import Image

  rows, kinds = [], []
  if video is not None:
    rows.append(frames_strip(video, width, slots))
    kinds.append(0)
  if audio is not None and len(audio):
    rows.append(waveform(audio, width, scale * _WAVE_HEIGHT))
    if sample_rate is None:
      raise ValueError("render_clip needs the sample_rate of the audio.")
    height = scale * _MEL_HEIGHT
    rows.append(mel_spectrogram(audio, sample_rate, width, height))
    kinds += [1, 1]
  if not rows:
    raise ValueError("render_clip needs video or audio, got neither.")
  if events is not None:
    for row, kind in zip(rows, kinds, strict=True):
      for time in events[kind]:
        column = min(int(time / duration * width), width - 1)
        row[:, max(column - 1, 0) : column + 1] = (SEEN, HEARD)[kind]
  gap = np.full((_GAP, width, 3), BACKGROUND, np.uint8)
  stacked = [part for row in rows for part in (row, gap)][:-1]
  return Image.fromarray(np.concatenate(stacked))


def strip_slots(video: np.ndarray | None) -> int:
  """How many frames stand side by side in `strip_width` pixels."""
  if video is None:
    return 1
  return max(1, min(len(video), _MAX_FRAMES, _SHOWN // _thumbnail(video)))


def strip_width(video: np.ndarray | None) -> int:
  """Width of a row of frames at a whole multiple of their size.

  Frames beyond 128 pixels have a whole part of their size.
  """
  if video is None:
    return _SHOWN
  row = strip_slots(video) * _thumbnail(video)
  return row * max(1, _SHOWN // row)


def _thumbnail(video: np.ndarray) -> int:
  width = video.shape[2]
  return max(1, width // -(-width // _THUMBNAIL))


def strip_share(video: np.ndarray | None, picture: "Image.Image") -> float:
  """Part of the height of a clip's picture that the frames take (0 to 1)."""
  if video is None:
    return 0.0
  slots = strip_slots(video)
  return _slot_height(video, picture.width, slots) / picture.height


def _slot_height(video: np.ndarray, width: int, slots: int) -> int:
  return max(1, round(width / slots * video.shape[1] / video.shape[2]))


def frames_strip(
  video: np.ndarray, width: int = WIDTH, slots: int | None = None
) -> np.ndarray:
  """Frames side by side, each over its time span: `[h, width, 3]` uint8."""
  from PIL import Image

  slots = slots or min(len(video), _MAX_FRAMES)
  height = _slot_height(video, width, slots)
  edges = np.linspace(0, width, slots + 1).round().astype(int)
  shown = ((np.arange(slots) + 0.5) * len(video) / slots).astype(int)
  strip = np.zeros((height, width, 3), np.uint8)
  for slot, frame in enumerate(shown):
    size = (int(edges[slot + 1] - edges[slot]), height)
    larger = size[1] >= video.shape[1]
    image = Image.fromarray(video[frame]).resize(
      size, Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS
    )
    strip[:, edges[slot] : edges[slot + 1]] = np.asarray(image)
  return strip


def waveform(
  audio: np.ndarray, width: int = WIDTH, height: int = _WAVE_HEIGHT
) -> np.ndarray:
  """Range of the samples of each column: `[height, width, 3]` uint8.

  The scale is the loudest sample, or 0.25 in a quieter clip.
  """
  wave = np.nan_to_num(np.asarray(audio, np.float32).reshape(len(audio), -1))
  wave = wave[:, 0] / max(0.25, float(np.abs(wave[:, 0]).max()))
  edges = np.linspace(0, len(wave), width + 1)
  first = np.minimum(edges[:-1].astype(int), len(wave) - 1)
  last = np.maximum(np.ceil(edges[1:]).astype(int), first + 1)
  top = np.array([wave[a:b].max() for a, b in zip(first, last, strict=True)])
  low = np.array([wave[a:b].min() for a, b in zip(first, last, strict=True)])
  row = np.arange(height)[:, None]
  middle = (height - 1) / 2
  filled = row >= np.floor(middle * (1 - top))
  filled &= row <= np.ceil(middle * (1 - low))
  image = np.full((height, width, 3), BACKGROUND, np.uint8)
  image[height // 2] = _AXIS
  image[filled] = _WAVE
  return image


def mel_spectrogram(
  audio: np.ndarray,
  sample_rate: int,
  width: int = WIDTH,
  height: int = _MEL_HEIGHT,
) -> np.ndarray:
  """Mel power in dB, 60 dB down from the peak: `[height, width, 3]` uint8."""
  import librosa
  from PIL import Image

  wave = np.nan_to_num(np.asarray(audio, np.float32).reshape(len(audio), -1))
  size = 2 ** int(np.ceil(np.log2(0.05 * sample_rate)))
  power = librosa.feature.melspectrogram(
    y=np.pad(wave[:, 0], (0, max(0, size - len(wave)))),
    sr=sample_rate,
    n_fft=size,
    hop_length=max(1, size // 16),
    n_mels=64 if sample_rate >= 4000 else 32,
    pad_mode="constant",
  )
  # A silent clip is dark, not its rounding errors blown up.
  peak = max(float(power.max()), 1e-3)
  level = 10 * np.log10(np.maximum(power, 1e-12) / peak) / _DYNAMIC_RANGE_DB
  level = np.clip(1 + level, 0, 1)[::-1]
  stops = np.linspace(0, 1, len(_COLORMAP))
  channels = [np.interp(level, stops, c) for c in np.array(_COLORMAP).T]
  image = Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))
  resized = image.resize((width, height), Image.Resampling.BILINEAR)
  return np.array(resized)
