"""Reads video files as clips on a regular grid, and writes clips as files.

Frames are picked by timestamp, never by index: grid frame k is the one on
display k/fps seconds after the origin. Audio is placed by its timestamps on
the same time axis, so that a late stream stays late, and is cut (AAC's end
padding) or zero-padded to the time span of the frames.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

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

CHANNELS = ("mean", "first")

# Timestamps of some containers are rounded to 1 ms: a frame that starts so
# much after a grid point still counts as being on display there.
_TIME_TOLERANCE = 2e-3
# Part of a frame by which a video may fall short of its last grid frame.
_END_TOLERANCE = 0.1
# Gaps in the audio longer than this are filled with silence (seconds).
_AUDIO_GAP = 0.05
# A longer gap between two frames means broken timestamps (seconds).
_VIDEO_GAP = 60.0
# Decoded part of a file's own duration below which it counts as truncated.
_COMPLETE = 0.9
# AVColorSpace values: BT.709, unspecified; swscale's ITU709.
_UNSPECIFIED, _SWS_ITU709 = 2, 1


class MediaError(ValueError):
  """A file that cannot be used; the message is `path: reason`."""

  def __init__(self, path: str | os.PathLike, reason: str):
    super().__init__(f"{os.fspath(path)}: {reason}")
    self.reason = reason

  def __reduce__(self):
    path = str(self).removesuffix(f": {self.reason}")
    return (MediaError, (path, self.reason))


@dataclasses.dataclass(frozen=True)
class Media:
  """A decoded file.

  Attributes:
    video: uint8 `[F, H, W, 3]`.
    audio: float32 `[L, 1]` in [-1, 1], or None where the file has none.
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
    channels: "mean" of all channels or "first" channel.

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


@dataclasses.dataclass(frozen=True)
class AudioTrack:
  """Mono sound on the file's time axis: runs of samples without gaps.

  Attributes:
    runs: pairs of start time (seconds) and float32 samples.
    sample_rate: samples per second.
  """

  runs: tuple[tuple[float, np.ndarray], ...]
  sample_rate: int

  @property
  def start(self) -> float:
    """Time of the first sample in seconds."""
    return self.runs[0][0]

  @property
  def end(self) -> float:
    """Time after the last sample in seconds."""
    return max(t + len(x) / self.sample_rate for t, x in self.runs)

  def cut(self, origin: float, begin: int, end: int) -> np.ndarray:
    """Samples `begin` to `end` after time `origin`; zero where there are none.

    Returns:
      float32 `[end - begin, 1]`.
    """
    out = np.zeros((end - begin, 1), np.float32)
    for time, samples in self.runs:
      first = round((time - origin) * self.sample_rate) - begin
      low, high = max(first, 0), min(first + len(samples), len(out))
      if low < high:
        out[low:high, 0] = samples[low - first : high - first]
    return out

  def repairs(self, origin: float, duration: float) -> list[str]:
    """Says where the track had to be filled with silence (over 0.05 s)."""
    words = []
    if self.start - origin > _AUDIO_GAP:
      late = min(self.start - origin, duration)
      words.append(f"audio starts {late:.2f} s late: padded with silence")
    if origin + duration - self.end > _AUDIO_GAP:
      early = min(origin + duration - self.end, duration)
      words.append(f"audio ends {early:.2f} s early: padded with silence")
    if len(self.runs) > 1:
      words.append(f"audio has {len(self.runs) - 1} gaps: silence there")
    return words


def read_track(
  path: str | os.PathLike,
  sample_rate: int | None = None,
  channels: str = "mean",
) -> AudioTrack | None:
  """Decodes the first audio stream; None where there is none or it is empty.

  Raises:
    MediaError: if the file is missing or damaged.
    ValueError: if an argument is out of range.
  """
  import av

  if channels not in CHANNELS:
    raise ValueError(f"channels must be one of {CHANNELS}, got {channels!r}.")
  if sample_rate is not None and sample_rate <= 0:
    raise ValueError(f"sample_rate must be positive, got {sample_rate}.")
  runs: list[tuple[float, list[np.ndarray]]] = []
  resampler, setup, expected = None, None, 0.0
  with _opened(path) as container:
    if not container.streams.audio:
      return None
    stream = container.streams.audio[0]
    rate = sample_rate or stream.rate

    def drain(frame) -> None:
      for part in resampler.resample(frame):
        runs[-1][1].append(_to_mono(part.to_ndarray(), channels))

    for frame in container.decode(stream):
      time = expected if frame.time is None else float(frame.time)
      format_now = (frame.format.name, frame.layout.name, frame.sample_rate)
      if setup != format_now or abs(time - expected) > _AUDIO_GAP:
        if resampler is not None:
          drain(None)
        resampler = av.AudioResampler("fltp", frame.layout.name, rate)
        runs.append((time, []))
        setup, expected = format_now, time
      expected += frame.samples / frame.sample_rate
      drain(frame)
    if resampler is not None:
      drain(None)
  joined = tuple((t, np.concatenate(x)) for t, x in runs if x)
  for _, samples in joined:
    if not np.isfinite(samples).all():
      raise MediaError(path, "the audio holds values that are not finite")
    np.clip(samples, -1.0, 1.0, out=samples)
  return AudioTrack(joined, rate) if joined else None


class FrameReader:
  """Iterates over a video's frames on a regular time grid, in little memory.

  Where the audio starts before the video by whole grid frames, the first
  frame is held for them; `origin` is the time of the first grid frame.

  Attributes:
    fps: frames per second of the grid.
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
      size = (size, size) if isinstance(size, int) else tuple(size)
      if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be positive height, width; got {size}.")
    self.path, self.fps, self._size, self._track = path, fps, size, track
    self.origin = 0.0
    self.native_size = (0, 0)
    self.repairs: list[str] = []

  def __iter__(self) -> Iterator[np.ndarray]:
    """Yields uint8 `[H, W, 3]`.

    Raises:
      MediaError: if the file is missing, damaged, or has no video.
    """
    with _opened(self.path) as container:
      stream = _video_stream(self.path, container)
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


@contextlib.contextmanager
def _opened(path: str | os.PathLike):
  """Opens a local file and turns FFmpeg's errors into MediaError."""
  import av

  path = os.fspath(path)
  if not os.path.exists(path):
    raise MediaError(path, "no such file")
  if os.path.isdir(path):
    raise MediaError(path, "is a directory")
  if os.path.getsize(path) == 0:
    raise MediaError(path, "the file is empty")
  av.logging.set_level(av.logging.PANIC)
  try:
    # An absolute path is never taken for a protocol, nor does a play list
    # that poses as a video reach the network.
    with av.open(
      os.path.abspath(path),
      metadata_errors="replace",
      options={"protocol_whitelist": "file"},
    ) as container:
      yield container
  except av.error.FFmpegError as error:
    reason = error.strerror or type(error).__name__
    raise MediaError(path, f"damaged or not a media file ({reason})") from error


def _video_stream(path: str | os.PathLike, container):
  """The first video stream that is not a cover picture."""
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


def _to_mono(samples: np.ndarray, channels: str) -> np.ndarray:
  """`[C, n]` -> float32 `[n]`."""
  mono = samples.mean(axis=0) if channels == "mean" else samples[0]
  return np.array(mono, np.float32)
