"""Checkpoints: the one place that talks to orbax.

A checkpoint `DIR/<step>` holds the training state, the metrics gathered
since they were last logged and, as JSON, the configuration and the position
of the data loader. `checksums.json` in it lets every load see damage, which
orbax reads over.
"""

import contextlib
import json
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from mmdiff_jax import models
from mmdiff_jax.checksums import find_changes, json_checksum, write_checksums
from mmdiff_jax.files import (
  absolute,
  as_path,
  is_cloud,
  local_copy,
  remove_tree,
  unreachable,
  upload,
  write_json,
)

_log = logging.getLogger(__name__)

# Files up to this size are compared where only the configuration is read.
_SMALL_FILE = 1 << 20
# What the gathered metrics are called on disk, from the first checkpoints on.
_METRICS = "window"
# Every complete checkpoint has this file.
_MARK = "_CHECKPOINT_METADATA"
# In an object store, where nothing can be renamed, the last file of all.
CLOUD_MARK = "commit_success.txt"
# Written after the checksums: the time of the commit, which is all that
# changes in the mark, and where it was written to, which nothing reads.
_LATE_FILES = (_MARK, CLOUD_MARK)

_training = ocp.training
_preservation = _training.preservation_policies
_decisions = _training.save_decision_policies


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


class Checkpoints:
  """Saves and restores the checkpoints of one directory.

  Saving is asynchronous; the latest two checkpoints and every `keep_every`-th
  step are kept: should the latest be damaged, or ruined by a divergence, there
  is another. A save that was interrupted leaves no visible checkpoint.
  """

  def __init__(self, directory: str | os.PathLike, *, keep_every: int = 0):
    """Opens (and where needed creates) a directory of checkpoints."""
    check_checkpoints_path(directory)
    self._directory = absolute(directory)
    policies = [_preservation.LatestN(2)]
    if keep_every > 0:
      policies.append(_preservation.EveryNSteps(keep_every))
    self._checkpointer = _training.Checkpointer(
      epath.Path(self._directory),
      # The loop decides when to save; every step is allowed.
      save_decision_policy=_decisions.FixedIntervalPolicy(1),
      preservation_policy=_preservation.AnyPreservationPolicy(policies),
      cleanup_tmp_directories=True,
    )

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *exc_info: Any) -> None:
    self.close()

  def close(self) -> None:
    """Waits for a save under way and releases the directory."""
    with _writing(self._directory):
      self._checkpointer.close()

  @property
  def latest_step(self) -> int | None:
    """Step of the newest complete checkpoint, or None."""
    return max(_saved_steps(self._directory), default=None)

  def path(self, step: int) -> pathlib.Path:
    """Where the checkpoint of a step lies, if there is one."""
    return self._directory / str(step)

  def save(
    self,
    step: int,
    state: Any,
    metrics: Any,
    *,
    config: ConfigDict,
    loader_state: Mapping[str, Any],
  ) -> None:
    """Starts writing a checkpoint; waits for the previous one first.

    Raises:
      OSError: if this or the previous one cannot be written.
    """
    path = self.path(step)
    with _writing(self._directory):
      self._checkpointer.wait()
      with _checksums_before_commit(path):
        response = self._checkpointer.save_checkpointables_async(
          step,
          {"state": state, _METRICS: metrics},
          custom_metadata=_metadata(config, loader_state),
        )
    if response is None:
      raise RuntimeError(f"The checkpoint of step {step} was not accepted.")

  def discard(self, step: int) -> bool:
    """Removes the checkpoint of a step; returns whether there was one."""
    with _writing(self._directory):
      self._checkpointer.wait()
    path = self.path(step)
    if not _is_checkpoint(path):
      return False
    if jax.process_index() == 0:
      # Without this file it is none, whatever becomes of the rest.
      _mark_of(path).unlink()
      remove_tree(path)
    return True

  def config(self, step: int) -> ConfigDict:
    """The configuration that a checkpoint was written with."""
    return load_config(self.path(step))

  def restore(
    self, step: int, abstract_state: Any, abstract_metrics: Any
  ) -> tuple[Any, Any, dict[str, Any]]:
    """Reads a checkpoint.

    Args:
      step: which one.
      abstract_state: `jax.ShapeDtypeStruct`s with the shardings wanted,
        which may differ from those that were saved.
      abstract_metrics: the same for the metrics.

    Returns:
      State, metrics and the state of the data loader.

    Raises:
      ValueError: if it is damaged, or that of another network.
    """
    _check(self.path(step))
    with _reading(self.path(step)):
      loaded = self._checkpointer.load_checkpointables(
        step, {"state": abstract_state, _METRICS: abstract_metrics}
      )
      loader = _checked_metadata(self.path(step))["loader"]
      return loaded["state"], loaded[_METRICS], loader


