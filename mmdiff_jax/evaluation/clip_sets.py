"""Sets of clips to evaluate: the non-overlapping clips of a source.

`select` takes n of them. Clips are decoded one by one, when asked for.
"""

import dataclasses
import functools
import hashlib
import threading
from typing import NamedTuple

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.sources import (
  ClipList,
  Name,
  Source,
  SourceOptions,
  open_source,
)
from mmdiff_jax.evaluation.geometry import Geometry, frames_needed, resample
from mmdiff_jax.media.container import MediaError

# Decoded clips that a set holds on to: 3,500 of the paper's size.
_KEPT_BYTES = 2**30


def printable(name: str) -> str:
  """A file's name, with the bytes that are not UTF-8 as escapes."""
  return name.encode("utf-8", "backslashreplace").decode()


@dataclasses.dataclass(frozen=True)
class ClipId:
  """Which clip: `source` names the video, `start` the first frame."""

  source: str
  start: int

  def __str__(self) -> str:
    source = printable(self.source)
    return f"{source}@{self.start}" if self.start else source


class ClipSet:
  """Clips of `spec` over the videos of a source.

  Attributes:
    name: where the videos come from.
    spec: geometry of every clip.
    split: which videos: "train", "heldout" or "all".
    ids: the clips, in order.
    available: clips that there were to choose from.
    skipped: (name, reason) of the videos and clips that were left out.
  """

  def __init__(
    self,
    source: Source,
    geometry: Geometry,
    split: str = "all",
    holdout_fraction: float = 0.0,
  ):
    """Lists the clips; see `ClipList` for the split.

    Raises:
      ValueError: if the source's clips are too short, or there is no clip.
    """
    spec, has = geometry.spec, source.spec
    step = frames_needed(has, spec)
    if step > has.frames:
      raise ValueError(
        f"{source.name} was prepared as clips of {has.frames} frames at "
        f"{has.fps:g} fps ({has.duration:g} s), the evaluation wants "
        f"{spec.duration:g} s; prepare longer ones, or ask for less: "
        "--config.data.frames."
      )
    self.name, self.spec, self.split = printable(source.name), spec, split
    self._source, self._geometry = source, geometry
    self._kept: dict[ClipId, _Streams] = {}
    self._room, self._lock = _KEPT_BYTES, threading.Lock()
    self._digest_of = functools.cache(source.digest)
    self.skipped = [(printable(v), why) for v, why in source.skipped] + [
      (printable(video), f"{frames} of the {has.frames} frames of a clip")
      for video, frames in source.videos.items()
      if frames < has.frames
    ]
    clips = ClipList(source, step, split, holdout_fraction)
    self.ids = [ClipId(*clips.place(i)) for i in range(len(clips))]
    self.available = len(self.ids)
    if not self.ids:
      raise ValueError(self._why_empty(holdout_fraction))

  def _why_empty(self, holdout_fraction: float) -> str:
    if self.split != "all":
      return (
        f"{self.name} has no clip in split {self.split!r} at "
        f"data.holdout_fraction={holdout_fraction:g}; take another --split."
      )
    reason = ""
    if self.skipped:
      reason = " ({}: {})".format(*self.skipped[0])
    return (
      f"{self.name} holds no clip of {self.spec.frames} frames at "
      f"{self.spec.fps:g} fps{reason}; give longer videos."
    )

  def __len__(self) -> int:
    return len(self.ids)

  def select(self, count: int, seed: int) -> None:
    """Keeps `count` clips: a random one of every video in turn.

    So the videos are represented as evenly as they allow. With `count` or
    fewer clips all of them stay.
    """
    if count < 2:
      raise ValueError(f"num_clips must be at least 2, got {count}.")
    if len(self.ids) <= count:
      return
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(self.ids))
    turn: dict[str, int] = {}
    ranked = []
    for i in order:
      source = self.ids[i].source
      turn[source] = turn.get(source, 0) + 1
      ranked.append((turn[source], int(i)))
    # Stable: within a turn the random order stays.
    ranked.sort(key=lambda pair: pair[0])
    self.ids = [self.ids[i] for i in sorted(i for _, i in ranked[:count])]

  def digest(self, index: int) -> str:
    """Hash of everything that clip `index` depends on."""
    clip, spec = self.ids[index], self.spec
    content = self._digest_of(clip.source, clip.start)
    text = f"{content} {clip.start} {spec}"
    if self._geometry.fit != "pad":
      text += f" {self._geometry.fit}"
    return hashlib.sha256(text.encode()).hexdigest()

  def load(
    self, index: int, audio: bool = True, keep: bool = False
  ) -> dict[str, np.ndarray]:
    """Decodes clip `index`.

    Args:
      index: of the clip.
      audio: whether the clip must have audio.
      keep: whether to hold on to what was decoded until the clip is loaded
        again, while there is room.

    Returns:
      `video` uint8 `[F, H, W, 3]` and `audio` float32 `[L]`, silence where
      there is none and it is not needed.

    Raises:
      ValueError: if the clip is damaged, or lacks audio that is needed.
    """
    place = self.ids[index]
    streams = self._kept.pop(place, None) or self._decode(place)
    if keep:
      self._keep(place, streams)
    if audio and not streams.has_audio:
      raise MediaError(
        f"{self.name}: {place}",
        "has no audio; ask for video metrics alone (--metrics=fvd,kvd), or "
        "leave it out",
      )
    return {"video": streams.video, "audio": streams.audio}

  def _decode(self, place: ClipId) -> "_Streams":
    clip, has = self._source.clip(place.source, place.start), self._source.spec
    sound = clip.audio()
    has_audio = sound is not None
    if sound is None:
      sound = np.zeros(has.audio_shape, np.float32)
    sound = np.asarray(sound, np.float32).reshape(-1)
    video, sound = resample(clip.video(), sound, has, self._geometry)
    return _Streams(video, sound, has_audio)

  def _keep(self, place: ClipId, streams: "_Streams") -> None:
    size = streams.video.nbytes + streams.audio.nbytes
    with self._lock:
      if size <= self._room:
        self._room -= size
        self._kept[place] = streams


class _Streams(NamedTuple):
  """What was decoded of a clip; silence where it has no audio."""

  video: np.ndarray
  audio: np.ndarray
  has_audio: bool


def open_clips(
  name: Name,
  geometry: Geometry | AVSpec,
  *,
  split: str = "all",
  holdout_fraction: float = 0.0,
  tfds_dir: str = "",
  synthetic_clips: int = 4096,
) -> ClipSet:
  """Opens the clips of a source.

  Args:
    name: of the source, or arrays; see `sources.open_source`.
    geometry: of the clips.
    split: which videos; see `ClipList`.
    holdout_fraction: share of the videos that training holds out.
    tfds_dir: see `SourceOptions`.
    synthetic_clips: see `SourceOptions`.

  Raises:
    ValueError: if there is no such thing, or its clips are too short.
  """
  if isinstance(geometry, AVSpec):
    geometry = Geometry(geometry)
  options = SourceOptions(
    geometry.spec, ("video",), tfds_dir, synthetic_clips, geometry.fit
  )
  source = open_source(name, options)
  return ClipSet(source, geometry, split, holdout_fraction)
