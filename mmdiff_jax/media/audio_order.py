"""Sound whose timestamps are unusable is played in the order of its packets."""

import collections

# Smaller deviations of a timestamp from the end of the sound before it may come
# from rounding (seconds).
_JUMP = 4e-3
# Timestamps are unusable where this part of them, and so many, overlap: healthy
# files leave gaps, where packets are lost, but overlap at joints alone.
_OVERLAPS, _LEAST_OVERLAPS = 0.2, 3
# So they are where so many gaps are made good, up to this part, by others that
# come too early: where packets are lost, nothing makes it good.
_LEAST_GAPS, _LEFT = 4, 0.5
# Sound whose timestamps are judged together, and how often (seconds).
_WINDOW, _JUDGED = 10.0, 1.0
# A clock that runs slower than this does not run.
_RUNS = 0.5
# Part of the timestamps of a window, at each end, that may be odd ones.
_ODD = 0.02
# Deviations of a window's middle that are followed, with this time constant
# and at most so much; a larger one is a gap (seconds).
_DEAD, _RELAX, _MAX_STRETCH, _GAP = 0.05, 4.0, 0.01, 1.0


class Survey:
  """Judges the timestamps ahead by how they deviate from each other."""

  def __init__(self) -> None:
    """Starts with none."""
    self._steps: collections.deque[float] = collections.deque()
    self._end: float | None = None
    self._overlaps = self._gaps = 0
    self._gap_sum = self._sum = 0.0

  def add(self, time: float | None, seconds: float) -> None:
    """Takes the next piece: its time, and how long it lasts."""
    step = 0.0
    if time is not None and self._end is not None:
      step = time - self._end
    self._end = None if time is None else time + seconds
    self._steps.append(step)
    self._count(step, 1)

  def drop(self) -> None:
    """Forgets the oldest piece."""
    self._count(self._steps.popleft(), -1)

  def _count(self, step: float, sign: int) -> None:
    self._sum += sign * step
    self._overlaps += sign * (step < -_JUMP)
    if step > _JUMP:
      self._gaps += sign
      self._gap_sum += sign * step

  def is_unusable(self) -> bool:
    """Whether the timestamps contradict each other."""
    least = max(_LEAST_OVERLAPS, _OVERLAPS * len(self._steps))
    made_good = self._sum < _LEFT * self._gap_sum
    return self._overlaps >= least or (self._gaps >= _LEAST_GAPS and made_good)


class Follower:
  """Follows a clock by the middle of its deviations alone."""

  def __init__(self) -> None:
    """Starts with no timestamp."""
    # (time, deviation, seconds) of the pieces of a window.
    self._window: collections.deque[tuple[float, float, float]] = (
      collections.deque()
    )
    self._seconds = self._since = self._moved = 0.0
    self._usual: float | None = None

  def follow(
    self, time: float | None, expected: float, seconds: float
  ) -> tuple[float, float]:
    """How the sound follows the clock with the next piece.

    Args:
      time: of the piece, or None.
      expected: its time, in the order of the pieces.
      seconds: how long it lasts.

    Returns:
      Seconds of silence before it; or 0, and the part by which it is stretched.
    """
    late = 0.0 if time is None else self._late(time, expected, seconds)
    if late > _GAP:
      self._window.clear()
      self._seconds = 0.0
      return late, 0.0
    if abs(late) <= _DEAD:
      return 0.0, 0.0
    return 0.0, max(-_MAX_STRETCH, min(_MAX_STRETCH, late / _RELAX))

  def _late(self, time: float, expected: float, seconds: float) -> float:
    """By how much the clock has moved against the sound (seconds)."""
    self._window.append((time, time - expected, seconds))
    self._seconds += seconds
    self._since += seconds
    if self._seconds < _WINDOW:
      return 0.0
    while self._seconds - self._window[0][2] >= _WINDOW:
      self._seconds -= self._window.popleft()[2]
    if self._since >= _JUDGED:
      self._since, self._moved = 0.0, self._judge()
    return self._moved

  def _judge(self) -> float:
    times = [time for time, _, _ in self._window]
    if max(times) - min(times) < _RUNS * self._seconds:
      return 0.0  # The clock stands.
    late = sorted(late for _, late, _ in self._window)
    # Between the extremes, but for a few odd ones: where timestamps come in
    # bursts, the median depends on where in a burst the window ends.
    few = int(_ODD * len(late))
    middle = (late[few] + late[-1 - few]) / 2
    if self._usual is None:
      self._usual = middle
    return middle - self._usual