def check_checkpoints_path(directory: str | os.PathLike) -> None:
  """Raises ValueError where orbax cannot write checkpoints of a run."""
  if is_cloud(directory) and not os.fspath(directory).startswith("gs://"):
    raise ValueError(
      f"{os.fspath(directory)}: checkpoints of a run are written to folders "
      "and gs:// only; give such a --workdir, and copy it when it is done "
      "(data sets, samples, reports and finished checkpoints may lie there)."
    )


def _mark_of(path: pathlib.Path) -> pathlib.Path:
  """The file that a checkpoint has once it is complete."""
  return path / (CLOUD_MARK if is_cloud(path) else _MARK)


def _is_checkpoint(path: pathlib.Path) -> bool:
  return _mark_of(path).is_file()


def _saved_steps(directory: pathlib.Path) -> list[int]:
  """Steps of the complete checkpoints of a directory, if there is one."""
  return [
    int(path.parent.name)
    for path in directory.glob(f"*/{_mark_of(directory).name}")
    if path.parent.name.isdigit()
  ]


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[None]:
  """Turns whatever orbax raises for a damaged checkpoint into one line."""
  try:
    yield
  except Exception as error:
    what = str(error).strip().split("\n")[0][:120]
    raise ValueError(
      _damaged(path, f"{type(error).__name__}: {what}")
    ) from error


@contextlib.contextmanager
def _writing(directory: pathlib.Path) -> Iterator[None]:
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


def _metadata(
  config: ConfigDict, loader_state: Mapping[str, Any]
) -> dict[str, Any]:
  """What a checkpoint says of itself, with a checksum of its own."""
  content = {"config": config_to_json(config), "loader": dict(loader_state)}
  return content | {"checksum": json_checksum(content)}


def _checked_metadata(directory: pathlib.Path) -> dict[str, Any]:
  """The inverse of `_metadata`; raises ValueError for another checksum."""
  # Read by ourselves: orbax would look at the arrays, too.
  content = json.loads((directory / _MARK).read_text())["custom_metadata"]
  wanted = content.pop("checksum", None)
  if wanted is not None and wanted != json_checksum(content):
    raise ValueError(f"{_MARK} is not what was written")
  return content


def _checksums_before_commit(path: pathlib.Path) -> ocp.Context:
  """Has the checksums written in the background, ahead of the last rename."""

  def add_checksums() -> None:
    # Its name until all of it is written.
    folder = next(path.parent.glob(f"{path.name}.orbax-checkpoint-tmp*"), path)
    write_checksums(folder, skip=_LATE_FILES)

  context = ocp.Context()
  if jax.process_index() == 0:
    context.asynchronous.post_finalization_callback = add_checksums
  return context


