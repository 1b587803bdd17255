"""What a checkpoint is on disk: its marks, what it says of itself, damage.

`checksums.json` in it lets every load see damage, which orbax reads over. The
mark, which orbax completes at the commit, carries our metadata and their
checksum.
"""

import contextlib
import json
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from mmdiff_jax import models
from mmdiff_jax.disk.checksums import CHECKSUMS, seal, unseal, write_checksums
from mmdiff_jax.disk.files import absolute, as_path, is_cloud, write_json
from mmdiff_jax.disk.verify import find_changes

_log = logging.getLogger(__name__)

# Files up to this size are compared where only the configuration is read.
_SMALL_FILE = 1 << 20
# Every complete checkpoint has this file.
MARK = "_CHECKPOINT_METADATA"
# In an object store, where nothing can be renamed, the last file of all.
CLOUD_MARK = "commit_success.txt"
_METADATA = "custom_metadata"
# Of our metadata: since 2 they name the step, and there are checksums.
_VERSION = 2
# Files of orbax's, by which a checkpoint is known that has lost its mark.
_CONTENT = ("state/_METADATA", "state/manifest.ocdbt")


def config_to_json(config: ConfigDict) -> dict[str, Any]:
  """A configuration as plain JSON values (tuples become lists)."""
  return json.loads(config.to_json())


def config_from_json(value: Mapping[str, Any]) -> ConfigDict:
  """The inverse of `config_to_json`: lists become tuples again."""

  def restore(item: Any) -> Any:
    if isinstance(item, Mapping):
      return ConfigDict({k: restore(v) for k, v in item.items()})
    return tuple(item) if isinstance(item, list) else item

  return restore(value)


def _upgrade(config: ConfigDict) -> ConfigDict:
  """The configuration of an earlier version, as it is written today.

  `config.model` once held the keys of all networks, whichever was named.
  """
  allowed = models.fields(config.model.name) | {"name"}
  config.model = ConfigDict(
    {key: value for key, value in config.model.items() if key in allowed}
  )
  return config


def write_config(config: ConfigDict, workdir: str | os.PathLike) -> None:
  """Writes `config.json` into a run's directory, for people to read."""
  if jax.process_index() != 0:
    return
  write_json(as_path(workdir) / "config.json", config_to_json(config))


def mark_of(path: pathlib.Path) -> pathlib.Path:
  """The file that a checkpoint has once it is complete."""
  return path / (CLOUD_MARK if is_cloud(path) else MARK)


def is_checkpoint(path: pathlib.Path) -> bool:
  """Whether a checkpoint lies there: complete, or damaged.

  What is not complete yet has another name, and in an object store no mark.
  """
  if mark_of(path).is_file():
    return True
  return not is_cloud(path) and any((path / n).exists() for n in _CONTENT)


def saved_steps(directory: pathlib.Path) -> list[int]:
  """Steps of the checkpoints of a directory, if there is one."""
  if is_cloud(directory):
    found = [p.parent for p in directory.glob(f"*/{CLOUD_MARK}")]
  else:
    found = [p for p in directory.glob("*") if is_checkpoint(p)]
  return [int(path.name) for path in found if path.name.isdigit()]


@contextlib.contextmanager
def reading(path: pathlib.Path) -> Iterator[None]:
  """Turns whatever orbax raises for a damaged checkpoint into one line."""
  try:
    yield
  except Exception as error:
    what = str(error).strip().split("\n")[0][:120]
    raise ValueError(
      _damaged(path, f"{type(error).__name__}: {what}")
    ) from error


@contextlib.contextmanager
def writing(directory: pathlib.Path) -> Iterator[None]:
  """Turns whatever orbax raises where it cannot write into one line."""
  try:
    yield
  except Exception as error:
    what = str(error).strip().split("\n")[0][:200]
    raise OSError(
      f"A checkpoint cannot be written to {directory} ({type(error).__name__}: "
      f"{what}). Those that are there are whole; once there is room, the same "
      "command continues."
    ) from error


