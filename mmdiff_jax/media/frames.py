"""The pictures of a file on its time axis, in the order of their display."""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

from mmdiff_jax.media.container import Deadline, ReadOptions, opened
from mmdiff_jax.media.decoding import Decoder
from mmdiff_jax.media.display import Display, Geometry, Orientation
from mmdiff_jax.media.edits import EQUAL, WHOLE, Edit
from mmdiff_jax.media.streams import Streams


@dataclasses.dataclass(frozen=True)
class Header:
  """What a file declares.

  Attributes:
    kind: of its container, by FFmpeg's name.
    begin: first second.
    seconds: its duration, or None.
    streams: how many it has.
  """

  kind: str
  begin: float
  seconds: float | None
  streams: int

  @property
  def end(self) -> float | None:
    """The second after the last one, or None."""
    return None if self.seconds is None else self.begin + self.seconds


class Picture(NamedTuple):
  """A decoded frame.

  Attributes:
    frame: of PyAV.
    turn: its orientation.
    display: what is known of the stream's frames.
  """

  frame: Any
  turn: Orientation
  display: Display

  @property
  def geometry(self) -> Geometry:
    """How it is displayed."""
    return self.display.geometry(self.frame, self.turn)


class TimedFrames:
  """Decoded frames of a video stream with strictly increasing times.

  Attributes:
    rate: nominal frames per second (from the first frame on).
    header: of the file (from the first frame on).
    end: when the last frame so far ends (seconds).
    may_end: when it ends if the sound lasts as long (after iteration).
    repairs: what is wrong with the timestamps (after iteration).
    restarts: how often the clocks restarted (after iteration).
  """

  def __init__(
    self, path: str | os.PathLike, streams: Streams, options: ReadOptions
  ):
    """Reads the video of a file."""
    self.rate, self.end = Fraction(10), -math.inf
    self.may_end = -math.inf
    self.header: Header | None = None
    self.repairs: list[str] = []
    self.restarts = 0
    self._refused = 0
    self._path, self._streams, self._options = path, streams, options
    self._deadline = Deadline(path, options.time_limit)
    self._decoder: Decoder | None = None

  def show_on(self, grid: Callable[[float], int]) -> None:
    """Says which of the pictures that follow are needed.

    Args:
      grid: time (seconds) -> number of the first point of a time grid at or
        after it. Of the pictures before a point the last one is needed.
    """
    # Around the cuts of an edit list the next picture is another one.
    if self._decoder is not None and self._streams.video_edits == (WHOLE,):
      self._decoder.skipper.grid = grid

  def __iter__(self) -> Iterator[tuple[float, Picture]]:
    """Yields (seconds, picture).

    Raises:
      MediaError: if the file is damaged.
    """
    last, odd = None, 0
    for edit in self._streams.video_edits:
      for time, frame in self._stretch(edit):
        if last is None or time > last:
          yield time, frame
          last = time
        else:
          odd += 1
    if odd:
      self.repairs.append(f"{odd} frames with times out of order left out")
    if self._refused:
      self.repairs.append(
        f"{self._refused} frames that FFmpeg cannot decode: the ones before"
        " them held"
      )
    if self.restarts:
      self.repairs.append(f"clocks restart {self.restarts} times: joined")

  def _stretch(self, edit: Edit) -> Iterator[tuple[float, Picture]]:
    """Yields the pictures of a stretch at their places on the time axis."""
    hwaccel = self._options.hwaccel
    with opened(self._path, hwaccel, plays_edits=edit is WHOLE) as container:
      self._decoder = Decoder(
        self._path,
        container,
        self._streams,
        self._options,
        edit,
        self._deadline,
      )
      self.rate = self._decoder.rate
      self.header = self.header or _header(container, self._streams)
      for time, end, picture in self._within(self._decoder, edit):
        self._extend(edit, end)
        yield edit.place(time), picture
      if self._decoder.end is not None:
        self._extend(edit, self._decoder.end)
        latest = self._decoder.may_end or self._decoder.end
        self.may_end = min(edit.place(latest), edit.until)
      self._refused += self._decoder.refused
      self.restarts += self._decoder.restarts

  def _extend(self, edit: Edit, end: float) -> None:
    """Notes that pictures last to a time in the media, if that is played."""
    at = edit.until if edit.stands else min(edit.place(end), edit.until)
    self.end = max(self.end, at)

  def _within(
    self, decoder: Decoder, edit: Edit
  ) -> Iterator[tuple[float, float, Picture]]:
    """Yields the pictures of a stretch, from when and until when they stand."""
    before = None
    display = decoder.display
    for time, frame in decoder:
      duration = frame.duration * frame.time_base if frame.duration else 0
      end = time + float(duration or 1 / decoder.rate)
      turn = display.follow(frame, decoder.restarts)
      picture = Picture(frame, turn, display)
      if edit.is_before(time):
        before = end, picture
        continue
      if before is not None and time > edit.begin + EQUAL:
        # On display when the stretch begins.
        yield edit.begin, *before
      before = None
      if edit.is_after(time):
        return
      yield time, end, picture
    if before is not None:
      yield edit.begin, *before


def _header(container, streams: Streams) -> Header:
  begin = (container.start_time or 0) / 1e6
  seconds = None if container.duration is None else container.duration / 1e6
  if streams.video_edits != (WHOLE,):
    begin, seconds = 0.0, streams.video_edits[-1].until
  return Header(container.format.name, begin, seconds, len(container.streams))
