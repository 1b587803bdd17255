"""Which clips there are, which are rated, and which are for practice."""

import logging
import os
from collections import Counter
from collections.abc import Mapping

import numpy as np

from mmdiff_jax.media.files import find_media
from mmdiff_jax.study.settings import Settings

_LOGGER = logging.getLogger(__name__)

# Path by system, by source.
Files = dict[str, dict[str, str]]


def find_sources(
  folders: Mapping[str, str | os.PathLike], settings: Settings
) -> Files:
  """All clips there are, those of one source together.

  Args:
    folders: of clips, by system.
    settings: how clips of different folders are matched.

  Raises:
    ValueError: for too few clips, or two of one name.
  """
  sources: Files = {}
  least = settings.clips_per_system or 1
  media = {system: find_media(folder)[0] for system, folder in folders.items()}
  match = settings.match
  if match == "auto":
    stems = Counter(
      stem
      for found in media.values()
      for stem in {name.rpartition(".")[0] for name, _ in found}
    )
    match = "name" if max(stems.values(), default=0) > 1 else "order"
    _LOGGER.info("clips of different folders are matched by %s", match)
  for system, folder in folders.items():
    found = media[system]
    if len(found) < least:
      raise ValueError(
        f"{folder} holds {len(found)} clips of {system!r}, at least {least} "
        "are needed; add clips or lower clips_per_system."
      )
    for index, (name, path) in enumerate(found):
      stem = name.rpartition(".")[0]
      source = {
        "name": stem, "order": f"{index:06d}", "none": f"{system}/{stem}",
      }[match]  # fmt: skip
      if system in sources.setdefault(source, {}):
        raise ValueError(
          f"{folder}: two clips are called {stem!r}; rename one."
        )
      sources[source][system] = path
  return sources


def choose(
  files: Files,
  systems: tuple[str, ...],
  settings: Settings,
  rng: np.random.Generator,
) -> tuple[Files, Files]:
  """(sources of the training items, those that are rated), drawn by the seed.

  Over the training items, the systems take turns, the first drawn as well.
  Training takes clips that are not counted while there are some.

  Args:
    files: as `find_sources` finds them.
    systems: their names.
    settings: how many of each.
    rng: draws.

  Raises:
    ValueError: if there are too few sources.
  """
  names = [sorted(files)[i] for i in rng.permutation(len(files))]
  # What several systems have comes first: there they are compared alike.
  names.sort(key=lambda name: -len(files[name]))
  wanted = settings.clips_per_system
  counts = Counter(system for name in names for system in files[name])
  spare = {s: counts[s] - wanted if wanted else 0 for s in systems}
  if len(names) <= settings.training:
    raise ValueError(
      f"{len(names)} sources are too few for {settings.training} training "
      "items beside them; lower `training` or add clips."
    )
  training: Files = {}
  turns = [systems[i] for i in rng.permutation(len(systems))]
  for number in range(settings.training):
    system = turns[number % len(turns)]
    left = [n for n in names if n not in training]
    having = [n for n in left if system in files[n]] or left
    free = [n for n in having if all(spare[s] > 0 for s in files[n])]
    name = (free or having)[0]
    for other in files[name]:
      spare[other] -= 1
    training[name] = files[name]
  if wanted and min(spare.values()) < 0:
    _LOGGER.warning(
      "%d clips of a system are for training only; give %d of each to have "
      "%d rated.", -min(spare.values()), wanted + settings.training, wanted,
    )  # fmt: skip
  rated: Files = {}
  taken: Counter[str] = Counter()
  for name in names:
    versions = {
      system: path
      for system, path in files[name].items()
      if name not in training and (not wanted or taken[system] < wanted)
    }
    taken.update(versions.keys())
    if versions:
      rated[name] = versions
  return training, rated