def _check(
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
  _check(directory, _SMALL_FILE)
  with _reading(directory):
    config = config_from_json(_checked_metadata(directory)["config"])
  return _upgrade(config)


def load_params(
  path: str | os.PathLike, abstract_params: Any, *, ema: bool = True
) -> Any:
  """Reads the (EMA) parameters of a checkpoint and nothing else of it.

  Args:
    path: see `find_checkpoint`.
    abstract_params: `jax.ShapeDtypeStruct`s with shardings.
    ema: the moving average (True) or the raw parameters.

  Raises:
    ValueError: if the checkpoint is damaged, or belongs to a network of other
      shapes.
  """
  name = "ema_params" if ema else "params"
  directory = find_checkpoint(path)
  with local_copy(directory) as folder:
    _check(folder, where=directory)
    with _reading(directory):
      saved = ocp.checkpointables_metadata(folder).metadata["state"][name]
    _check_shapes(saved, abstract_params, directory)
    return _read_params(folder, directory, name, abstract_params)


def _read_params(
  folder: pathlib.Path, directory: pathlib.Path, name: str, abstract: Any
) -> Any:
  """Reads parameters from `folder`, which is `directory` or its copy."""
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  with context, _reading(directory):
    loaded = ocp.load_checkpointables(folder, {"state": {name: abstract}})
  return loaded["state"][name]


def _check_shapes(saved: Any, wanted: Any, directory: pathlib.Path) -> None:
  """Raises ValueError unless both trees name the same arrays."""

  def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(k): tuple(v.shape) for k, v in leaves}

  saved_shapes, wanted_shapes = shapes(saved), shapes(wanted)
  differing = sorted(
    key
    for key in saved_shapes.keys() | wanted_shapes.keys()
    if saved_shapes.get(key) != wanted_shapes.get(key)
  )
  if differing:
    first = differing[0]
    raise ValueError(
      f"{directory} does not fit this model: {len(differing)} parameter(s) "
      f"differ, first {first}: {saved_shapes.get(first)} in the checkpoint, "
      f"{wanted_shapes.get(first)} in the model. Use the model settings that "
      "it was trained with."
    )


def save_params(
  directory: str | os.PathLike,
  params: Any,
  config: ConfigDict,
  *,
  step: int = 0,
) -> pathlib.Path:
  """Writes parameters as a checkpoint that sampling and training can read.

  Args:
    directory: receives `checkpoints/<step>`.
    params: the parameter tree, stored as both raw and averaged.
    config: the configuration that builds the network.
    step: the step number under which it is stored.

  Returns:
    The path of the checkpoint.
  """
  path = absolute(directory) / "checkpoints" / str(step)
  params = jax.tree.map(jax.numpy.asarray, params)
  write_checkpoint(path, {"params": params, "ema_params": params}, config)
  return path


def write_checkpoint(
  path: pathlib.Path, state: Mapping[str, Any], config: ConfigDict
) -> None:
  """Writes a checkpoint of part of a training state, and its checksums.

  Raises:
    OSError: if it cannot be written.
  """
  if is_cloud(path):
    with tempfile.TemporaryDirectory() as folder:
      local = pathlib.Path(folder) / path.name
      write_checkpoint(local, state, config)
      (local / CLOUD_MARK).write_text("Complete.\n")
      with unreachable(path):
        upload(local, path, last=[CLOUD_MARK])
    return
  # Complete, with its checksums, before it has its name.
  temporary = path.with_name(f".{path.name}.tmp")
  shutil.rmtree(temporary, ignore_errors=True)
  # Orbax does not come back from a place that it cannot write to.
  temporary.mkdir(parents=True)
  temporary.rmdir()
  with _writing(path.parent):
    ocp.save_checkpointables(
      temporary,
      {"state": dict(state)},
      custom_metadata=_metadata(config, {}),
    )
  # Says where on this machine it was written; nothing reads it.
  (temporary / CLOUD_MARK).unlink(missing_ok=True)
  write_checksums(temporary)
  os.rename(temporary, path)


def read_average(path: str | os.PathLike) -> tuple[Any, ConfigDict]:
  """The averaged parameters of a checkpoint, whatever they are, and its config.

  Args:
    path: see `find_checkpoint`.

  Returns:
    The parameters, on one device, and the configuration.

  Raises:
    FileNotFoundError: if there is no checkpoint.
    ValueError: if it is damaged.
  """
  directory = find_checkpoint(path)
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  with local_copy(directory) as folder:
    _check(folder, where=directory)
    with _reading(directory):
      saved = ocp.checkpointables_metadata(folder).metadata["state"]
      abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        saved["ema_params"],
      )
    params = _read_params(folder, directory, "ema_params", abstract)
  return params, load_config(directory)


def list_checkpoints(path: str | os.PathLike) -> list[pathlib.Path]:
  """A checkpoint, or all of a directory of them or of a run; maybe none."""
  path = absolute(path)
  if _is_checkpoint(path):
    return [path]
  for parent in (path, path / "checkpoints"):
    steps = _saved_steps(parent)
    if steps:
      return [parent / str(step) for step in sorted(steps)]
  return []
