"""Reads video files as clips on a regular grid, and writes clips as files.

Frames are picked by timestamp, never by index: grid frame k is the one on
display k/fps seconds after the origin. Audio is placed by its timestamps on
the same time axis, so that a late stream stays late, and is cut (AAC's end
padding) or zero-padded to the time span of the frames.
"""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from mmdiff_jax.data.audio_mixer import CHANNELS
from mmdiff_jax.data.audio_track import AudioTrack, read_track
from mmdiff_jax.data.container import (
  Deadline,
  MediaError,
  ReadOptions,
  opened,
)
from mmdiff_jax.data.hdr import NAMES as HDR_NAMES
from mmdiff_jax.data.media_picture import geometry, render
from mmdiff_jax.data.media_streams import Packets, Streams, choose_streams
from mmdiff_jax.data.media_writer import (
  AAC_RATES,
  write_gif_grid,
  write_mp4,
  write_png_frames,
  write_wav,
)

__all__ = [
  "AAC_RATES",
  "CHANNELS",
  "AudioTrack",
  "FrameReader",
  "Media",
  "MediaError",
  "ReadOptions",
  "read_audio",
  "read_media",
  "read_track",
  "write_gif_grid",
  "write_mp4",
  "write_png_frames",
  "write_wav",
]

# Timestamps of some containers are rounded to 1 ms: a frame that starts so
# much after a grid point still counts as being on display there.
_TIME_TOLERANCE = 2e-3
# Part of a frame by which a video may fall short of its last grid frame.
_END_TOLERANCE = 0.1
# A picture may stand that long where the file does not tell its duration;
# where it does, a timestamp may lie that much behind its end (seconds).
_LONGEST_STILL, _BEYOND_END = 3600.0, 60.0
# Decoded part of a file's own duration below which it counts as truncated.
_COMPLETE = 0.9
# Packets, and decoded frames, that show how a stream is timed.
_TIMING_PACKETS, _TIMING_FRAMES = 100, 40
# Packets around a restart of the clocks in which damage may come from it.
_JOINT = 8


@dataclasses.dataclass(frozen=True)
class Media:
  """A decoded file.

  Attributes:
    video: uint8 `[F, H, W, 3]`.
    audio: float32 `[L, 1]` in [-1, 1] (`[L, C]` where all channels were asked
      for), or None where the file has none.
    fps: frames per second of `video`.
    sample_rate: samples per second of `audio`, or None.
    repairs: what had to be padded or cut, in words.
  """

  video: np.ndarray
  audio: np.ndarray | None
  fps: float
  sample_rate: int | None
  repairs: tuple[str, ...] = ()


def read_media(
  path: str | os.PathLike,
  *,
  fps: float | None = None,
  size: int | tuple[int, int] | None = None,
  sample_rate: int | None = None,
  channels: str = "mean",
  options: ReadOptions | None = None,
) -> Media:
  """Reads a video file with its sound.

  Rotation, pixel aspect ratio and interlacing are resolved; frames keep their
  aspect ratio (bicubic, black bars).

  Args:
    path: any file that FFmpeg reads.
    fps: frames per second to resample to; None keeps the file's average.
    size: height and width (or one number for both); None keeps the file's.
    sample_rate: audio rate to resample to (Hz); None keeps the file's.
    channels: "mean" of all channels or "first" channel; "all" keeps up to two.
    options: bounds of reading.

  Raises:
    MediaError: if the file is missing, damaged, or has no video.
    ValueError: if an argument is out of range.
  """
  track = read_track(path, sample_rate, channels, options)
  reader = FrameReader(path, fps, size, track, options)
  video = np.stack(list(reader))
  audio, repairs, rate = None, list(reader.repairs), None
  if track is not None:
    rate = track.sample_rate
    length = round(len(video) * rate / reader.fps)
    audio = track.cut(reader.origin, 0, length)
    repairs += track.repairs(reader.origin, len(video) / reader.fps)
  return Media(video, audio, reader.fps, rate, tuple(repairs))


def read_audio(
  path: str | os.PathLike,
  *,
  sample_rate: int | None = None,
  channels: str = "mean",
  options: ReadOptions | None = None,
) -> tuple[np.ndarray, int]:
  """Reads the sound of a wav, mp4 ... -> (float32 `[L, 1]`, sample rate).

  Raises:
    MediaError: if the file is missing, damaged, or has no audio.
  """
  track = read_track(path, sample_rate, channels, options)
  if track is None:
    raise MediaError(path, "has no audio")
  length = round((track.end() - track.start) * track.sample_rate)
  return track.cut(track.start, 0, length), track.sample_rate


