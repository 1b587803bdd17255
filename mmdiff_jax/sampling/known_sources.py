"""The user's media as conditions: read, checked and repaired."""

import dataclasses
import hashlib
import logging
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mmdiff_jax.av import AVSpec, uint8_to_unit
from mmdiff_jax.data import sources as data_sources
from mmdiff_jax.media import transforms

_log = logging.getLogger(__name__)

# Condition -> the streams that are given.
CONDITIONS = {
  "audio": ("audio",),
  "video": ("video",),
  "continue": ("video", "audio"),
  "edit": ("video", "audio"),
}
# Below this level (of full scale) a sound is called silent: 16-bit rounding.
SILENCE = 1e-4


@dataclasses.dataclass(frozen=True)
class KnownSource:
  """What of one file is known, cut to the length asked for.

  Attributes:
    name: the file's name without suffix, unique within a run.
    path: where it was read from.
    known: modality -> values in [-1, 1], `[F', H, W, 3]` and `[L', 1]`.
    repairs: what was done to make it fit, in words.
    digest: hash of the file's bytes.
    kept: modality -> where `known` is kept, bool `[F', H, W, 1]` and
      `[L', 1]`; None keeps all of it.
    strength: how much noise what is not kept starts from; see `edit.Edit`.
  """

  name: str
  path: str
  known: dict[str, np.ndarray]
  repairs: tuple[str, ...]
  digest: str = ""
  kept: Mapping[str, np.ndarray] | None = None
  strength: float | None = None

  @property
  def frames(self) -> int:
    """Frames of which something is known."""
    return len(self.known["video"]) if "video" in self.known else 0


@dataclasses.dataclass(frozen=True)
class Job:
  """One sample to make.

  Attributes:
    name: of its files.
    index: seeds it, together with the run's seed.
    source: what it is given, or None.
  """

  name: str
  index: int
  source: KnownSource | None = None

  @property
  def frames(self) -> int:
    """Frames of the source; 0 without one."""
    return 0 if self.source is None else self.source.frames


def make_jobs(
  num_samples: int, sources: Sequence[KnownSource] | None = None
) -> list[Job]:
  """Lists the samples of a run: `num_samples`, or as many of each source.

  The index of a source's sample follows from the source's name and the
  sample's number alone: neither more samples nor other sources change it.
  """
  if sources is None:
    return [Job(f"sample_{i:06d}", i) for i in range(num_samples)]
  return [
    Job(f"{source.name}_{k:03d}", _source_index(source.name, k), source)
    for source in sources
    for k in range(num_samples)
  ]


def _source_index(name: str, k: int) -> int:
  """An index in [0, 2**31) (int32 on the device), distinct for every k."""
  digest = hashlib.sha256(os.fsencode(name)).digest()
  start = int.from_bytes(digest[:4], "big")
  return (start + k) % 2**31


def load_sources(
  condition: str,
  source: str,
  spec: AVSpec,
  known_frames: int,
  *,
  tfds_dir: str = "",
  synthetic_clips: int = 4096,
  fit: str = "pad",
) -> list[KnownSource]:
  """Reads the beginning of every video of a source as conditions.

  Documented repairs: frames are resampled to the model's rate and fitted to
  its size (bicubic), sound is resampled and mixed to mono, what
  is longer than needed is cut at its end. Of several videos, those that
  cannot be used are left out with a warning.

  Args:
    condition: "audio", "video" or "continue" (both).
    source: a file, a folder, or another name of `data.sources.open_source`.
    spec: the model's clip geometry.
    known_frames: length of what is given, in frames.
    tfds_dir: see `data.sources.SourceOptions`.
    synthetic_clips: see `data.sources.SourceOptions`.
    fit: as the model's data were fitted; see `container.FITS`.

  Returns:
    Sources, sorted by name.

  Raises:
    ValueError: if there is no such source, or nothing in it can be used; it
      says why.
  """
  options = data_sources.SourceOptions(
    dataclasses.replace(spec, frames=known_frames),
    CONDITIONS[condition],
    tfds_dir,
    synthetic_clips,
    fit,
  )
  videos = data_sources.open_source(source, options)
  check_rates(videos, spec, known_frames)

  def load(video: str, name: str) -> KnownSource:
    streams = CONDITIONS[condition]
    return load_video(videos, video, name, streams, spec, known_frames, fit)

  return load_all(videos, source, load)


def load_all(
  videos: data_sources.Source,
  source: str,
  load: Callable[[str, str], KnownSource],
) -> list[KnownSource]:
  """Loads every video of a source, but those that cannot be used.

  Args:
    videos: the opened source.
    source: as the user named it.
    load: makes a source of a video and its unique name.

  Raises:
    ValueError: if nothing can be used; it says why.
  """
  loaded: list[KnownSource] = []
  names: set[str] = set()
  for video in sorted(videos.videos):
    try:
      name = _unique_name(video, names)
      loaded.append(load(video, name))
    except ValueError as error:
      if len(videos.videos) == 1:
        raise
      _log.warning("Left out: %s", error)
    else:
      names.add(name)
  if not loaded:
    raise ValueError(f"--source={source}: nothing in it can be used.")
  return loaded


def check_rates(videos: data_sources.Source, spec: AVSpec, frames: int) -> None:
  """Raises ValueError for records that were prepared for another model."""
  has = videos.spec
  if (has.fps, has.sample_rate) != (spec.fps, spec.sample_rate):
    raise ValueError(
      f"{videos.name} was prepared at {has.fps:g} fps and {has.sample_rate} "
      f"Hz, the model wants {spec.fps:g} fps and {spec.sample_rate} Hz; give "
      "the videos themselves."
    )
  if has.frames < frames:
    raise ValueError(
      f"{videos.name} was prepared as clips of {has.frames} frames, "
      f"{frames} are needed; give the videos themselves."
    )


def _unique_name(video: str, taken: set[str]) -> str:
  """The video's path without suffix as one word, unlike those taken."""
  path = pathlib.PurePosixPath(video)
  name = "_".join(path.with_suffix("").parts)
  while name in taken:
    name += path.suffix.replace(".", "_") or "_"
  return name


def load_video(
  videos: data_sources.Source,
  video: str,
  name: str,
  streams: Sequence[str],
  spec: AVSpec,
  frames: int,
  fit: str,
  start: int = 0,
) -> KnownSource:
  """Reads one clip of a source, fitted to the model's frames.

  Args:
    videos: the opened source.
    video: of it.
    name: of the samples made from it.
    streams: that are known.
    spec: of the model.
    frames: that are read, at most those of the source's clips.
    fit: see `load_sources`.
    start: first frame of the clip.

  Raises:
    ValueError: if it cannot be read, or lacks one of the streams.
  """
  clip = videos.clip(video, start)
  known = {}
  if "video" in streams:
    pictures = clip.video()[:frames]
    pictures = transforms.fit_video(pictures, spec.height, spec.width, fit)
    known["video"] = uint8_to_unit(pictures)
  if "audio" in streams:
    sound = clip.audio()
    if sound is None:
      raise ValueError(f"{clip.origin()} has no audio.")
    known["audio"] = sound[: spec.frames_to_samples(frames)]
  repairs = clip.repairs()
  path = videos.where(video)
  if "audio" in known and np.abs(known["audio"]).max() < SILENCE:
    repairs += ("silent",)
    _log.warning("%s is silent: as a condition it says little.", path)
  digest = videos.digest(video, start)[:16]
  return KnownSource(name, path, known, repairs, digest)
