"""Black bars at the edges of a video's pictures: found, and cut off."""

import dataclasses
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mmdiff_jax.media.container import MediaError, ReadOptions
from mmdiff_jax.media.reading import AudioTrack, FrameReader
from mmdiff_jax.media.transforms import fit_frame, inner_size

# A row or column is black where no value ever exceeds this (grey levels).
_BLACK = 20
# Bars below this share of the picture are an edge, not bars.
_LEAST = 0.03
# Pictures that are looked at: so many a second, of so many rows and columns.
_LOOKS, _ROWS = 0.5, 256


class Bars(NamedTuple):
  """Shares of a picture's height and width that are black at its edges."""

  top: float = 0.0
  bottom: float = 0.0
  left: float = 0.0
  right: float = 0.0

  @property
  def height(self) -> float:
    """Black share of the height."""
    return self.top + self.bottom

  @property
  def width(self) -> float:
    """Black share of the width."""
    return self.left + self.right

  def __str__(self) -> str:
    shares = {"height": self.height, "width": self.width}
    words = [f"{v:.0%} of the {name}" for name, v in shares.items() if v]
    return " and ".join(words)

  def cut(self, image: np.ndarray) -> np.ndarray:
    """The picture within the bars, of `[H, W, C]`."""
    rows, columns = image.shape[:2]
    return image[
      round(self.top * rows) : rows - round(self.bottom * rows),
      round(self.left * columns) : columns - round(self.right * columns),
    ]


class Peaks:
  """The brightest value of each row and column over pictures of one size."""

  def __init__(self) -> None:
    """Starts with no picture."""
    self._rows = self._columns = np.zeros(0, np.uint8)

  def add(self, image: np.ndarray) -> None:
    """Takes a picture, uint8 `[H, W, 3]`."""
    rows, columns = image.max(axis=(1, 2)), image.max(axis=(0, 2))
    if not len(self._rows):
      self._rows, self._columns = rows, columns
    self._rows = np.maximum(self._rows, rows)
    self._columns = np.maximum(self._columns, columns)

  def bars(self, height: int, width: int) -> Bars:
    """The bars of the pictures in the middle, of `height` x `width` each."""
    top, bottom = _dark_ends(_middle(self._rows, height))
    left, right = _dark_ends(_middle(self._columns, width))
    return Bars(top, bottom, left, right)


def _middle(values: np.ndarray, count: int) -> np.ndarray:
  first = max(0, (len(values) - count) // 2)
  return values[first : first + count]


def _dark_ends(peaks: np.ndarray) -> tuple[float, float]:
  """Shares of black lines before the first bright one and after the last.

  Both are 0 for a single edge, and for pictures that are black throughout.
  """
  bright = np.flatnonzero(peaks > _BLACK)
  if not len(bright):
    return 0.0, 0.0
  first, last = int(bright[0]), len(peaks) - 1 - int(bright[-1])
  if min(first, last) < _LEAST / 2 * len(peaks):
    return 0.0, 0.0
  return first / len(peaks), last / len(peaks)


def measure(
  peaks: Peaks, native: tuple[int, int], size: tuple[int, int], fit: str
) -> Bars:
  """The bars of a video whose fitted pictures were looked at.

  Args:
    peaks: of the fitted pictures.
    native: height and width of the video.
    size: height and width of the fitted pictures.
    fit: how they were fitted: bars that were added are not the video's.
  """
  return peaks.bars(*inner_size(*native, *size, fit))


def find_bars(
  path: str | os.PathLike, fps: float, options: ReadOptions
) -> Bars:
  """Looks through a video for its bars.

  Args:
    path: of the file.
    fps: rate at which it is prepared.
    options: of reading it.

  Raises:
    MediaError: if it cannot be read.
  """
  whole = dataclasses.replace(options, fit="stretch")
  try:
    bars = _look(path, min(_LOOKS, fps), whole)
  except MediaError:  # Shorter than a look, perhaps.
    bars = _look(path, fps, whole)
  # The line next to a bar may be half of it.
  return Bars(*(share + 1 / _ROWS if share else 0.0 for share in bars))


def _look(path: str | os.PathLike, fps: float, options: ReadOptions) -> Bars:
  peaks = Peaks()
  for image in FrameReader(path, fps, _ROWS, None, options):
    peaks.add(image)
  return peaks.bars(_ROWS, _ROWS)


class CutReader(FrameReader):
  """Reads a video's pictures without its bars."""

  def __init__(
    self,
    path: str | os.PathLike,
    fps: float,
    size: tuple[int, int],
    track: AudioTrack | None,
    options: ReadOptions,
    bars: Bars,
  ):
    """See `FrameReader`; `bars` are cut off before pictures are fitted."""
    super().__init__(path, fps, None, track, options)
    self._bars, self._wanted, self._fit = bars, size, options.fit

  def __iter__(self) -> Iterator[np.ndarray]:
    """Yields uint8 `[H, W, 3]`; see `FrameReader`."""
    last, fitted = None, None
    for image in super().__iter__():
      # A picture that stands is the same array.
      if image is not last:
        picture = np.ascontiguousarray(self._bars.cut(image))
        last, fitted = image, fit_frame(picture, *self._wanted, fit=self._fit)
      assert fitted is not None
      yield fitted