class FrameReader:
  """Iterates over a video's frames on a regular time grid, in little memory.

  Where the audio starts before the video by whole grid frames, the first
  frame is held for them; `origin` is the time of the first grid frame.

  Attributes:
    fps: frames per second of the grid (after iteration).
    origin: time of grid frame 0 on the file's time axis (after iteration).
    native_size: displayed height and width of the file (after iteration).
    repairs: what was padded, in words (after iteration).
  """

  def __init__(
    self,
    path: str | os.PathLike,
    fps: float | None = None,
    size: int | tuple[int, int] | None = None,
    track: AudioTrack | None = None,
    options: ReadOptions | None = None,
  ):
    """See `read_media`; `track` is the file's sound, if it has any."""
    if fps is not None and not fps > 0:
      raise ValueError(f"fps must be positive, got {fps}.")
    if size is not None:
      size = (size, size) if isinstance(size, int) else size
      if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be positive height, width; got {size}.")
    self.path, self.fps, self._size, self._track = path, fps or 0.0, size, track
    self._options = options or ReadOptions()
    self.origin = 0.0
    self.native_size = (0, 0)
    self.repairs: list[str] = []

  def __iter__(self) -> Iterator[np.ndarray]:
    """Yields uint8 `[H, W, 3]`.

    Raises:
      MediaError: if the file is missing, damaged, or has no video.
    """
    streams = choose_streams(self.path)
    if streams.video is None:
      raise MediaError(self.path, "has no video")
    self.repairs += streams.notes
    with opened(self.path) as container:
      frames = TimedFrames(self.path, container, streams, self._options)
      self.fps = self.fps or float(frames.rate)
      index, current, end = 0, None, 0.0
      for time, frame in frames:
        if current is None:
          self._set_origin(time)
        else:
          # Grid points before this frame's time still show the last one.
          grid = (time - _TIME_TOLERANCE - self.origin) * self.fps
          due = max(index, int(np.ceil(grid)))
          yield from self._repeat(current, frames.aspect, due - index)
          index = due
        duration = frame.duration * frame.time_base if frame.duration else 0
        end = time + float(duration or 1 / frames.rate)
        current = frame
      if current is None:
        raise MediaError(self.path, "holds no video frame")
      self.repairs += frames.repairs
      if not frames.restarts:
        _check_complete(self.path, container, end, self._track)
      total = int((end - self.origin) * self.fps + _END_TOLERANCE)
      if total == 0:
        raise MediaError(
          self.path, f"lasts {end - self.origin:.3f} s: less than one frame"
        )
      yield from self._repeat(current, frames.aspect, total - index)

  def _set_origin(self, start: float) -> None:
    self.origin = start
    late = start - self._track.start if self._track else 0.0
    held = int(late * self.fps + _END_TOLERANCE)
    if held > 0:
      # Whole grid frames, so that the grid keeps its phase to the frames.
      self.origin = start - held / self.fps
      self.repairs.append(
        f"video starts {late:.2f} s late: first frame held {held} times"
      )

  def _repeat(self, frame, aspect: float, count: int) -> Iterator[np.ndarray]:
    if count <= 0:
      return
    shape = geometry(frame, aspect)
    self.native_size = shape.size
    self._size = self._size or shape.size
    self._note_hdr(frame)
    image = render(frame, shape, *self._size)
    for _ in range(count):
      yield image

  def _note_hdr(self, frame) -> None:
    name = HDR_NAMES.get(frame.color_trc)
    if name is None:
      return
    if self._options.hdr == "skip":
      raise MediaError(self.path, f"is of high dynamic range ({name})")
    words = f"high dynamic range ({name}) mapped to BT.709 (BT.2390)"
    if words not in self.repairs:
      self.repairs.append(words)


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
    for packet, piece in packets:
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


def _check_complete(
  path, container, video_end: float, track: AudioTrack | None
) -> None:
  """Compares what was decoded with the duration that the file declares."""
  if container.format.name == "gif" and not _has_gif_trailer(path):
    raise MediaError(path, "truncated: the end mark of the gif is missing")
  used = 1 + (track is not None)
  if container.duration is None or len(container.streams) != used:
    return
  declared = container.duration / 1e6
  end = max(video_end, track.end(video_end + 1)) if track else video_end
  decoded = end - min((container.start_time or 0) / 1e6, 0.0)
  if decoded < _COMPLETE * declared:
    raise MediaError(
      path, f"truncated: {decoded:.2f} s of {declared:.2f} s can be decoded"
    )


def _has_gif_trailer(path: str | os.PathLike) -> bool:
  with open(path, "rb") as file:
    file.seek(max(0, os.path.getsize(path) - 1024))
    return file.read().rstrip(b"\0\r\n").endswith(b";")
