"""Geometry of an audio-video clip and its two value ranges."""

import dataclasses
from typing import Any

import numpy as np

# So many multiples around a sample rate are looked at for one that fits.
_RATE_SPAN = 16


@dataclasses.dataclass(frozen=True)
class AVSpec:
  """Shape and rates of one clip: video `[F, H, W, 3]`, audio `[L, 1]`.

  Attributes:
    frames: number of video frames F.
    height: frame height H in pixels.
    width: frame width W in pixels.
    fps: frames per second.
    sample_rate: audio samples per second (Hz).
  """

  frames: int = 16
  height: int = 64
  width: int = 64
  fps: float = 10.0
  sample_rate: int = 16000

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value <= 0:
        raise ValueError(f"AVSpec.{field.name} must be positive, got {value}.")

  @classmethod
  def from_config(cls, data: Any) -> "AVSpec":
    """The geometry that the section `data` of a configuration asks for."""
    return cls(
      data.frames, data.height, data.width, float(data.fps), data.sample_rate
    )

  @property
  def duration(self) -> float:
    """Length of the clip in seconds."""
    return self.frames / self.fps

  @property
  def audio_length(self) -> int:
    """Number of audio samples L of the clip's time span."""
    return self.frames_to_samples(self.frames)

  @property
  def video_shape(self) -> tuple[int, int, int, int]:
    """`(F, H, W, 3)`."""
    return (self.frames, self.height, self.width, 3)

  @property
  def audio_shape(self) -> tuple[int, int]:
    """`(L, 1)`."""
    return (self.audio_length, 1)

  def frames_to_samples(self, frames: int) -> int:
    """Index of the audio sample at which frame number `frames` begins."""
    return round(frames * self.sample_rate / self.fps)

  def nearest_rates(self, multiple: int) -> list[int]:
    """Sample rates below and above whose clips fit a network.

    Args:
      multiple: of which the number of audio samples must be one.

    Returns:
      The nearest ones (Hz), those that there are.
    """
    near = range(1, _RATE_SPAN * multiple)
    sides = ([self.sample_rate + sign * d for d in near] for sign in (-1, 1))
    found = (
      next((rate for rate in side if self._fits(rate, multiple)), None)
      for side in sides
    )
    return [rate for rate in found if rate is not None]

  def _fits(self, rate: int, multiple: int) -> bool:
    length = self.frames * rate / self.fps
    # Frame rates such as 29.97 have no length without a rest.
    exact = length == round(length) or self.fps != round(self.fps)
    return rate > 0 and exact and round(length) % multiple == 0 < round(length)


def uint8_to_unit(video: np.ndarray) -> np.ndarray:
  """Maps uint8 pixels to float32 in [-1, 1]."""
  return np.asarray(video, np.float32) / 127.5 - 1.0


def unit_to_uint8(video: np.ndarray) -> np.ndarray:
  """Maps [-1, 1] to uint8 pixels, rounding to nearest and clipping."""
  video = np.asarray(video, np.float32)
  return np.clip(np.round((video + 1.0) * 127.5), 0, 255).astype(np.uint8)


def frame_of(length: int, frames: int) -> np.ndarray:
  """The frame that each of `length` steps of sound belongs to, `[length]`.

  A step belongs to the frame that is on display at its centre.
  """
  return (2 * np.arange(length) + 1) * frames // (2 * length)
