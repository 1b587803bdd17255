"""Decoded frames of a video stream with the times of their display."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

from mmdiff_jax.media.container import Deadline, MediaError, ReadOptions
from mmdiff_jax.media.skip import Skipper
from mmdiff_jax.media.streams import Packets, Streams

# A picture may stand that long where the file does not tell its duration;
# where it does, a timestamp may lie that much behind its end (seconds).
_LONGEST_STILL, _BEYOND_END = 3600.0, 60.0
# Packets, and decoded frames, that show how a stream is timed.
_TIMING_PACKETS, _TIMING_FRAMES = 100, 40
# Packets around a restart of the clocks in which damage may come from it.
_JOINT = 8


class TimedFrames:
  """Decoded frames of a video stream with strictly increasing times.

  Attributes:
    rate: nominal frames per second.
    aspect: width over height of a stored pixel.
    repairs: what is wrong with the timestamps (after iteration).
    restarts: how often the clocks restarted (after iteration).
  """

  def __init__(
    self,
    path: str | os.PathLike,
    container,
    streams: Streams,
    options: ReadOptions,
  ):
    """Reads the video of an open container."""
    assert streams.video is not None
    stream = container.streams[streams.video]
    self.rate = stream.average_rate or stream.guessed_rate or Fraction(10)
    self.aspect = float(stream.sample_aspect_ratio or 1)
    self.repairs: list[str] = []
    self.restarts = 0
    self._refused = 0
    self._path, self._container, self._stream = path, container, stream
    self._options = options
    self._deadline = Deadline(path, options.time_limit)
    self._packets = Packets(container, streams, streams.video)
    self._check_size(stream.width, stream.height)
    context = stream.codec_context
    context.thread_type, context.thread_count = "AUTO", options.threads
    self._skipper = Skipper(context)

  def show_on(self, grid: Callable[[float], int]) -> None:
    """Says which of the pictures that follow are needed.

    Args:
      grid: time (seconds) -> number of the first point of a time grid at or
        after it. Of the pictures before a point the last one is needed.
    """
    self._skipper.grid = grid

  def __iter__(self) -> Iterator[tuple[float, Any]]:
    """Yields (seconds, frame)."""
    source = iter(self._packets)
    first = list(itertools.islice(source, _TIMING_PACKETS))
    frames = self._decode(itertools.chain(first, source))
    held: list[Any] = []
    by_dts = False
    if _may_lack_pts([packet for packet, _ in first]):
      held = list(itertools.islice(frames, _TIMING_FRAMES))
      shown = [frame.pts for frame in held if frame.pts is not None]
      by_dts = any(b <= a for a, b in itertools.pairwise(shown))
    if by_dts:
      self._skipper.stop()
    last, odd = None, 0
    for frame in itertools.chain(held, frames):
      time = self._time(frame, by_dts, last)
      if last is None or time > last:
        self._check_still(time, last)
        yield time, frame
        last = time
      else:
        odd += 1
    self.restarts = self._packets.restarts
    if odd:
      self.repairs.append(f"{odd} frames with times out of order left out")
    if self._refused:
      self.repairs.append(
        f"{self._refused} frames that FFmpeg cannot decode: the ones before"
        " them held"
      )
    if self.restarts:
      self.repairs.append(f"clocks restart {self.restarts} times: joined")

  def _time(self, frame, by_dts: bool, last: float | None) -> float:
    ticks = frame.dts if by_dts else frame.pts
    if ticks is not None and frame.time_base:
      return float(ticks * frame.time_base)
    return 0.0 if last is None else last + float(1 / self.rate)

  def _check_still(self, time: float, last: float | None) -> None:
    """A picture may stand long, but not beyond the end of the file."""
    if last is None or time - last < _BEYOND_END:
      return
    container = self._container
    latest = last + _LONGEST_STILL
    if container.duration is not None and not self._packets.restarts:
      end = ((container.start_time or 0) + container.duration) / 1e6
      latest = end + _BEYOND_END
    if time > latest:
      raise MediaError(self._path, f"timestamps jump by {time - last:.0f} s")

  def _check_size(self, width: int, height: int) -> None:
    if width * height > self._options.max_pixels:
      raise MediaError(
        self._path,
        f"{width}x{height} pixels: more than the {self._options.max_pixels}"
        " that are allowed",
      )

  def _decode(self, packets: Iterable[tuple[Any, int]]) -> Iterator[Any]:
    """Yields frames; raises MediaError at damage."""
    import av

    # Packets since the clocks restarted, and since damage was seen. Around the
    # joint of two files the end of the first one looks damaged.
    joint, since = _JOINT + 1, None
    restarts, shown = 0, 0.0
    for packet, piece in self._skipper.watch(packets):
      self._deadline.check()
      joint += 1
      if piece > restarts:
        joint, since, restarts = 0, None, piece
      if since is not None:
        since += 1
        if since > _JOINT:
          break
      try:
        frames = packet.decode()
      except av.error.PermissionError:
        if self._stream.codec_context.name != "theora":
          raise
        # FFmpeg's Theora decoder does not know every coding of blocks; it says
        # so by -1, and goes on with the next frame.
        self._refused += 1
        continue
      corrupt = packet.is_corrupt or any(frame.is_corrupt for frame in frames)
      if corrupt and joint > _JOINT:
        since = since or 0
      for frame in frames:
        shown = float(frame.time or 0.0)
        self._check_size(frame.width, frame.height)
        if frame.interlaced_frame:
          # The two fields of a picture may come in packets of their own.
          self._skipper.stop()
        yield frame
    if since is not None:
      raise MediaError(self._path, f"damaged after {shown:.2f} s of video")


def _may_lack_pts(packets: Sequence) -> bool:
  """Whether times of display may be missing, as they are in AVI.

  Where they are there, a stream whose frames are reordered shows it.
  """
  times = [p.pts for p in packets if p.pts is not None]
  if any(b < a for a, b in itertools.pairwise(times)):
    return False
  return any(p.pts != p.dts for p in packets)
