"""Clips of media files, decoded when they are asked for.

For a look, an evaluation or a small training set; `data_prep` decodes a large
one once and for all, and sorts out what decoding alone can tell.
"""

import atexit
import collections
import dataclasses
import functools
import logging
import os
import pathlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.descriptions import InputInfo
from mmdiff_jax.data.manifest import MANIFEST
from mmdiff_jax.data.sources.spool import Spool
from mmdiff_jax.disk.files import (
  as_path,
  download,
  file_sha256,
  is_cloud,
  unreachable,
)
from mmdiff_jax.media import reading
from mmdiff_jax.media.container import MediaError, ReadOptions, opened
from mmdiff_jax.media.files import find_media
from mmdiff_jax.media.streams import choose_streams, may_jump

_log = logging.getLogger(__name__)

# Decoded videos that are kept: what is drawn at random from a small folder is
# decoded once, and clips of one video come in a row from a large one.
_CACHE_BYTES = 2**29
# What is longer is decoded into a file; several may be decoded at a time.
_SPOOL_BYTES = 2**26
# A later beginning changes how many frames there are (seconds).
_LATE = 0.05
# Height and width of frames that are only counted.
_TINY = (1, 1)


@dataclasses.dataclass(frozen=True)
class _Content:
  """What was decoded of a file; a stream that was not asked for is None."""

  video: np.ndarray | None
  audio: np.ndarray | None
  repairs: tuple[str, ...]

  @property
  def num_bytes(self) -> int:
    parts = (self.video, self.audio)
    return sum(part.nbytes for part in parts if part is not None)


class _Cache:
  """The contents used last, up to a number of bytes; thread-safe."""

  def __init__(self, limit: int):
    self._limit, self._size = limit, 0
    self._items: collections.OrderedDict[str, _Content] = (
      collections.OrderedDict()
    )
    self._lock = threading.Lock()

  def get(self, name: str, decode: Callable[[str], _Content]) -> _Content:
    with self._lock:
      if name in self._items:
        self._items.move_to_end(name)
        return self._items[name]
    content = decode(name)
    with self._lock:
      if name not in self._items:
        self._items[name] = content
        self._size += content.num_bytes
      while self._size > self._limit and len(self._items) > 1:
        _, oldest = self._items.popitem(last=False)
        self._size -= oldest.num_bytes
    return content


class MediaSource:
  """Media files by name, resampled and fitted to a spec."""

  def __init__(
    self,
    name: str,
    files: Mapping[str, str | os.PathLike],
    spec: AVSpec,
    streams: Collection[str],
    skipped: Sequence[tuple[str, str]] = (),
    fit: str = "pad",
  ):
    """Reads the files' headers.

    Files that cannot be read, or lack a stream, are skipped with a warning.

    Args:
      name: of the source.
      files: path of each file by the name of its video.
      spec: geometry of the clips.
      streams: of "video" and "audio", those that every file must have. With
        ("audio",) alone the pictures are not decoded.
      skipped: (video, reason) of files that were left out before.
      fit: see `container.FITS`.

    Raises:
      MediaError: if no file is left; it is the last one's.
    """
    self.name, self.spec = name, spec
    self.inputs: dict[str, InputInfo] = {}
    self.videos: dict[str, int] = {}
    self.skipped = list(skipped)
    self._files, self._streams = files, tuple(streams)
    self._reading = ReadOptions(fit=fit)
    self._cache = _Cache(_CACHE_BYTES)
    self._file_hash = functools.cache(
      lambda video: file_sha256(self._files[video])
    )
    for video, path in files.items():
      try:
        self.videos[video] = _count_frames(path, spec.fps, self._streams)
      except MediaError as error:
        if len(self.skipped) + 1 == len(files) + len(skipped):
          raise
        _log.warning("skipped: %s", error)
        self.skipped.append((video, error.reason))

  def where(self, video: str) -> str:
    """See `base.Source`."""
    return os.fspath(self._files[video])

  def clip(self, video: str, start: int) -> "MediaClip":
    """See `base.Source`."""
    path = self._files[video]
    return MediaClip(
      path,
      video,
      start,
      self.spec,
      lambda: self._cache.get(video, self._decode),
    )

  def digest(self, video: str, start: int) -> str:
    """See `base.Source`: of the whole file, and how it is fitted."""
    # Padding is what all pictures had before there was a choice.
    fit = self._reading.fit
    return self._file_hash(video) + ("" if fit == "pad" else f" {fit}")

  def _decode(self, video: str) -> _Content:
    return _read(self._files[video], self.spec, self._streams, self._reading)

  def __repr__(self) -> str:
    return f"MediaSource({self.name}, {len(self.videos)} videos)"


