"""Reads video files as clips on a regular grid, and writes clips as files.

Frames are picked by timestamp, never by index: grid frame k is the one on
display k/fps seconds after the origin. Audio is placed by its timestamps on
the same time axis, so that a late stream stays late, and is cut (AAC's end
padding) or zero-padded to the time span of the frames.
"""

import dataclasses
import os
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from mmdiff_jax.data.audio_track import CHANNELS, AudioTrack, read_track
from mmdiff_jax.data.container import MediaError, opened
from mmdiff_jax.data.media_writer import (
  AAC_RATES,
  write_gif_grid,
  write_mp4,
  write_png_frames,
  write_wav,
)
from mmdiff_jax.data.transforms import fit_frame

__all__ = [
  "AAC_RATES",
  "CHANNELS",
  "AudioTrack",
  "FrameReader",
  "Media",
  "MediaError",
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
# A longer gap between two frames means broken timestamps (seconds).
_VIDEO_GAP = 60.0
# Decoded part of a file's own duration below which it counts as truncated.
_COMPLETE = 0.9
# AVColorSpace values: BT.709, unspecified; swscale's ITU709.
_UNSPECIFIED, _SWS_ITU709 = 2, 1


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
) -> Media:
  """Reads a video file with its sound.

  Rotation, pixel aspect ratio and interlacing are resolved; frames keep their
  aspect ratio (bicubic, black bars).

  Args:
    path: any file that FFmpeg reads.
    fps: frames per second to resample to; None keeps the file's average.
    size: height and width (or one number for both); None keeps the file's.
    sample_rate: audio rate to resample to (Hz); None keeps the file's.
    channels: "mean" of all channels or "first" channel; "all" keeps them.

  Raises:
    MediaError: if the file is missing, damaged, or has no video.
    ValueError: if an argument is out of range.
  """
  track = read_track(path, sample_rate, channels)
  reader = FrameReader(path, fps, size, track)
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
) -> tuple[np.ndarray, int]:
  """Reads the sound of a wav, mp4 ... -> (float32 `[L, 1]`, sample rate).

  Raises:
    MediaError: if the file is missing, damaged, or has no audio.
  """
  track = read_track(path, sample_rate, channels)
  if track is None:
    raise MediaError(path, "has no audio")
  length = round((track.end - track.start) * track.sample_rate)
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
  ):
    """See `read_media`; `track` is the file's sound, if it has any."""
    if fps is not None and not fps > 0:
      raise ValueError(f"fps must be positive, got {fps}.")
    if size is not None:
      size = (size, size) if isinstance(size, int) else size
      if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be positive height, width; got {size}.")
    self.path, self.fps, self._size, self._track = path, fps or 0.0, size, track
    self.origin = 0.0
    self.native_size = (0, 0)
    self.repairs: list[str] = []

  def __iter__(self) -> Iterator[np.ndarray]:
    """Yields uint8 `[H, W, 3]`.

    Raises:
      MediaError: if the file is missing, damaged, or has no video.
    """
    with opened(self.path) as container:
      stream = video_stream(self.path, container)
      rate = stream.average_rate or stream.guessed_rate or Fraction(10)
      self.fps = self.fps or float(rate)
      aspect = float(stream.sample_aspect_ratio or 1)
      index, current, end = 0, None, 0.0
      for time, frame in _timed_frames(self.path, container, stream, rate):
        if current is None:
          self._set_origin(time)
        else:
          # Grid points before this frame's time still show the last one.
          grid = (time - _TIME_TOLERANCE - self.origin) * self.fps
          due = max(index, int(np.ceil(grid)))
          yield from self._repeat(current, aspect, due - index)
          index = due
        duration = frame.duration * frame.time_base if frame.duration else 0
        end = time + float(duration or 1 / rate)
        current = frame
      if current is None:
        raise MediaError(self.path, "holds no video frame")
      _check_complete(self.path, container, end, self._track)
      total = int((end - self.origin) * self.fps + _END_TOLERANCE)
      if total == 0:
        raise MediaError(
          self.path, f"lasts {end - self.origin:.3f} s: less than one frame"
        )
      yield from self._repeat(current, aspect, total - index)

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
    image, size, pixel_aspect = _displayed(frame, aspect)
    self.native_size = size
    self._size = self._size or size
    image = fit_frame(image, *self._size, pixel_aspect=pixel_aspect)
    for _ in range(count):
      yield image


def video_stream(path: str | os.PathLike, container):
  """The first video stream that is not a cover picture.

  Raises:
    MediaError: if there is none.
  """
  import av

  cover = av.stream.Disposition.attached_pic
  for stream in container.streams.video:
    if not stream.disposition & cover:
      return stream
  raise MediaError(path, "has no video")


def _timed_frames(path, container, stream, rate: Fraction):
  """Yields (seconds, frame) with strictly increasing times."""
  last = None
  for packet in container.demux(stream):
    if packet.is_corrupt:
      raise MediaError(path, f"damaged after {last or 0.0:.2f} s of video")
    for frame in packet.decode():
      if frame.is_corrupt:
        raise MediaError(path, f"damaged after {last or 0.0:.2f} s of video")
      if frame.time is not None:
        time = float(frame.time)
      else:
        time = 0.0 if last is None else last + float(1 / rate)
      if last is not None and time - last > _VIDEO_GAP:
        raise MediaError(path, f"timestamps jump by {time - last:.0f} s")
      if last is None or time > last:
        yield time, frame
        last = time


def _check_complete(
  path, container, video_end: float, track: AudioTrack | None
) -> None:
  """Compares what was decoded with the duration that the file declares."""
  if container.format.name == "gif" and not _has_gif_trailer(path):
    raise MediaError(path, "truncated: the end mark of the gif is missing")
  used = 1 + bool(container.streams.audio)
  if container.duration is None or len(container.streams) != used:
    return
  declared = container.duration / 1e6
  end = max(video_end, track.end) if track else video_end
  decoded = end - min((container.start_time or 0) / 1e6, 0.0)
  if decoded < _COMPLETE * declared:
    raise MediaError(
      path, f"truncated: {decoded:.2f} s of {declared:.2f} s can be decoded"
    )


def _has_gif_trailer(path: str | os.PathLike) -> bool:
  with open(path, "rb") as file:
    file.seek(max(0, os.path.getsize(path) - 1024))
    return file.read().rstrip(b"\0\r\n").endswith(b";")


def _displayed(
  frame, aspect: float
) -> tuple[np.ndarray, tuple[int, int], float]:
  """Returns a frame's RGB, upright; its display size; its pixel aspect."""
  # Untagged high definition is BT.709 by convention; swscale assumes BT.601.
  untagged = frame.colorspace == _UNSPECIFIED and frame.height >= 720
  image = frame.reformat(
    format="rgb24", src_colorspace=_SWS_ITU709 if untagged else None
  ).to_ndarray()
  height, width = image.shape[0], max(1, round(image.shape[1] * aspect))
  if frame.interlaced_frame and height > 1:
    # One field: both would show two instants at once.
    image, aspect = image[::2], aspect / 2
  quarter_turns = round(frame.rotation / 90)
  if quarter_turns % 2:
    height, width, aspect = width, height, 1 / aspect
  return np.rot90(image, quarter_turns), (height, width), aspect
