"""Decodes the pictures of an open file, each with the time of its display."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

from mmdiff_jax.media.container import Deadline, MediaError, ReadOptions
from mmdiff_jax.media.display import Display
from mmdiff_jax.media.edits import Edit
from mmdiff_jax.media.skip import Skipper
from mmdiff_jax.media.streams import Packets, Streams
from mmdiff_jax.media.transport import is_joined

# A picture may stand that long where the file does not tell its duration;
# where it does, a timestamp may lie that much behind its end (seconds).
_LONGEST_STILL, _BEYOND_END = 3600.0, 60.0
# Packets, and decoded frames, that show how a stream is timed.
_TIMING_PACKETS, _TIMING_FRAMES = 100, 40
# FFmpeg leaves out a last page of Ogg in which all packets are empty (seconds).
_LOST_REPEATS = 2.0
# Decoders of WebM's transparency, which FFmpeg's own ones pass over.
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# Packets around a restart of the clocks in which damage may come from it.
_JOINT = 8


class Decoder:
  """Decodes one stretch of a video stream.

  Attributes:
    rate: nominal frames per second.
    display: how the frames are displayed.
    skipper: leaves out pictures that nobody sees.
    refused: frames so far that the decoder does not know.
    end: when the last packet's content ends, or None (after iteration).
    may_end: when the last picture ends, if the sound lasts as long; or None.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    container,
    streams: Streams,
    options: ReadOptions,
    edit: Edit,
    deadline: Deadline,
  ):
    """Reads the video of an open container.

    Args:
      path: of the file.
      container: open.
      streams: that are read of it.
      options: bounds and choices of reading.
      edit: the stretch; frames before and behind it come, too.
      deadline: of the whole file.
    """
    assert streams.video is not None
    stream = container.streams[streams.video]
    self.rate = stream.average_rate or stream.guessed_rate or Fraction(10)
    self.display = Display(stream, streams.track.crop)
    self.refused = 0
    self.end: float | None = None
    self.may_end: float | None = None
    self._path, self._container, self._stream = path, container, stream
    self._options, self._deadline = options, deadline
    self._packets = Packets(container, streams, streams.video, edit)
    self._joined: bool | None = None
    self._has_sound = streams.audio is not None
    self._check_size(stream.width, stream.height)
    self._context = _context_of(stream)
    self._context.thread_type = "AUTO"
    self._context.thread_count = options.threads
    self.skipper = Skipper(self._context)

  @property
  def restarts(self) -> int:
    """How often the clocks have restarted so far."""
    return self._packets.restarts

  def __iter__(self) -> Iterator[tuple[float, Any]]:
    """Yields (seconds, frame), as the decoder has them."""
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
      self.skipper.stop()
    last = None
    for frame in itertools.chain(held, frames):
      time = self._time(frame, by_dts, last)
      self._check_still(time, last)
      yield time, frame
      last = time if last is None else max(time, last)
    end = self._packets.end
    if last is not None and end is not None:
      # Pictures that repeat the last one have no frames of their own.
      self._check_still(end, last)
      self._packets.reach_end()
      self._packets.check_nothing(self._path)
      self.end = end
      self.may_end = self._latest_end(end)

  def _open(self, packet) -> list[Any]:
    """Frames that a packet makes available."""
    if self._context is self._stream.codec_context:
      return packet.decode()
    # The last one has no content, and frames are not held back.
    return self._context.decode(packet) if packet.size else []

  def _is_joined(self) -> bool:
    """Whether what looks damaged are segments that were joined."""
    if self._joined is None:
      transport = self._container.format.name == "mpegts"
      self._joined = transport and is_joined(self._path)
    return self._joined

  def _latest_end(self, end: float) -> float | None:
    """Until when packets that repeat the last picture may have been dropped."""
    if self._packets.repeats and self._has_sound:
      return end + _LOST_REPEATS
    stream = self._stream
    if self._container.format.name == "avi" and stream.duration:
      # FFmpeg passes no empty chunks on; the header counts them.
      declared = float(stream.duration * stream.time_base)
      if declared > end and _is_whole_riff(self._path):
        return declared
    return None

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
    if container.duration is not None and not self.restarts:
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
    for packet, piece in self.skipper.watch(packets):
      self._deadline.check()
      self._packets.check_nothing(self._path)
      joint += 1
      if piece > restarts:
        joint, since, restarts = 0, None, piece
      if since is not None:
        since += 1
        if since > _JOINT:
          break
      try:
        frames = self._open(packet)
      except av.error.PermissionError:
        if self._context.name != "theora":
          raise
        # FFmpeg's Theora decoder does not know every coding of blocks; it says
        # so by -1, and goes on with the next frame.
        self.refused += 1
        continue
      corrupt = packet.is_corrupt or any(frame.is_corrupt for frame in frames)
      if corrupt and joint > _JOINT and since is None:
        since = None if self._is_joined() else 0
      for frame in frames:
        shown = float(frame.time or 0.0)
        self._check_size(frame.width, frame.height)
        if frame.interlaced_frame:
          # The two fields of a picture may come in packets of their own.
          self.skipper.stop()
        yield frame
    if since is not None:
      raise MediaError(self._path, f"damaged after {shown:.2f} s of video")


def _context_of(stream):
  """The decoder of a stream; one that knows transparency where there is any."""
  import av

  context = stream.codec_context
  name = _WITH_ALPHA.get(context.name)
  marked = stream.metadata.get("alpha_mode", "0") != "0"
  if name is None or not marked or name not in av.codecs_available:
    return context
  return av.CodecContext.create(name, "r")


def _may_lack_pts(packets: Sequence) -> bool:
  """Whether times of display may be missing, as they are in AVI.

  Where they are there, a stream whose frames are reordered shows it.
  """
  times = [p.pts for p in packets if p.pts is not None]
  if any(b < a for a, b in itertools.pairwise(times)):
    return False
  return any(p.pts != p.dts for p in packets)


def _is_whole_riff(path: str | os.PathLike) -> bool:
  """Whether a file is as long as its head says: not cut off."""
  with open(path, "rb") as file:
    head = file.read(8)
  size = int.from_bytes(head[4:], "little")
  return head[:4] == b"RIFF" and 0 < size <= os.path.getsize(path) - 8
