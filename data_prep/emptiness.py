"""What of a video is empty: silence, still pictures, darkness."""

import array
import dataclasses
from collections.abc import Sequence

import numpy as np

from data_prep.bars import Peaks

# Samples below one step of 16 bits are digital silence.
_SILENT = 0.5 / 32768
# A picture stands still where no value moves by more, and is black where none
# exceeds the other (grey levels).
_STILL, _BLACK = 1, 20


@dataclasses.dataclass(frozen=True)
class Limits:
  """Which clips are left out.

  Attributes:
    min_loudness: least root mean square of a clip's sound (dBFS), or None.
    max_silence: largest part of a clip that may be digital silence.
    max_frozen: largest part of a clip in which the picture may stand still.
  """

  min_loudness: float | None = None
  max_silence: float = 1.0
  max_frozen: float = 1.0


class Emptiness:
  """Measures a video frame by frame.

  Attributes:
    peaks: of its pictures, which show black bars.
  """

  def __init__(self) -> None:
    """Starts with no frame."""
    # Packed: a day of video has a million frames.
    self._still, self._black = bytearray(), bytearray()
    self._silent = bytearray()
    self._power = array.array("d")
    self._last: np.ndarray | None = None
    self.peaks = Peaks()

  def add_picture(self, image: np.ndarray) -> None:
    """Takes the next frame, uint8 `[H, W, 3]`."""
    still = self._last is not None and bool(
      np.abs(image.astype(np.int16) - self._last).max() <= _STILL
    )
    self._still.append(still)
    self._black.append(bool(image.max() <= _BLACK))
    self.peaks.add(image)
    self._last = image

  @property
  def heard(self) -> int:
    """Number of frames whose sound was taken."""
    return len(self._power)

  def add_sound(self, samples: np.ndarray) -> None:
    """Takes the sound of the next frame, float `[n, C]`."""
    peak = np.abs(samples).max(initial=0.0)
    self._silent.append(bool(peak < _SILENT))
    self._power.append(float(np.mean(samples**2)) if len(samples) else 0.0)

  def seconds(self, fps: float) -> dict[str, float]:
    """How much of the video is silent, still and black."""
    parts = {
      "silent": self._silent,
      "still": self._still,
      "black": self._black,
    }
    return {name: round(sum(part) / fps, 3) for name, part in parts.items()}

  def left_out(self, frames: int, limits: Limits) -> list[tuple[int, int]]:
    """Runs (first, last + 1) of clips of `frames` frames beyond the limits."""
    clips = len(self._still) - frames + 1
    power = _means(self._power, frames)
    quiet = np.zeros(clips, bool)
    if limits.min_loudness is not None:
      quiet = power < 10 ** (limits.min_loudness / 10)
    silent = _means(self._silent, frames) > limits.max_silence
    # The first frame of a clip follows none.
    still = np.zeros(clips)
    if frames > 1:
      still = _means(self._still[1:], frames - 1)
    bad = quiet | silent | (still > limits.max_frozen)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], bad, [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _means(values: Sequence[float], length: int) -> np.ndarray:
  """Means of all runs of `length` values."""
  sums = np.concatenate([[0.0], np.cumsum(np.array(values, float))])
  means = (sums[length:] - sums[:-length]) / length
  # Sums of floats leave a rest where there is nothing.
  return np.where(means < 1e-12, 0.0, means)
