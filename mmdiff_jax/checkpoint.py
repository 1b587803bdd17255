"""Checkpoints: the one place that talks to orbax.

A checkpoint `DIR/<step>` holds the training state, the metrics gathered
since they were last logged and, as JSON, the configuration and the position
of the data loader.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from mmdiff_jax import models
from mmdiff_jax.files import write_json

# What the gathered metrics are called on disk, from the first checkpoints on.
_METRICS = "window"

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
  write_json(pathlib.Path(workdir) / "config.json", config_to_json(config))


class Checkpoints:
  """Saves and restores the checkpoints of one directory.

  Saving is asynchronous; the latest checkpoint and every `keep_every`-th
  step are kept. A save that was interrupted leaves no visible checkpoint.
  """

  def __init__(self, directory: str | os.PathLike, *, keep_every: int = 0):
    """Opens (and where needed creates) a directory of checkpoints."""
    self._directory = pathlib.Path(directory).absolute()
    policies = [_preservation.LatestN(1)]
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
    self._checkpointer.close()

  @property
  def latest_step(self) -> int | None:
    """Step of the newest complete checkpoint, or None."""
    return max(_saved_steps(self._directory), default=None)

  def save(
    self,
    step: int,
    state: Any,
    metrics: Any,
    *,
    config: ConfigDict,
    loader_state: Mapping[str, Any],
  ) -> None:
    """Starts writing a checkpoint; waits for the previous one first."""
    self._checkpointer.wait()
    response = self._checkpointer.save_checkpointables_async(
      step,
      {"state": state, _METRICS: metrics},
      custom_metadata={
        "config": config_to_json(config),
        "loader": dict(loader_state),
      },
    )
    if response is None:
      raise RuntimeError(f"The checkpoint of step {step} was not accepted.")

  def config(self, step: int) -> ConfigDict:
    """The configuration that a checkpoint was written with."""
    return load_config(self._directory / str(step))

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
    with _reading(self._directory / str(step)):
      loaded = self._checkpointer.load_checkpointables(
        step, {"state": abstract_state, _METRICS: abstract_metrics}
      )
      loader = self._checkpointer.metadata(step).custom_metadata["loader"]
      return loaded["state"], loaded[_METRICS], loader


def _is_checkpoint(path: pathlib.Path) -> bool:
  return (path / "_CHECKPOINT_METADATA").is_file()


def _saved_steps(directory: pathlib.Path) -> list[int]:
  """Steps of the complete checkpoints of a directory, if there is one."""
  return [
    int(path.parent.name)
    for path in directory.glob("*/_CHECKPOINT_METADATA")
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
      f"The checkpoint {path} cannot be read ({type(error).__name__}: {what}). "
      "If it is damaged, delete this directory: the same command then goes on "
      "from the checkpoint before it, or starts anew."
    ) from error


def find_checkpoint(path: str | os.PathLike) -> pathlib.Path:
  """Resolves a checkpoint directory.

  Args:
    path: a checkpoint, a directory of checkpoints, or a training run's
      workdir; of several the newest is taken.

  Raises:
    FileNotFoundError: if there is none.
  """
  path = pathlib.Path(path).absolute()
  if _is_checkpoint(path):
    return path
  for parent in (path, path / "checkpoints"):
    steps = _saved_steps(parent)
    if steps:
      return parent / str(max(steps))
  raise FileNotFoundError(
    f"No checkpoint in {path}: give a checkpoint directory, or the --workdir "
    "of a training run that has saved one."
  )


def load_config(path: str | os.PathLike) -> ConfigDict:
  """The configuration stored in a checkpoint.

  Raises:
    FileNotFoundError: if there is no checkpoint.
    ValueError: if it is damaged.
  """
  directory = find_checkpoint(path)
  with _reading(directory):
    metadata = ocp.checkpointables_metadata(directory)
    config = config_from_json(metadata.custom_metadata["config"])
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
  with _reading(directory):
    saved = ocp.checkpointables_metadata(directory).metadata["state"][name]
  _check_shapes(saved, abstract_params, directory)
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  with context, _reading(directory):
    loaded = ocp.load_checkpointables(
      directory, {"state": {name: abstract_params}}
    )
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
  path = pathlib.Path(directory).absolute() / "checkpoints" / str(step)
  params = jax.tree.map(jax.numpy.asarray, params)
  ocp.save_checkpointables(
    path,
    {"state": {"params": params, "ema_params": params}},
    custom_metadata={"config": config_to_json(config), "loader": {}},
  )
  return path


def export_params(
  source: str | os.PathLike,
  directory: str | os.PathLike,
  dtype: str = "float16",
) -> pathlib.Path:
  """Writes the averaged parameters of a checkpoint alone, to hand on.

  Sampling reads the result like any checkpoint, and training can start from
  it (`config.train.init_from`); a run cannot be continued from it.

  Args:
    source: see `find_checkpoint`.
    directory: becomes the checkpoint; must not exist.
    dtype: in which they are stored; what loads them asks for float32.

  Returns:
    The path of the checkpoint.

  Raises:
    FileExistsError: if `directory` exists.
    FileNotFoundError: if there is no checkpoint.
    OSError: if `directory` cannot be made.
    ValueError: if a parameter is too large for `dtype`.
  """
  target = pathlib.Path(directory).absolute()
  if target.exists():
    raise FileExistsError(f"{directory} exists; give another --output.")
  path = find_checkpoint(source)
  # Orbax does not come back from a place that it cannot write to.
  target.mkdir(parents=True)
  target.rmdir()
  with _reading(path):
    saved = ocp.checkpointables_metadata(path).metadata["state"]["ema_params"]
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  params = load_params(
    path,
    jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), saved
    ),
  )
  params = jax.tree.map(lambda x: x.astype(dtype), params)
  if not all(
    bool(jax.numpy.isfinite(x).all()) for x in jax.tree.leaves(params)
  ):
    raise ValueError(
      f"A parameter of {path} is not finite in {dtype}; choose float32."
    )
  ocp.save_checkpointables(
    target,
    {"state": {"ema_params": params}},
    custom_metadata={"config": config_to_json(load_config(path)), "loader": {}},
  )
  # Says where on this machine it was written; nothing reads it.
  (target / "commit_success.txt").unlink(missing_ok=True)
  return target