class MediaClip:
  """A clip of a media file.

  Every method raises MediaError if the file is damaged or ends too early.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    video: str,
    start: int,
    spec: AVSpec,
    content: Callable[[], _Content],
  ):
    """The clip that begins at frame `start` of what `content()` decodes."""
    self._path, self._name, self._start = path, video, start
    self._spec, self._content = spec, content

  def video(self) -> np.ndarray:
    """See `base.Clip`."""
    frames, spec = self._content().video, self._spec
    if frames is None:
      raise MediaError(self._path, "its pictures were not asked for")
    end = self._start + spec.frames
    self._check_length(len(frames) / spec.fps, end / spec.fps)
    return frames[self._start : end]

  def frame(self, index: int) -> np.ndarray:
    """See `base.Clip`."""
    return self.video()[index]

  def audio(self) -> np.ndarray | None:
    """See `base.Clip`."""
    content, spec = self._content(), self._spec
    if content.audio is None:
      return None
    begin = spec.frames_to_samples(self._start)
    sound = content.audio[begin : begin + spec.audio_length]
    missing = spec.audio_length - len(sound)
    if missing and content.video is None:
      rate = spec.sample_rate
      end = (begin + spec.audio_length) / rate
      self._check_length(len(content.audio) / rate, end)
    # The last sample may fall to a frame that is cut.
    return np.pad(sound, ((0, missing), (0, 0)))

  def inputs(self) -> dict[str, np.ndarray]:
    """See `base.Clip`."""
    return {}

  def captions(self) -> tuple[str, ...]:
    """See `base.Clip`."""
    return ()

  def origin(self) -> str:
    """See `base.Clip`."""
    return f"{self._name} @{self._start}"

  def repairs(self) -> tuple[str, ...]:
    """See `base.Clip`."""
    return self._content().repairs

  def _check_length(self, has: float, needs: float) -> None:
    if has < needs:
      raise MediaError(
        self._path, f"lasts {has:.2f} s, but {needs:.2f} s are needed"
      )


def open_folder(
  folder: pathlib.Path,
  spec: AVSpec,
  streams: Collection[str],
  fit: str = "pad",
) -> MediaSource:
  """The media below a folder; see `MediaSource`.

  Raises:
    ValueError: if there is none, or none that can be read.
  """
  sound_alone = tuple(streams) == ("audio",)
  found, left_out = find_media(_on_disk(folder), sound_alone)
  if not found:
    raise ValueError(f"{folder} holds no media file and no {MANIFEST}.")
  return MediaSource(str(folder), dict(found), spec, streams, left_out, fit)


def open_file(
  path: pathlib.Path, spec: AVSpec, streams: Collection[str], fit: str = "pad"
) -> MediaSource:
  """A single media file; see `MediaSource`.

  Raises:
    MediaError: if it cannot be read.
  """
  files = {path.name: _on_disk(path)}
  return MediaSource(str(path), files, spec, streams, fit=fit)


def probe(path: str | os.PathLike) -> AVSpec | None:
  """Geometry of a media file, or of the first one of a folder.

  Returns:
    Shape and rates as the file has them, its whole length; None where there
    is no such file, or it lacks pictures or sound.
  """
  place = as_path(path).expanduser()
  try:
    found = place.is_dir() and find_media(_on_disk(place))[0]
    file = found[0][1] if found else _on_disk(place)
    track = reading.read_track(file)
    reader = reading.FrameReader(file, track=track)
    next(iter(reader))
    if track is None:
      return None
    frames = _count_frames(file, reader.fps, ("video", "audio"))
    return AVSpec(frames, *reader.native_size, reader.fps, track.sample_rate)
  except (ValueError, OSError):
    return None  # An error where it is opened.


def _on_disk(path: pathlib.Path) -> pathlib.Path:
  """A local file or folder with that content, for as long as we run.

  FFmpeg reads local files alone.
  """
  if not is_cloud(path):
    return path
  folder = pathlib.Path(tempfile.mkdtemp())
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  _log.info("Copying %s to this machine.", path)
  with unreachable(path):
    download(path, folder / path.name)
  return folder / path.name


def _read(
  path: str | os.PathLike,
  spec: AVSpec,
  streams: tuple[str, ...],
  options: ReadOptions,
) -> _Content:
  """Decodes a file of any length in little memory."""
  track = reading.read_track(path, spec.sample_rate)
  sound = Spool(_SPOOL_BYTES)
  if streams == ("audio",):
    for block in _with_sound(path, track).blocks():
      sound.add(block)
    return _Content(None, sound.joined(), ())
  size = (spec.height, spec.width)
  reader = reading.FrameReader(path, spec.fps, size, track, options)
  pictures = Spool(_SPOOL_BYTES)
  count = heard = 0

  def hear() -> int:
    end = round(count * spec.sample_rate / spec.fps)
    if track is not None:
      sound.add(track.cut(reader.origin, heard, end))
    return end

  for count, image in enumerate(reader, 1):
    pictures.add(image[None])
    if count % spec.frames == 0:
      heard = hear()
  hear()
  repairs = tuple(reader.repairs)
  if track is None:
    return _Content(pictures.joined(), None, repairs)
  repairs += tuple(track.repairs(reader.origin, count / spec.fps))
  return _Content(pictures.joined(), sound.joined(), repairs)


def _with_sound(
  path: str | os.PathLike, track: reading.AudioTrack | None
) -> reading.AudioTrack:
  if track is None:
    raise MediaError(path, "has no audio")
  return track


def _is_late(stream) -> bool:
  """Whether a stream of pictures or sound does not begin at once."""
  if stream.type not in ("video", "audio"):
    return False
  if stream.start_time is None:
    return True  # Its first packet lies too far behind.
  return abs(float(stream.start_time * stream.time_base)) > _LATE


def _count_frames(
  path: str | os.PathLike, fps: float, streams: tuple[str, ...]
) -> int:
  """Frames at `fps` that a file holds, from its header alone.

  A header without a duration (some webm), with streams that begin apart or
  late, or of a format whose clocks may start again (MPEG-TS) means decoding the
  file.

  Raises:
    MediaError: if it is damaged, or lacks one of the streams.
  """
  chosen = choose_streams(path)
  if "audio" in streams and chosen.audio is None:
    raise MediaError(path, "has no audio")
  index = chosen.video if "video" in streams else chosen.audio
  if index is None:
    raise MediaError(path, "has no video")
  if "video" in streams:
    chosen.check_colours(path)
  with opened(path) as container:
    stream = container.streams[index]
    known = stream.duration and stream.time_base and not may_jump(container)
    if known and not any(_is_late(s) for s in container.streams):
      return int(float(stream.duration * stream.time_base) * fps + 0.1)
  track = reading.read_track(path)
  if "video" in streams:
    return sum(1 for _ in reading.FrameReader(path, fps, _TINY, track))
  track = _with_sound(path, track)
  count = sum(len(block) for block in track.blocks())
  return int(count / track.sample_rate * fps + 0.1)
