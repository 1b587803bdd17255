"""What a checkpoint is on disk: its marks, what it says of itself, damage.

`checksums.json` in it lets every load see damage, which orbax reads over.
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
from mmdiff_jax.disk.checksums import find_changes, json_checksum
from mmdiff_jax.disk.files import absolute, as_path, is_cloud, write_json

_log = logging.getLogger(__name__)

# Files up to this size are compared where only the configuration is read.
_SMALL_FILE = 1 << 20
# Every complete checkpoint has this file.
MARK = "_CHECKPOINT_METADATA"
# In an object store, where nothing can be renamed, the last file of all.
CLOUD_MARK = "commit_success.txt"
# Written after the checksums: the time of the commit, which is all that
# changes in the mark, and where it was written to, which nothing reads.
LATE_FILES = (MARK, CLOUD_MARK)


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
  """Whether a complete checkpoint lies there."""
  return mark_of(path).is_file()


def saved_steps(directory: pathlib.Path) -> list[int]:
  """Steps of the complete checkpoints of a directory, if there is one."""
  return [
    int(path.parent.name)
    for path in directory.glob(f"*/{mark_of(directory).name}")
    if path.parent.name.isdigit()
  ]


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
  config: ConfigDict, loader_state: Mapping[str, Any]
) -> dict[str, Any]:
  """What a checkpoint says of itself, with a checksum of its own."""
  content = {"config": config_to_json(config), "loader": dict(loader_state)}
  return content | {"checksum": json_checksum(content)}


def read_metadata(directory: pathlib.Path) -> dict[str, Any]:
  """The inverse of `make_metadata`; raises ValueError for another checksum."""
  # Read by ourselves: orbax would look at the arrays, too.
  content = json.loads((directory / MARK).read_text())["custom_metadata"]
  wanted = content.pop("checksum", None)
  if wanted is not None and wanted != json_checksum(content):
    raise ValueError(f"{MARK} is not what was written")
  return content


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
  changes = find_changes(directory, largest=largest)
  if changes:
    raise ValueError(_damaged(where or directory, "; ".join(changes[:3])))
  if changes is None and largest is None:
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