def make_metadata(
  config: ConfigDict, loader_state: Mapping[str, Any], step: int | None
) -> dict[str, Any]:
  """What a checkpoint says of itself, with a checksum of its own.

  Args:
    config: of the run.
    loader_state: of the data loader.
    step: by which the checkpoint is called; None where it is not.
  """
  return seal(
    {
      "version": _VERSION,
      "config": config_to_json(config),
      "loader": dict(loader_state),
      "step": step,
    }
  )


def read_metadata(directory: pathlib.Path) -> dict[str, Any]:
  """The inverse of `make_metadata`; raises ValueError for another checksum."""
  # Read by ourselves: orbax would look at the arrays, too.
  content = json.loads((directory / MARK).read_text())[_METADATA]
  return unseal(content)


def add_checksums(directory: pathlib.Path) -> None:
  """Writes `checksums.json`, once all but the mark is written."""
  # The other mark says where it was written to, which nothing reads.
  write_checksums(directory, skip=(CLOUD_MARK,), sealed={MARK: [_METADATA]})


def find_problems(
  directory: pathlib.Path, largest: int | None = None
) -> list[str] | None:
  """What is wrong with a checkpoint, in lines.

  Args:
    directory: the checkpoint, or a copy of it that has its name.
    largest: see `find_changes`.

  Returns:
    None where an earlier version wrote no checksums, and nothing else shows.
  """
  if not (directory / MARK).is_file():
    return [f"{MARK} is missing"]
  problems = find_changes(directory, largest=largest)
  try:
    content = read_metadata(directory)
    version, step = content.get("version", 1), content.get("step")
    if version >= _VERSION and problems is None:
      return [f"{CHECKSUMS} is missing"]
    name = directory.name
    if step is not None and name.isdigit() and int(name) != step:
      return [f"it holds step {step}: it was copied here, or renamed"]
  except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
    problems = problems or [f"{MARK} is damaged ({type(error).__name__})"]
  return problems


def check_whole(
  directory: pathlib.Path,
  largest: int | None = None,
  where: pathlib.Path | None = None,
) -> None:
  """Raises ValueError for a checkpoint that is not as it was written.

  Args:
    directory: what is read.
    largest: see `find_changes`.
    where: what it is a copy of, for the error.
  """
  problems = find_problems(directory, largest)
  if problems:
    raise ValueError(_damaged(where or directory, "; ".join(problems[:3])))
  if problems is None and largest is None:
    _log.info(
      "%s is of an earlier version and has no checksums: damage to it would "
      "not be noticed.",
      where or directory,
    )


def _damaged(path: pathlib.Path, what: str) -> str:
  return (
    f"The checkpoint {path} cannot be read ({what}). If it is damaged, delete "
    "this directory: the same command then goes on from the checkpoint before "
    "it, or starts anew."
  )


def find_checkpoint(path: str | os.PathLike) -> pathlib.Path:
  """Resolves a checkpoint directory.

  Args:
    path: a checkpoint, a directory of checkpoints, or a training run's
      workdir; of several the newest is taken.

  Raises:
    FileNotFoundError: if there is none.
  """
  found = list_checkpoints(path)
  if found:
    return found[-1]
  raise FileNotFoundError(
    f"No checkpoint in {absolute(path)}: give a checkpoint "
    "directory, or the --workdir of a training run that has saved one."
  )


def load_config(path: str | os.PathLike) -> ConfigDict:
  """The configuration stored in a checkpoint.

  Raises:
    FileNotFoundError: if there is no checkpoint.
    ValueError: if it is damaged.
  """
  directory = find_checkpoint(path)
  check_whole(directory, _SMALL_FILE)
  with reading(directory):
    config = config_from_json(read_metadata(directory)["config"])
  return _upgrade(config)


def list_checkpoints(path: str | os.PathLike) -> list[pathlib.Path]:
  """A checkpoint, or all of a directory of them or of a run; maybe none."""
  path = absolute(path)
  if is_checkpoint(path):
    return [path]
  for parent in (path, path / "checkpoints"):
    steps = saved_steps(parent)
    if steps:
      return [parent / str(step) for step in sorted(steps)]
  return []
