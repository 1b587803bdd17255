"""Reads video files as clips on a regular grid, and writes clips as files.

Frames are picked by timestamp, never by index: grid frame k is the one on
display k/fps seconds after the origin. Audio is placed by its timestamps on
the same time axis, so that a late stream stays late, and is cut (AAC's end
padding) or zero-padded to the time span of the frames.
"""

import dataclasses
import math
import os
from collections.abc import Iterator

import numpy as np

from mmdiff_jax.media.audio_mixer import CHANNELS
from mmdiff_jax.media.audio_track import AudioTrack, read_track
from mmdiff_jax.media.colours import UnknownColours, resolve
from mmdiff_jax.media.container import MediaError, ReadOptions
from mmdiff_jax.media.frames import Header, Picture, TimedFrames
from mmdiff_jax.media.picture import Renderer
from mmdiff_jax.media.streams import choose_streams
from mmdiff_jax.media.writing import (
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
# A first picture may be held as long (seconds), or as the pictures last.
_HELD = 1.0
# Silence may be added for as long (seconds), or for so many times the sound.
_SILENT, _SILENT_SHARE = 60.0, 9.0
# Decoded part of a file's own duration below which it counts as truncated.
_COMPLETE = 0.9


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

  Rotation, pixel aspect ratio and interlacing are resolved; what becomes of
  another aspect ratio than that of `size` is a choice of the options (`fit`).

  Args:
    path: any file that FFmpeg reads.
    fps: frames per second to resample to; None keeps the file's average.
    size: height and width (or one number for both); None keeps the file's.
    sample_rate: audio rate to resample to (Hz); None keeps the file's.
    channels: "mean" of all channels or "first" channel; "all" keeps up to two.
    options: bounds and choices of reading.

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
  return np.concatenate(list(track.blocks())), track.sample_rate


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
    self._renderer = Renderer()
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
    streams.check_colours(self.path)
    self.repairs += streams.notes
    frames = TimedFrames(self.path, streams, self._options)
    index, start = 0, 0.0
    current: Picture | None = None
    for time, picture in frames:
      if current is None:
        start = time
        self.fps = self.fps or float(frames.rate)
        self._set_origin(start)
        if frames.header is not None and frames.header.end is not None:
          self._check_held(start, frames.header.end)
        frames.show_on(self._grid)
      else:
        # Grid points before this frame's time still show the last one.
        due = max(index, self._grid(time))
        yield from self._repeat(current, due - index)
        index = due
      current = picture
    if current is None:
      raise MediaError(self.path, "holds no video frame")
    end = self._end(frames, silent=streams.audio is None)
    self._check_held(start, end)
    self._check_overlap(start, end)
    self.repairs += frames.repairs
    if not frames.restarts:
      _check_complete(self.path, frames.header, end, self._track)
    total = int((end - self.origin) * self.fps + _END_TOLERANCE)
    if total == 0:
      raise MediaError(
        self.path, f"lasts {end - self.origin:.3f} s: less than one frame"
      )
    yield from self._repeat(current, total - index)
    self.repairs += self._renderer.notes

  def _check_held(self, start: float, end: float) -> None:
    """Refuses a film whose first picture is held for most of it.

    Args:
      start: time of the first picture.
      end: when the last one ends, as far as is known.
    """
    held = start - self.origin
    if held > max(_HELD, end - start):
      raise MediaError(
        self.path,
        f"its sound starts {held:.0f} s before its pictures, which last"
        f" {end - start:.1f} s",
      )

  def _check_overlap(self, start: float, end: float) -> None:
    """Refuses a film most of whose sound would be made up.

    Args:
      start: time of the first picture.
      end: when the last one ends.
    """
    if self._track is None:
      return
    begin, stop = self._track.start, self._track.end(end)
    if begin >= end or stop <= start:
      raise MediaError(self.path, "its sound and its pictures do not overlap")
    heard = min(stop, end) - max(begin, self.origin)
    silent = end - self.origin - heard
    if silent > max(_SILENT, _SILENT_SHARE * heard):
      raise MediaError(
        self.path,
        f"its sound lasts {heard:.1f} s, its pictures {end - start:.0f} s",
      )

  def _end(self, frames: TimedFrames, silent: bool) -> float:
    """When the last picture ends.

    Args:
      frames: all of which are read.
      silent: the file has no sound that tells how long it lasts.
    """
    latest = frames.may_end
    if latest <= frames.end or (self._track is None and not silent):
      return frames.end
    heard = self._track.end(latest) if self._track else latest
    return max(frames.end, min(heard, latest))

  def _grid(self, time: float) -> int:
    """Number of the first grid point that a frame of that time may show."""
    return math.ceil((time - _TIME_TOLERANCE - self.origin) * self.fps)

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

  def _repeat(self, picture: Picture, count: int) -> Iterator[np.ndarray]:
    if count <= 0:
      return
    shape, display = picture.geometry, picture.display
    self.native_size = shape.size
    self._size = self._size or shape.size
    options = self._options
    try:
      name = resolve(picture.frame, display.tags).hdr
      if name and options.hdr == "skip":
        raise MediaError(self.path, f"is of high dynamic range ({name})")
      image = self._renderer.render(
        picture.frame, shape, display, *self._size, options.fit
      )
    except UnknownColours as error:
      raise MediaError(
        self.path, f"its colours ({error}) cannot be converted"
      ) from error
    for _ in range(count):
      yield image


def _check_complete(
  path, header: Header | None, video_end: float, track: AudioTrack | None
) -> None:
  """Compares what was decoded with the duration that the file declares."""
  assert header is not None
  if header.kind == "gif" and not _has_gif_trailer(path):
    raise MediaError(path, "truncated: the end mark of the gif is missing")
  used = 1 + (track is not None)
  if header.seconds is None or header.streams != used:
    return
  end = max(video_end, track.end(video_end + 1)) if track else video_end
  decoded = end - min(header.begin, 0.0)
  if decoded < _COMPLETE * header.seconds:
    raise MediaError(
      path,
      f"truncated: {decoded:.2f} s of {header.seconds:.2f} s can be decoded",
    )


def _has_gif_trailer(path: str | os.PathLike) -> bool:
  with open(path, "rb") as file:
    file.seek(max(0, os.path.getsize(path) - 1024))
    return file.read().rstrip(b"\0\r\n").endswith(b";")
