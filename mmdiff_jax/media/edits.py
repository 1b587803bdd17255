"""Edit lists of mp4 and mov: which stretches of a track are played, and when.

FFmpeg applies a list of one stretch exactly. Of several it plays a gap as if
it were the beginning of the media, and places pictures and sound that lie
behind a cut to within a few pictures: such lists are applied here.
"""

import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from mmdiff_jax.media.boxes import Entry
from mmdiff_jax.media.container import MediaError

# A decoder starts at least so much before a stretch of sound (seconds): AAC
# needs two packets, Opus 80 ms.
_LEAD_IN = 0.5
# How much further back a picture is looked for from which decoding may start.
_MARGINS = (0.0, 1.0, 4.0, 16.0, 64.0, math.inf)
# Seeking there finds the first packet, should its time be negative.
_BEFORE_ALL = -100.0
# Gaps, and pictures that stand, may last as long, or as what is played.
_STANDS = 10.0
# Times that differ by less are equal (seconds).
EQUAL = 1e-5
# How long one picture is looked for that is to stand (seconds).
_MOMENT = 1e-3


@dataclasses.dataclass(frozen=True)
class Edit:
  """A stretch of a track's media and its place on the file's time axis.

  Attributes:
    begin: its first second in the media.
    end: the second after its last one.
    at: where it begins on the time axis.
    until: where it ends there; later than the media, where a picture stands.
  """

  begin: float = -math.inf
  end: float = math.inf
  at: float = -math.inf
  until: float = math.inf

  def place(self, time: float) -> float:
    """Time in the media -> time on the file's time axis."""
    return time if self is WHOLE else time - self.begin + self.at

  @property
  def stands(self) -> bool:
    """Whether one picture stands for its time."""
    return self.until - self.at > self.end - self.begin + EQUAL

  def is_before(self, time: float) -> bool:
    """Whether a time in the media lies before the stretch."""
    return time < self.begin - EQUAL

  def is_after(self, time: float) -> bool:
    """Whether a time in the media lies behind the stretch."""
    return time > self.end - EQUAL


# All that a track holds, at the times that FFmpeg tells.
WHOLE = Edit()


def stretches(
  path: str | os.PathLike, lists: Sequence[Sequence[Entry] | None]
) -> list[tuple[Edit, ...]]:
  """The stretches that are played of each stream that is read.

  Args:
    path: of the file.
    lists: the edit list of each, or None where there is no such stream; that of
      the pictures is the first.

  Returns:
    `WHOLE` alone for all of them where FFmpeg's own reading is right.

  Raises:
    MediaError: if one plays at another speed, or next to nothing.
  """
  if all(_is_plain(rows or ()) for rows in lists):
    return [(WHOLE,) for _ in lists]
  return [
    (WHOLE,) if rows is None else _stretches(path, rows, pictures=not number)
    for number, rows in enumerate(lists)
  ]


def _is_plain(rows: Sequence[Entry]) -> bool:
  """Whether it is a delay at most, and one stretch."""
  played = [row for row in rows if row.begin is not None]
  if len(played) > 1 or any(row.speed != 1 for row in played):
    return False
  return not rows or rows[-1].begin is not None or not played


def _stretches(
  path: str | os.PathLike, rows: Sequence[Entry], pictures: bool
) -> tuple[Edit, ...]:
  if not rows:
    return (Edit(0.0, math.inf, 0.0, math.inf),)
  edits, at = [], Fraction(0)
  for row in rows:
    until = at + row.seconds
    if row.begin is not None and row.speed == 1:
      end = row.begin + row.seconds
      edits.append(Edit(*map(float, (row.begin, end, at, until))))
    elif row.begin is not None and row.speed == 0:
      # One picture stands, and its sound is silent.
      begin = float(row.begin)
      if pictures:
        edits.append(Edit(begin, begin + _MOMENT, float(at), float(until)))
    elif row.begin is not None:
      raise MediaError(
        path, f"its edit list plays at {float(row.speed):g} times the speed"
      )
    at = until
  played = sum(edit.end - edit.begin for edit in edits)
  if float(at) - played > max(_STANDS, played):
    raise MediaError(
      path, f"its edit list plays {played:.1f} s within {float(at):.0f} s"
    )
  return tuple(edits)


def packets_of(container, stream, edit: Edit) -> Iterator[Any]:
  """Packets that are decoded for a stretch, and those that follow."""
  begin = edit.begin - (_LEAD_IN if stream.type == "audio" else 0.0)
  for margin in _MARGINS:
    start = max(begin - margin, _BEFORE_ALL)
    container.seek(round(start / stream.time_base), stream=stream)
    packets = container.demux(stream)
    first = next(packets, None)
    if first is None:
      return
    ticks = first.dts if first.pts is None else first.pts
    early = ticks is None or float(ticks * first.time_base) <= edit.begin
    if early or start == _BEFORE_ALL:
      yield first
      yield from packets
      return
