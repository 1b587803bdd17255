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

from mmdiff_jax.disk.files import (
  check_directory,
  check_local,
  file_sha256,
  write_json,
)
from mmdiff_jax.disk.locks import locked
from mmdiff_jax.disk.progress import progress_bar
from mmdiff_jax.study import texts
from mmdiff_jax.study.building import design, encode, traps
from mmdiff_jax.study.building.design import Stimulus
from mmdiff_jax.study.building.sources import Files, choose, find_sources
from mmdiff_jax.study.folder import (
  CLIPS,
  STUDY,
  TEXTS,
  TOKEN,
  TRUTH,
  Slot,
  Study,
  write_study,
)
from mmdiff_jax.study.settings import FAULTS, Settings

_LOGGER = logging.getLogger(__name__)
REAL = "real"
# Different trap clips of each kind, so that none becomes known.
_TRAPS_PER_KIND = 4
# Where a study is made, and what moves out of it once all of it is there.
_BUILDING = ".building"
_PARTS = (CLIPS, TEXTS, TRUTH, TOKEN, STUDY)


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
    ValueError: if names, counts, texts or clips do not allow the study.
    OSError: if `output` cannot be written to, or another process does.
  """
  check_local(output, "--output")
  output = pathlib.Path(output)
  check_directory(output)
  if not fake or REAL in fake or any("|" in name for name in fake):
    raise ValueError(
      "--fake=NAME=DIR is needed at least once, by a name other than "
      f"{REAL!r} and without '|'; got {list(fake)}."
    )
  folders = {REAL: real, **fake}
  files = find_sources(folders, settings)
  with locked(output):
    _clear(output)
    building = output / _BUILDING
    try:
      study = _build(files, tuple(folders), building, settings)
    except BaseException:
      shutil.rmtree(building, ignore_errors=True)
      raise
    for part in _PARTS:
      os.replace(building / part, output / part)
    building.rmdir()
  return dataclasses.replace(study, path=output)


def _clear(output: pathlib.Path) -> None:
  """Removes what a killed build left; raises ValueError for anything else."""
  building = output / _BUILDING
  if (output / STUDY).exists():
    shutil.rmtree(building, ignore_errors=True)
    raise ValueError(f"{output} holds a study already; choose another folder.")
  if (building / STUDY).exists():
    # It was moving its parts out.
    for part in (CLIPS, TEXTS):
      shutil.rmtree(output / part, ignore_errors=True)
    for part in (TRUTH, TOKEN):
      (output / part).unlink(missing_ok=True)
  shutil.rmtree(building, ignore_errors=True)
  for part in _PARTS:
    if (output / part).exists():
      raise ValueError(
        f"{output / part} is in the way of a study's; choose another folder."
      )


def _build(
  files: Files,
  systems: tuple[str, ...],
  output: pathlib.Path,
  settings: Settings,
) -> Study:
  """Makes a study of files, as `build` does, in an empty folder."""
  rng = np.random.default_rng(settings.seed)
  practice, files = choose(files, systems, settings, rng)
  # Everything that can fail on the settings does so before the long part.
  copies = texts.copy_texts(
    pathlib.Path(settings.texts) if settings.texts else texts.INCLUDED,
    output / TEXTS, settings.languages, settings.tasks,
  )  # fmt: skip
  clips = _Clips()
  regular = [
    clips.add(system, source, path)
    for source, versions in files.items()
    for system, path in versions.items()
  ]
  training = [
    [clips.add(system, source, path) for system, path in versions.items()]
    for source, versions in practice.items()
  ]
  faulty = clips.spoil(regular, rng)
  slots = _slots(regular, training, faulty, settings, rng)
  geometry = clips.encode(output / CLIPS, settings)
  write_json(output / TRUTH, {"clips": clips.truth})
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
      for clip in sorted(clips.truth)
    },
    texts={copy.name: file_sha256(copy) for copy in copies},
    slots=tuple(slots),
    truth_sha256=file_sha256(output / TRUTH),
  )
  write_study(study)
  return study


class _Clips:
  """Clips to be written, under random names, and what they are."""

  def __init__(self) -> None:
    self.truth: dict[str, dict[str, Any]] = {}
    # The file of the picture, and the one of the sound.
    self._files: dict[str, tuple[str, str]] = {}

  def add(
    self, system: str, source: str, path: str, sound: str = "", **trap: str
  ) -> Stimulus:
    """Plans a clip."""
    # Not from the seed: who knows the code could tell the clips by it.
    clip = secrets.token_hex(12)
    self._files[clip] = path, sound or path
    self.truth[clip] = {
      "system": system,
      "source": source,
      "file": os.path.basename(path),
      "sha256": file_sha256(path),
      "trap": None,
    } | trap
    return Stimulus((clip,), system, source)

  def spoil(
    self, stimuli: list[Stimulus], rng: np.random.Generator
  ) -> list[Stimulus]:
    """Plans traps: of each kind some, made of clips drawn from `stimuli`."""
    faulty = []
    order, kinds = rng.permutation(len(stimuli)), tuple(FAULTS)
    for number in range(min(_TRAPS_PER_KIND * len(kinds), len(order))):
      base = stimuli[order[number]]
      others = [s for s in stimuli if s.source != base.source]
      if others:
        kind = kinds[number % len(kinds)]
        other = others[int(rng.integers(len(others)))]
        paths = [self._files[s.clips[0]][0] for s in (base, other)]
        faulty.append(
          self.add(
            base.system, base.source, *paths, trap=kind, of=base.clips[0]
          )
        )
    return faulty

  def encode(self, folder: pathlib.Path, settings: Settings):
    """Writes the clips; returns what they share."""
    paths = {path for pair in self._files.values() for path in pair}
    geometry = encode.common_geometry(sorted(paths), settings.clip)
    _LOGGER.info(
      "%d clips of %d x %d, %.3g frames/s, %d Hz, %.2f s",
      len(self._files), geometry.height, geometry.width, geometry.fps,
      geometry.sample_rate, geometry.seconds,
    )  # fmt: skip
    with progress_bar(len(self._files), "clip") as bar:
      # By their names: nothing else may tell when a clip was written.
      for clip, (picture, sound) in sorted(self._files.items()):
        video, audio = encode.read_clip(picture, geometry)
        if trap := self.truth[clip]["trap"]:
          other = encode.read_clip(sound, geometry)[1]
          video, audio = traps.spoil(trap, video, audio, other)
        encode.write_clip(folder / f"{clip}.mp4", video, audio, geometry)
        bar.update()
    size = encode.make_equally_large(sorted(folder.glob("*.mp4")))
    _LOGGER.info("every file has %d bytes", size)
    return geometry


def _slots(
  regular: list[Stimulus],
  training: list[list[Stimulus]],
  faulty: list[Stimulus],
  settings: Settings,
  rng: np.random.Generator,
) -> list[Slot]:
  """The raters' places, the tasks taking turns."""
  by_task = []
  intact = {(s.system, s.source): s.clips for s in regular}
  for task, counts in settings.tasks.items():
    stimuli, faults = regular, faulty
    if task == "preference":
      stimuli = design.pairs_of(regular, rng)
      if not stimuli:
        raise ValueError(
          "preference compares versions of one source, but no source has two; "
          "set match: order to pair the k-th files."
        )
      faults = [_trap_pair(s, intact, rng) for s in faulty]
    by_task.append([
      Slot(task, tuple(design.slot_trials(
        block, _practice(training, task, rng), faults,
        settings.repeats, settings.traps, rng,
      )))
      for block in design.blocks(stimuli, counts.votes, counts.per_rater, rng)
    ])  # fmt: skip
  longest = max(map(len, by_task))
  return [
    slots[i] for i in range(longest) for slots in by_task if i < len(slots)
  ]


def _practice(
  training: list[list[Stimulus]], task: str, rng: np.random.Generator
) -> list[Stimulus]:
  """One rater's training items: order and versions by chance."""
  items = []
  for source in rng.permutation(len(training)):
    shown = training[source]
    if task == "preference":
      shown = design.pairs_of(shown, rng)
    if shown:
      items.append(shown[int(rng.integers(len(shown)))])
  return items


def _trap_pair(
  faulty: Stimulus,
  intact: Mapping[tuple[str, str], tuple[str, ...]],
  rng: np.random.Generator,
) -> Stimulus:
  """The faulty clip beside its intact self, as A or as B."""
  clips = faulty.clips + intact[faulty.system, faulty.source]
  if rng.random() < 0.5:
    clips = clips[::-1]
  return Stimulus(clips, faulty.system, faulty.source)
