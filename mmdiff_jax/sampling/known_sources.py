"""The user's media as conditions: read, checked and repaired."""

import dataclasses
import hashlib
import logging
import os
import pathlib
from collections.abc import Sequence

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
  """

  name: str
  path: str
  known: dict[str, np.ndarray]
  repairs: tuple[str, ...]
  digest: str = ""


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
  _check_rates(videos, spec, known_frames)
  loaded: list[KnownSource] = []
  names: set[str] = set()
  for video in sorted(videos.videos):
    try:
      name = _unique_name(video, names)
      loaded.append(
        _load(condition, videos, video, name, spec, known_frames, fit)
      )
    except ValueError as error:
      if len(videos.videos) == 1:
        raise
      _log.warning("Left out: %s", error)
    else:
      names.add(name)
  if not loaded:
    raise ValueError(f"--source={source}: nothing in it can be used.")
  return loaded


def _check_rates(
  videos: data_sources.Source, spec: AVSpec, frames: int
) -> None:
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


def _load(
  condition: str,
  videos: data_sources.Source,
  video: str,
  name: str,
  spec: AVSpec,
  frames: int,
  fit: str,
) -> KnownSource:
  clip = videos.clip(video, 0)
  known = {}
  if "video" in CONDITIONS[condition]:
    pictures = clip.video()[:frames]
    pictures = transforms.fit_video(pictures, spec.height, spec.width, fit)
    known["video"] = uint8_to_unit(pictures)
  if "audio" in CONDITIONS[condition]:
    sound = clip.audio()
    if sound is None:
      raise ValueError(f"{clip.origin()} has no audio.")
    known["audio"] = sound[: spec.frames_to_samples(frames)]
  repairs = clip.repairs()
  path = videos.where(video)
  if "audio" in known and np.abs(known["audio"]).max() < SILENCE:
    repairs += ("silent",)
    _log.warning("%s is silent: as a condition it says little.", path)
  return KnownSource(name, path, known, repairs, videos.digest(video, 0)[:16])
