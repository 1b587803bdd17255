"""Features that need no network: of frames, of sound, of both over time."""

import math

import numpy as np

from mmdiff_jax.metric_networks import mel

# Side of the thumbnails in which frames are compared.
THUMBNAIL = 16
# 10 ms frames that a column of the mel picture spans (50 ms, so that windows
# that start on frames of a 10 fps video fall onto columns), and its bands.
MEL_STEP = 5
MEL_BANDS = 32
# Larger than VGGish's: bands that are silent but for a codec's noise are equal.
_MEL_OFFSET = 0.1


def resample(wave: np.ndarray, source_rate: int, rate: int) -> np.ndarray:
  """Resamples `[..., L]` (polyphase, Kaiser window) to exactly L rate / source.

  The result has `round(L * rate / source_rate)` samples.
  """
  wave = np.asarray(wave, np.float32)
  if source_rate == rate:
    return wave
  from scipy.signal import resample_poly

  divisor = math.gcd(source_rate, rate)
  out = resample_poly(wave, rate // divisor, source_rate // divisor, axis=-1)
  return out[..., : round(wave.shape[-1] * rate / source_rate)]


def thumbnails(video: np.ndarray, side: int = THUMBNAIL) -> np.ndarray:
  """Block means of frames, uint8 `[..., H, W, 3]` -> `[..., side, side, 3]`.

  Values in [0, 1]. Frames whose size is not a multiple of `side` are cut into
  blocks that differ by one pixel.
  """
  video = np.asarray(video, np.float32) / 255
  for axis in (-3, -2):
    size = video.shape[axis]
    if size < side:
      video = np.repeat(video, -(-side // size), axis=axis)
      size = video.shape[axis]
    edges = np.arange(side) * size // side
    counts = np.diff(np.append(edges, size)).astype(np.float32)
    shape = [1] * video.ndim
    shape[axis] = side
    video = np.add.reduceat(video, edges, axis=axis) / counts.reshape(shape)
  return video


def mel_picture(wave: np.ndarray) -> np.ndarray:
  """Log-mel picture that does not depend on the volume.

  Args:
    wave: `[B, L]` at 16 kHz.

  Returns:
    `[B, T, 32]`, T columns of 50 ms; each wave is set to a root mean square
    of 0.1 before the logarithm (silence stays silence).
  """
  level = np.sqrt(np.mean(np.square(wave, dtype=np.float64), -1, keepdims=True))
  picture = mel.log_mel(wave * (0.1 / np.maximum(level, 1e-4)), _MEL_OFFSET)
  columns = picture.shape[1] // MEL_STEP
  picture = picture[:, : columns * MEL_STEP]
  return picture.reshape(
    len(picture), columns, MEL_STEP, MEL_BANDS, mel.BANDS // MEL_BANDS
  ).mean(axis=(2, 4))


def scene(video: np.ndarray) -> np.ndarray:
  """What a clip shows, coarsely, `[B, F, H, W, 3]` -> `[B, 96]`.

  Mean and standard deviation over time of 4x4 thumbnails.
  """
  small = thumbnails(video, 4)
  small = small.reshape(*small.shape[:2], -1)
  return np.concatenate([small.mean(axis=1), small.std(axis=1)], axis=-1)


def motion_and_sound(video: np.ndarray, wave: np.ndarray) -> np.ndarray:
  """How much moves and how loud it is, between consecutive frames.

  Args:
    video: uint8 `[B, F, H, W, 3]`.
    wave: `[B, L]`, the sound of the same time span.

  Returns:
    `[B, F-1, 4]`: mean absolute difference of the two frames; its absolute
    change against the step before; log energy of the sound from half a frame
    before the second frame to half a frame after it; rise of that energy.
  """
  frames = video.shape[1]
  small = thumbnails(video)
  motion = np.abs(np.diff(small, axis=1)).mean(axis=(2, 3, 4))
  change = np.abs(np.diff(motion, axis=1, prepend=motion[:, :1]))
  # Frame i is shown from i to i+1: step i is centred on instant i+1.
  borders = (np.arange(frames) + 0.5) * wave.shape[1] / frames
  borders = np.round(borders).astype(int)
  power = np.cumsum(np.square(wave, dtype=np.float64), axis=1)
  power = np.concatenate([np.zeros_like(power[:, :1]), power], axis=1)
  spans = np.diff(power[:, borders], axis=1) / np.diff(borders)
  energy = np.log(spans + 1e-6)
  rise = np.maximum(np.diff(energy, axis=1, prepend=energy[:, :1]), 0)
  return np.stack([motion, change, energy, rise], axis=-1)
