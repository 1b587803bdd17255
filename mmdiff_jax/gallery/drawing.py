"""A clip, read and drawn: what a card of the page shows of it."""

import dataclasses
import itertools
import os
import pathlib
import shutil
from typing import NamedTuple
from urllib.parse import quote

import numpy as np

from mmdiff_jax.disk.files import replacing
from mmdiff_jax.gallery.folder import ShownClip
from mmdiff_jax.gallery.picture import find_events
from mmdiff_jax.media import embedding, reading, rendering
from mmdiff_jax.media.container import ReadOptions
from mmdiff_jax.world import sync

PICTURES = "gallery"


class Streams(NamedTuple):
  """What a file holds; a stream that is absent has no rate."""

  video: np.ndarray | None
  audio: np.ndarray | None
  fps: float | None
  sample_rate: int | None

  @property
  def duration(self) -> float:
    """In seconds."""
    if self.video is not None and self.fps is not None:
      return len(self.video) / self.fps
    assert self.audio is not None and self.sample_rate is not None
    return len(self.audio) / self.sample_rate

  @property
  def size(self) -> tuple[int, int] | None:
    """Height and width of the picture."""
    return None if self.video is None else self.video.shape[1:3]

  @property
  def poster(self) -> str:
    """Address of the first frame; "" for none."""
    return (
      "" if self.video is None else embedding.picture_address(self.video[0])
    )

  @property
  def geometry(self) -> str:
    """Length, size and rates in words."""
    parts = [f"{self.duration:.4g} s"]
    if self.video is not None:
      frames, height, width, _ = self.video.shape
      parts.append(f"{frames} frames of {height}x{width} at {self.fps:g} fps")
    if self.audio is not None:
      parts.append(f"sound at {self.sample_rate} Hz")
    return ", ".join(parts)


@dataclasses.dataclass(frozen=True)
class Side:
  """One player of a card, and the picture below it.

  Attributes:
    url: of what is played.
    streams: what it holds.
    picture: url of frames, waveform and spectrogram; None for none.
    wide: width of the picture on the page, in CSS pixels.
    strip: share of its height that the frames take.
    seen: times of impacts in the pictures (s); None where not looked for.
    heard: times of impacts in the sound (s).
  """

  url: str
  streams: Streams
  picture: str | None = None
  wide: int = 0
  strip: float = 0.0
  seen: tuple[float, ...] | None = None
  heard: tuple[float, ...] | None = None

  @property
  def matched(self) -> int | None:
    """Impacts that are both seen and heard, within a frame."""
    if self.seen is None or self.heard is None:
      return None
    if self.streams.audio is None or self.streams.fps is None:
      return None
    seen, heard = np.array(self.seen), np.array(self.heard)
    return len(
      sync.match(
        sync.Events(seen, ("",) * len(seen)),
        sync.Events(heard, ("",) * len(heard)),
        tolerance=1 / self.streams.fps,
      )
    )

  @property
  def agreement(self) -> float | None:
    """Share of the impacts that are both seen and heard (F1), 0 to 1."""
    count = len(self.seen or ()) + len(self.heard or ())
    matched = self.matched
    return 2 * matched / count if count and matched is not None else None


@dataclasses.dataclass(frozen=True)
class Drawn:
  """A clip as its card shows it; a damaged one has a problem instead."""

  clip: ShownClip
  result: Side | None = None
  source: Side | None = None
  upscaled: Side | None = None
  problem: str | None = None


