"""The user's media as conditions: read, checked and repaired."""

import dataclasses
import hashlib
import logging
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from mmdiff_jax.av import AVSpec, uint8_to_unit
from mmdiff_jax.data import media

_log = logging.getLogger(__name__)

CONDITIONS = ("audio", "video", "continue")
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".gif")
AUDIO_SUFFIXES = (".wav", ".mp3", ".flac", ".ogg", ".m4a", ".aac")
# Below this level (of full scale) a sound is called silent: 16-bit rounding.
SILENCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Source:
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
  source: Source | None = None


def make_jobs(
  num_samples: int, sources: Sequence[Source] | None = None
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
  condition: str, source: str, spec: AVSpec, known_frames: int
) -> list[Source]:
  """Reads a file, or every media file of a folder, as conditions.

  Documented repairs: frames are resampled to the model's rate and fitted to
  its size (bicubic, black bars), sound is resampled and mixed to mono, what
  is longer than needed is cut at its end. In a folder, files that cannot be
  used are left out with a warning.

  Args:
    condition: "audio", "video" or "continue" (both).
    source: a file or a folder.
    spec: the model's clip geometry.
    known_frames: length of what is given, in frames.

  Returns:
    Sources, sorted by name.

  Raises:
    FileNotFoundError: if `source` does not exist.
    ValueError: if no file can be used; it says why.
  """
  path = pathlib.Path(source)
  if path.is_file():
    return [_load(condition, path, path.stem, spec, known_frames)]
  if not path.is_dir():
    raise FileNotFoundError(f"--source={source}: no such file or folder.")
  suffixes = VIDEO_SUFFIXES
  if condition == "audio":
    suffixes += AUDIO_SUFFIXES
  files = sorted(
    p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file()
  )
  if not files:
    raise ValueError(
      f"--source={source} holds no file of the kinds {', '.join(suffixes)}."
    )
  sources = []
  for file in files:
    name = "_".join(file.relative_to(path).with_suffix("").parts)
    while any(s.name == name for s in sources):
      name += file.suffix.replace(".", "_")
    try:
      sources.append(_load(condition, file, name, spec, known_frames))
    except ValueError as error:
      _log.warning("Left out: %s", error)
  if not sources:
    raise ValueError(f"--source={source}: none of its files can be used.")
  return sources


def _load(
  condition: str, path: pathlib.Path, name: str, spec: AVSpec, frames: int
) -> Source:
  repairs: list[str] = []
  known = {}
  if condition in ("video", "continue"):
    clip = media.read_media(
      path,
      fps=spec.fps,
      size=(spec.height, spec.width),
      sample_rate=spec.sample_rate,
    )
    repairs += clip.repairs
    if len(clip.video) < frames:
      raise _too_short(path, len(clip.video) / spec.fps, frames / spec.fps)
    known["video"] = uint8_to_unit(clip.video[:frames])
    if condition == "continue":
      if clip.audio is None:
        raise media.MediaError(
          path, "has no audio; --condition=continue needs both streams"
        )
      known["audio"] = clip.audio[: spec.frames_to_samples(frames)]
  else:
    audio, _ = media.read_audio(path, sample_rate=spec.sample_rate)
    length = spec.frames_to_samples(frames)
    if len(audio) < length:
      raise _too_short(
        path, len(audio) / spec.sample_rate, length / spec.sample_rate
      )
    known["audio"] = audio[:length]
  if "audio" in known and np.abs(known["audio"]).max() < SILENCE:
    repairs.append("silent")
    _log.warning("%s is silent: as a condition it says little.", path)
  with path.open("rb") as content:
    digest = hashlib.file_digest(content, "sha256").hexdigest()[:16]
  return Source(name, str(path), known, tuple(repairs), digest)


def _too_short(path: pathlib.Path, has: float, needs: float) -> ValueError:
  return media.MediaError(
    path, f"lasts {has:.2f} s, but {needs:.2f} s are needed"
  )
