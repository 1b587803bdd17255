"""Builds a study's folder from folders of real and generated clips."""

import dataclasses
import logging
import os
import pathlib
import secrets
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdiff_jax.data.media_files import find_media
from mmdiff_jax.files import check_directory, file_sha256, write_json
from mmdiff_jax.locks import locked
from mmdiff_jax.study import design, encode, traps
from mmdiff_jax.study.design import Stimulus
from mmdiff_jax.study.folder import (
  CLIPS,
  STUDY,
  TOKEN,
  TRUTH,
  Slot,
  Study,
  write_study,
)
from mmdiff_jax.study.settings import Settings

_LOGGER = logging.getLogger(__name__)
REAL = "real"
# Different trap clips of each kind, so that none becomes known.
_TRAPS_PER_KIND = 4
# Where a study is made, and what moves out of it once all of it is there.
_BUILDING = ".building"
_PARTS = (CLIPS, TRUTH, TOKEN, STUDY)


def build(
  real: str | os.PathLike,
  fake: Mapping[str, str | os.PathLike],
  output: str | os.PathLike,
  settings: Settings,
) -> Study:
  """Encodes all clips alike, hides what they are, and plans who rates what.

  Args:
    real: folder of real clips.
    fake: folders of generated clips by the name of their system.
    output: the study's folder; must not hold a study.
    settings: see `load_settings`.

  Raises:
    ValueError: if names, counts or clips do not allow the study.
    OSError: if `output` cannot be written to, or another process does.
  """
  output = pathlib.Path(output)
  check_directory(output)
  if not fake or REAL in fake or any("|" in name for name in fake):
    raise ValueError(
      "--fake=NAME=DIR is needed at least once, by a name other than "
      f"{REAL!r} and without '|'; got {list(fake)}."
    )
  files = _sources({REAL: real, **fake}, settings)
  with locked(output):
    _clear(output)
    building = output / _BUILDING
    try:
      study = _build(files, building, settings)
    except BaseException:
      shutil.rmtree(building, ignore_errors=True)
      raise
    for part in _PARTS:
      os.replace(building / part, output / part)
    building.rmdir()
  return dataclasses.replace(study, path=output)


Files = dict[str, dict[str, str]]


def _clear(output: pathlib.Path) -> None:
  """Removes what a killed build left; raises ValueError for anything else."""
  building = output / _BUILDING
  if (output / STUDY).exists():
    shutil.rmtree(building, ignore_errors=True)
    raise ValueError(f"{output} holds a study already; choose another folder.")
  if (building / STUDY).exists():
    # It was moving its parts out.
    shutil.rmtree(output / CLIPS, ignore_errors=True)
    for part in (TRUTH, TOKEN):
      (output / part).unlink(missing_ok=True)
  shutil.rmtree(building, ignore_errors=True)
  for part in _PARTS:
    if (output / part).exists():
      raise ValueError(
        f"{output / part} is in the way of a study's; choose another folder."
      )


def _build(files: Files, output: pathlib.Path, settings: Settings) -> Study:
  """Makes a study of files, as `build` does, in an empty folder."""
  rng = np.random.default_rng(settings.seed)
  training, files = _set_apart(files, settings, rng)
  everything = [p for versions in (*training.values(), *files.values())
                for p in versions.values()]  # fmt: skip
  geometry = encode.common_geometry(everything, settings.clip)
  _LOGGER.info(
    "%d clips of %d x %d, %.3g frames/s, %d Hz, %.2f s",
    len(everything), geometry.height, geometry.width, geometry.fps,
    geometry.sample_rate, geometry.seconds,
  )  # fmt: skip
  maker = _ClipMaker(output / CLIPS, geometry)
  regular = maker.encode(files)
  practice = maker.encode(training)[: settings.training]
  faulty = maker.spoil(regular, files, rng)
  size = encode.make_equally_large(sorted((output / CLIPS).glob("*.mp4")))
  _LOGGER.info("every file has %d bytes", size)
  slots = _slots(regular, practice, faulty, settings, rng)
  write_json(output / TRUTH, {"clips": maker.truth})
  token = output / TOKEN
  token.write_text(secrets.token_urlsafe(24) + "\n")
  token.chmod(0o600)
  study = Study(
    path=output,
    settings=settings,
    seconds=geometry.seconds,
    size=(geometry.height, geometry.width),
    clips={
      clip: file_sha256(output / CLIPS / f"{clip}.mp4")
      for clip in sorted(maker.truth)
    },
    slots=tuple(slots),
    truth_sha256=file_sha256(output / TRUTH),
  )
  write_study(study)
  return study