def draw(
  directory: pathlib.Path,
  target: pathlib.Path,
  clip: ShownClip,
  onsets: bool,
  fit: str = "pad",
) -> Drawn:
  """Reads a clip and its source, and writes what the page needs of them.

  Args:
    directory: where the clip is.
    target: folder of the page, which gets the media where it is another one.
    clip: of the folder.
    onsets: find the impacts.
    fit: how the source was fitted; see `container.FITS`.
  """
  path = directory / clip.file
  if target.resolve() != directory.resolve():
    for file in filter(None, (clip.file, clip.upscaled)):
      (target / file).parent.mkdir(parents=True, exist_ok=True)
      with replacing(target / file) as temporary:
        shutil.copyfile(directory / file, temporary)
  try:
    streams = read_streams(path)
  except ValueError as error:
    return Drawn(clip, problem=str(error).removeprefix(f"{path}: "))
  result = _side(target, url_of(clip.file), clip.file, streams, onsets)
  source = upscaled = None
  if clip.source is not None and streams.video is not None:
    name = f"{clip.file}_source"
    source = _draw_source(clip.source, target, name, streams, onsets, fit)
  if clip.upscaled is not None:
    try:
      large = read_streams(directory / clip.upscaled)
      upscaled = Side(url_of(clip.upscaled), large)
    except ValueError:
      pass  # The clip itself can still be looked at.
  return Drawn(clip, result, source, upscaled)


def read_streams(path: pathlib.Path) -> Streams:
  """Decodes a file; the wav beside an mp4 has its sound before compression.

  Raises:
    ValueError: if it is damaged.
  """
  if path.suffix.lower() == ".wav":
    audio, rate = reading.read_audio(path)
    return Streams(None, audio, None, rate)
  clip = reading.read_media(path)
  sound = clip.audio, clip.sample_rate
  if path.with_suffix(".wav").is_file():
    sound = reading.read_audio(path.with_suffix(".wav"))
  return Streams(clip.video, sound[0], clip.fps, sound[1])


def _side(
  target: pathlib.Path, url: str, name: str, streams: Streams, onsets: bool
) -> Side:
  """Draws what a player plays."""
  drawn = f"{PICTURES}/{name}.png"
  (target / drawn).parent.mkdir(parents=True, exist_ok=True)
  wide = rendering.strip_width(streams.video)
  image = rendering.render_clip(
    streams.video,
    streams.audio,
    streams.sample_rate,
    # For screens with two pixels to a CSS pixel.
    width=2 * wide,
    slots=rendering.strip_slots(streams.video),
    scale=2,
  )
  with replacing(target / drawn) as temporary:
    image.save(temporary, format="png")
  seen = heard = None
  if onsets:
    seen, heard = (tuple(t) for t in find_events(*streams))
  return Side(
    url,
    streams,
    url_of(drawn),
    wide,
    rendering.strip_share(streams.video, image),
    seen,
    heard,
  )


def _draw_source(
  path: pathlib.Path,
  target: pathlib.Path,
  name: str,
  result: Streams,
  onsets: bool,
  fit: str,
) -> Side | None:
  """What a clip was made from, in its geometry and length.

  It goes into the page itself: a file beside it would be one more clip to all
  who read the folder.
  """
  try:
    streams = _read_source(path, result, fit)
  except ValueError:
    return None
  url = embedding.clip_address(*streams)
  return _side(target, url, name, streams, onsets)


def _read_source(path: pathlib.Path, result: Streams, fit: str) -> Streams:
  """The beginning of a file as `sample` saw it."""
  assert result.video is not None and result.fps is not None
  frames, height, width, _ = result.video.shape
  track = reading.read_track(path, result.sample_rate)
  try:
    options = ReadOptions(fit=fit)
    reader = reading.FrameReader(
      path, result.fps, (height, width), track, options
    )
    video = np.stack(list(itertools.islice(reader, frames)))
  except ValueError:
    if track is None:
      raise
    length = round(result.duration * track.sample_rate)
    sound = track.cut(track.start, 0, length)
    return Streams(None, sound, None, track.sample_rate)
  if track is None:
    return Streams(video, None, result.fps, None)
  length = round(len(video) * track.sample_rate / result.fps)
  sound = track.cut(reader.origin, 0, length)
  return Streams(video, sound, result.fps, track.sample_rate)


def url_of(file: str) -> str:
  """Relative address of a file; names may hold any character."""
  return quote(os.fsencode(pathlib.PurePath(file).as_posix()))
