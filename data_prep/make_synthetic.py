"""Writes a folder of sounding-shapes videos (mp4) and their truth.

The folder goes through the ordinary preparation like any folder of videos;
`truth.json` in it lists the impacts of each file, `captions.jsonl` describes it
in words.
"""

import dataclasses
import json
import pathlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from mmdiff_jax.av import AVSpec
from mmdiff_jax.disk.files import as_path, is_cloud
from mmdiff_jax.media.writing import write_mp4
from mmdiff_jax.world.clips import World, make_clip, split_seed

_TRUTH, _CAPTIONS = "truth.json", "captions.jsonl"


def write_split(
  directory: str | pathlib.Path,
  split: str,
  indices: Iterable[int],
  geometry: Mapping[str, Any],
  **options: Any,
) -> pathlib.Path:
  """Writes clips of a split; see `write_folder`.

  Args:
    directory: made if absent.
    split: see `split_seed`.
    indices: numbers of the clips.
    geometry: fields of `AVSpec` that differ from its defaults.
    **options: fields of `World`.
  """
  seeds = [split_seed(split, index) for index in indices]
  return write_folder(directory, seeds, AVSpec(**geometry), **options)


def write_folder(
  directory: str | pathlib.Path,
  seeds: Iterable[int],
  spec: AVSpec,
  **options: Any,
) -> pathlib.Path:
  """Writes the clips of some seeds as mp4 files, truth and captions beside.

  Args:
    directory: made if absent. Clips that are there are replaced by the same
      ones; with others in the way nothing is written.
    seeds: one clip each, named `clip_<seed>.mp4`.
    spec: size and rates of the files.
    **options: fields of `World`.

  Returns:
    The path of `truth.json`: {"spec", "world", "clips": [{"file", "seed",
    "impact_times", "impact_speeds", "impact_shapes", "attributes"}]}.

  Raises:
    ValueError: if the directory is a file or holds other clips, or the
      options are impossible.
  """
  directory = as_path(directory)
  names = {f"clip_{seed:010d}.mp4": seed for seed in seeds}
  rules = {
    "spec": dataclasses.asdict(spec),
    "world": dataclasses.asdict(World(**options)),
  }
  _check_folder(directory, names, rules)
  if not is_cloud(directory):
    directory.mkdir(parents=True, exist_ok=True)
  clips, captions = [], []
  for name, seed in names.items():
    clip = make_clip(seed, spec, **options)
    write_mp4(
      directory / name,
      clip.video,
      clip.audio,
      fps=spec.fps,
      sample_rate=spec.sample_rate,
    )
    clips.append({"file": name, "seed": int(seed), **clip.truth()})
    captions.append({"name": name, "caption": clip.captions()})
  lines = "".join(json.dumps(row) + "\n" for row in captions)
  (directory / _CAPTIONS).write_text(lines)
  path = directory / _TRUTH
  path.write_text(json.dumps({**rules, "clips": clips}, indent=1) + "\n")
  return path


def _check_folder(
  directory: pathlib.Path, names: Collection[str], rules: dict
) -> None:
  """Refuses a folder with clips that would not come out the same."""
  if not directory.is_dir():
    if directory.exists():
      raise ValueError(f"{directory} is a file; name a folder for the clips.")
    return
  found = {path.name for path in directory.glob("*.mp4")}
  if not found:
    return
  others = sorted(found - set(names))
  if others:
    raise ValueError(
      f"{directory} holds {len(others)} other clips, such as {others[0]}: "
      f"{_TRUTH} would not list them; choose another folder, or move them away."
    )
  try:
    truth = json.loads((directory / _TRUTH).read_text())
    same = {key: truth[key] for key in rules} == json.loads(json.dumps(rules))
  except FileNotFoundError:
    return  # left by a call that was interrupted
  except (ValueError, KeyError, TypeError):
    same = False
  if not same:
    raise ValueError(
      f"{directory} holds clips of other settings ({_TRUTH}); choose another "
      "folder, or delete them."
    )
