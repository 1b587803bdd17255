"""Parameters in checkpoints: read alone, written alone."""

import logging
import os
import pathlib
import tempfile
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from mmdiff_jax.checkpoint.layout import (
  CLOUD_MARK,
  add_checksums,
  check_whole,
  config_to_json,
  find_checkpoint,
  load_config,
  make_metadata,
  reading,
  writing,
)
from mmdiff_jax.disk.files import (
  absolute,
  is_cloud,
  local_copy,
  unreachable,
  upload,
)
from mmdiff_jax.disk.leftovers import temporary_folder

_log = logging.getLogger(__name__)


def load_params(
  path: str | os.PathLike,
  abstract_params: Any,
  *,
  ema: bool = True,
  initial: Mapping[str, Any] | None = None,
  grown: Collection[str] = (),
) -> Any:
  """Reads the (EMA) parameters of a checkpoint and nothing else of it.

  Args:
    path: see `find_checkpoint`.
    abstract_params: `jax.ShapeDtypeStruct`s with shardings.
    ema: the moving average (True) or the raw parameters.
    initial: parameters of a network that was just initialised, of which those
      that the checkpoint may lack are taken.
    grown: these; see `models.Network.grown`.

  Raises:
    ValueError: if the checkpoint is damaged, or belongs to a network of other
      shapes.
  """
  name = "ema_params" if ema else "params"
  directory = find_checkpoint(path)
  with local_copy(directory) as folder:
    check_whole(folder, where=directory)
    with reading(directory):
      saved = ocp.checkpointables_metadata(folder).metadata["state"][name]
    new = {}
    if initial is not None:
      new = {k: initial[k] for k in sorted(grown) if k not in saved}
    known = {k: x for k, x in abstract_params.items() if k not in new}
    _check_shapes(saved, known, directory)
    params = _read_params(folder, directory, name, known)
  if new:
    _log.info("New in the network: %s.", ", ".join(new))
  return {**params, **new}


def _read_params(
  folder: pathlib.Path, directory: pathlib.Path, name: str, abstract: Any
) -> Any:
  """Reads parameters from `folder`, which is `directory` or its copy."""
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  with context, reading(directory):
    loaded = ocp.load_checkpointables(folder, {"state": {name: abstract}})
  return loaded["state"][name]


def _check_shapes(saved: Any, wanted: Any, directory: pathlib.Path) -> None:
  """Raises ValueError unless both trees name the same arrays."""

  def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {key: tuple(leaf.shape) for key, leaf in _by_path(tree).items()}

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
  state = {"params": params, "ema_params": params}
  write_checkpoint(path, state, config, step)
  return path


def write_checkpoint(
  path: pathlib.Path,
  state: Mapping[str, Any],
  config: ConfigDict,
  step: int | None = None,
) -> None:
  """Writes a checkpoint of part of a training state, and its checksums.

  Args:
    path: of the checkpoint.
    state: what it holds.
    config: the configuration that builds the network.
    step: by which `path` is called; None where it is a name like any other.

  Raises:
    OSError: if it cannot be written.
  """
  if is_cloud(path):
    with tempfile.TemporaryDirectory() as folder:
      local = pathlib.Path(folder) / path.name
      write_checkpoint(local, state, config, step)
      (local / CLOUD_MARK).write_text("Complete.\n")
      with unreachable(path):
        upload(local, path, last=[CLOUD_MARK])
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  # Complete, with its checksums, before it has its name. Its file is made
  # first: orbax does not come back from a place that it cannot write to.
  with temporary_folder(path) as temporary:
    with writing(path.parent):
      ocp.save_checkpointables(
        temporary,
        {"state": dict(state)},
        custom_metadata=make_metadata(config, {}, step),
      )
    # Says where on this machine it was written; nothing reads it.
    (temporary / CLOUD_MARK).unlink(missing_ok=True)
    add_checksums(temporary)
    if path.exists():
      raise FileExistsError(f"{path} was made by another process meanwhile.")
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
    check_whole(folder, where=directory)
    with reading(directory):
      saved = ocp.checkpointables_metadata(folder).metadata["state"]
      abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        saved["ema_params"],
      )
    params = _read_params(folder, directory, "ema_params", abstract)
  return params, load_config(directory)


def holds(path: pathlib.Path, params: Any, config: ConfigDict) -> bool:
  """Whether a checkpoint holds exactly these averaged parameters.

  Args:
    path: a checkpoint.
    params: a tree of arrays.
    config: the configuration that it must hold, too.

  Raises:
    ValueError: if it is damaged.
  """
  average, stored = read_average(path)
  if config_to_json(stored) != config_to_json(config):
    return False
  found, wanted = _by_path(average), _by_path(params)
  return found.keys() == wanted.keys() and all(
    found[key].dtype == x.dtype and np.array_equal(found[key], x)
    for key, x in wanted.items()
  )


def _by_path(tree: Any) -> dict[str, Any]:
  """The leaves of a tree by their place in it."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
