"""Keeps decoded sound on its timestamps, without clicks."""

import collections
import itertools
import statistics
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mmdiff_jax.media.audio_order import Follower, Survey

# Timestamps in milliseconds are this uncertain: no correction below (seconds).
_DEAD = 1e-3
# A jump of the timestamps beyond this is a gap or an overlap (seconds) ...
_JUMP = 4e-3
# ... a smaller deviation is resampled away with this time constant (seconds).
_RELAX, _MAX_STRETCH = 0.1, 0.05
# Frames that must agree on a deviation: one odd timestamp moves nothing.
_AHEAD = 5
# Sound ahead that shows whether timestamps can be used (seconds).
_SURVEY_SECONDS = 5.0
# Ramp at the edges of a gap (seconds), and silence is made in such blocks.
_RAMP, _BLOCK = 2e-3, 1.0

# (seconds, or None: right after the last; float32 `[n, C]`).
Piece = tuple[float | None, np.ndarray]


class Aligner:
  """Makes one run of samples of frames with timestamps.

  Gaps are filled with silence, overlaps are cut; a clock that runs slow or
  fast is followed by resampling. Everywhere the sound is within 5 ms of its
  timestamps.

  Attributes:
    start: time of the first sample (seconds).
  """

  def __init__(self, rate: int):
    """For sound of `rate` samples per second."""
    self.start = 0.0
    self._rate = rate
    self._count = 0
    self._gaps, self._silence = 0, 0.0
    self._overlaps, self._removed = 0, 0.0
    self._stretched, self._drift = 0, 0
    self._order: Follower | None = None

  def align(self, pieces: Iterable[Piece]) -> Iterator[np.ndarray]:
    """Yields blocks that follow each other without a gap.

    Args:
      pieces: time (seconds; None: right after the last) and float32 `[n, C]`.
    """
    ahead: collections.deque[Piece] = collections.deque()
    survey, held = Survey(), 0.0
    tail: np.ndarray | None = None
    source, more = iter(pieces), True
    while more or ahead:
      while more and (len(ahead) < _AHEAD or held < _SURVEY_SECONDS):
        piece = next(source, None)
        more = piece is not None
        if piece is not None and len(piece[1]):
          ahead.append(piece)
          survey.add(piece[0], len(piece[1]) / self._rate)
          held += len(piece[1]) / self._rate
      if not ahead:
        break
      if tail is None:
        self.start = ahead[0][0] or 0.0
      if self._order is None and survey.is_unusable():
        self._order = Follower()
      late, share = self._deviation(ahead)
      samples = ahead.popleft()[1]
      survey.drop()
      held -= len(samples) / self._rate
      if tail is None or not late:
        samples = self._follow(samples, share)
      else:
        samples = self._skip(samples, late)
        if not len(samples):
          continue
        tail = self._ramp(tail, out=True)
        samples = self._ramp(samples, out=False)
      if tail is not None:
        yield tail
        if late > 0:
          yield from self._fill(round(late * self._rate), samples.shape[1])
      tail = samples
      self._count += len(samples)
    if tail is not None:
      yield tail

  def repairs(self) -> list[str]:
    """What was filled, cut or resampled so far, in words."""
    words = []
    if self._order is not None:
      words.append("audio timestamps are unusable: played in order")
    if self._gaps:
      words.append(
        f"audio has {self._gaps} gaps ({self._silence:.3f} s): silence there"
      )
    if self._overlaps:
      words.append(
        f"audio overlaps {self._overlaps} times ({self._removed:.3f} s): cut"
      )
    if abs(self._drift) > _JUMP * self._rate:
      percent = 100 * self._drift / max(self._stretched, 1)
      words.append(f"audio clock is off by {percent:+.2f} %: resampled")
    return words

  def _deviation(self, ahead: Sequence[Piece]) -> tuple[float, float]:
    """What becomes of the next frame.

    Returns:
      Seconds of silence before it, negative to cut it; or 0, and the part by
      which it is stretched.
    """
    expected = self.start + self._count / self._rate
    time, samples = ahead[0]
    seconds = len(samples) / self._rate
    if self._order is not None:
      return self._order.follow(time, expected, seconds)
    late = self._late(itertools.islice(ahead, _AHEAD), expected)
    if abs(late) > _JUMP:
      return late, 0.0
    excess = np.sign(late) * max(abs(late) - _DEAD, 0.0)
    # Of a long frame, no more than makes the deviation good.
    share = np.clip(excess / max(_RELAX, seconds), -_MAX_STRETCH, _MAX_STRETCH)
    return 0.0, float(share)

  def _late(self, ahead: Iterable[Piece], expected: float) -> float:
    """By how much the next frame is late, as far as those after it agree."""
    late = []
    for time, samples in ahead:
      late.append(0.0 if time is None else time - expected)
      if abs(late[0]) <= _DEAD:
        return 0.0
      expected += len(samples) / self._rate
    middle = statistics.median(late)
    if late[0] * middle <= 0:
      return 0.0
    return min(late[0], middle, key=abs)

  def _follow(self, samples: np.ndarray, share: float) -> np.ndarray:
    """Stretches a frame by a part of it."""
    self._stretched += len(samples)
    count = len(samples) + round(share * len(samples))
    if count == len(samples) or len(samples) < 4:
      return samples
    self._drift += count - len(samples)
    return resample_cubic(samples, count)

  def _skip(self, samples: np.ndarray, late: float) -> np.ndarray:
    """Drops what overlaps; notes gaps and overlaps."""
    if late > 0:
      self._gaps += 1
      self._silence += late
      return samples
    count = min(round(-late * self._rate), len(samples))
    self._overlaps += 1
    self._removed += count / self._rate
    return samples[count:]

  def _fill(self, count: int, channels: int) -> Iterator[np.ndarray]:
    self._count += count
    block = max(1, round(_BLOCK * self._rate))
    for begin in range(0, count, block):
      yield np.zeros((min(block, count - begin), channels), np.float32)

  def _ramp(self, samples: np.ndarray, out: bool) -> np.ndarray:
    """Fades a frame in, or out, within 2 ms."""
    count = min(len(samples), max(1, round(_RAMP * self._rate)))
    gain = (np.arange(count, dtype=np.float32) + 0.5) / count
    samples = samples.copy()
    if out:
      samples[len(samples) - count :] *= gain[::-1, None]
    else:
      samples[:count] *= gain[:, None]
    return samples


def resample_cubic(samples: np.ndarray, count: int) -> np.ndarray:
  """Resamples `[n, C]` to `[count, C]`: cubic (Catmull-Rom) interpolation."""
  position = np.arange(count) * (len(samples) / count)
  index = position.astype(int)
  t = (position - index)[:, None]
  padded = np.concatenate([samples[:1], samples, samples[-1:], samples[-1:]])
  a, b, c, d = (padded[index + k] for k in range(4))
  out = b + 0.5 * t * (
    (c - a) + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))
  )
  return out.astype(np.float32)