def _sources(
  folders: Mapping[str, str | os.PathLike], settings: Settings
) -> Files:
  """Path by system, by source."""
  sources: Files = {}
  wanted = settings.clips_per_system
  for system, folder in folders.items():
    found = find_media(folder)[0]
    if len(found) < (wanted or 1):
      raise ValueError(
        f"{folder} holds {len(found)} clips of {system!r}, at least "
        f"{wanted or 1} are needed; add clips or lower clips_per_system."
      )
    for index, (name, path) in enumerate(found[:wanted]):
      stem = name.rpartition(".")[0]
      source = stem if settings.match == "name" else f"{index:06d}"
      if system in sources.setdefault(source, {}):
        raise ValueError(
          f"{folder}: two clips are called {stem!r}; rename one."
        )
      sources[source][system] = path
  return sources


def _set_apart(
  files: Files, settings: Settings, rng: np.random.Generator
) -> tuple[Files, Files]:
  """(sources of the training items, all others)."""
  names = sorted(files)
  if len(names) <= settings.training:
    raise ValueError(
      f"{len(names)} sources are too few for {settings.training} training "
      "items beside them; lower `training` or add clips."
    )
  taken = [names[i] for i in rng.permutation(len(names))[: settings.training]]
  return (
    {n: files[n] for n in taken},
    {n: v for n, v in files.items() if n not in taken},
  )


class _ClipMaker:
  """Encodes clips under random names and keeps the truth."""

  def __init__(self, folder: pathlib.Path, geometry: encode.Geometry):
    self.truth: dict[str, dict[str, Any]] = {}
    self._folder, self._geometry = folder, geometry

  def _write(self, video, audio, **truth) -> str:
    # Not from the seed: who knows the code could tell the clips by it.
    clip = secrets.token_hex(12)
    path = self._folder / f"{clip}.mp4"
    encode.write_clip(path, video, audio, self._geometry)
    self.truth[clip] = truth
    return clip

  def encode(self, files: Files) -> list[Stimulus]:
    """Writes all versions of all sources."""
    stimuli = []
    for source, versions in files.items():
      for system, path in versions.items():
        video, audio = encode.read_clip(path, self._geometry)
        clip = self._write(
          video,
          audio,
          system=system,
          source=source,
          file=os.path.basename(path),
          sha256=file_sha256(path),
          trap=None,
        )
        stimuli.append(Stimulus((clip,), system, source))
    return stimuli

  def spoil(
    self,
    stimuli: list[Stimulus],
    files: Files,
    rng: np.random.Generator,
  ) -> list[Stimulus]:
    """Writes traps: of each kind some, made of clips drawn from `stimuli`."""
    faulty = []
    order = rng.permutation(len(stimuli))
    for number in range(min(_TRAPS_PER_KIND * len(traps.KINDS), len(order))):
      base, kind = stimuli[order[number]], traps.KINDS[number % 3]
      others = [s for s in stimuli if s.source != base.source]
      if not others:
        continue
      other = others[int(rng.integers(len(others)))]
      video, audio = self._read(base, files)
      clip = self._write(
        *traps.spoil(kind, video, audio, self._read(other, files)[1]),
        system=base.system,
        source=base.source,
        trap=kind,
        of=base.clips[0],
      )
      faulty.append(dataclasses.replace(base, clips=(clip,)))
    return faulty

  def _read(self, stimulus: Stimulus, files: Files):
    path = files[stimulus.source][stimulus.system]
    return encode.read_clip(path, self._geometry)


def _slots(
  regular: list[Stimulus],
  practice: list[Stimulus],
  faulty: list[Stimulus],
  settings: Settings,
  rng: np.random.Generator,
) -> list[Slot]:
  """The raters' places, the tasks taking turns."""
  by_task = []
  intact = {(s.system, s.source): s.clips for s in regular}
  for task, counts in settings.tasks.items():
    stimuli, training, faults = regular, practice, faulty
    if task == "preference":
      stimuli = design.pairs_of(regular)
      if not stimuli:
        raise ValueError(
          "preference compares versions of one source, but no source has two; "
          "match: order pairs the k-th files."
        )
      training = design.pairs_of(practice) or stimuli[:1] * bool(practice)
      faults = [_trap_pair(s, intact, rng) for s in faulty]
    plan = design.blocks(stimuli, counts.votes, counts.per_rater, rng)
    by_task.append([
      Slot(task, tuple(design.slot_trials(
        design.ordered(block, row), training, faults,
        settings.repeats, settings.traps, rng,
      )))
      for row, block in enumerate(plan)
    ])  # fmt: skip
  longest = max(map(len, by_task))
  return [
    slots[i] for i in range(longest) for slots in by_task if i < len(slots)
  ]


def _trap_pair(
  faulty: Stimulus,
  intact: Mapping[tuple[str, str], tuple[str, ...]],
  rng: np.random.Generator,
) -> Stimulus:
  """The faulty clip beside its intact self, as A or as B."""
  clips = faulty.clips + intact[faulty.system, faulty.source]
  if rng.random() < 0.5:
    clips = clips[::-1]
  return dataclasses.replace(faulty, clips=clips)
