"""The checkpoints of a training run."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from mmdiff_jax.checkpoint.layout import (
  add_checksums,
  check_whole,
  is_checkpoint,
  load_config,
  make_metadata,
  mark_of,
  read_metadata,
  reading,
  saved_steps,
  writing,
)
from mmdiff_jax.disk.files import absolute, is_cloud, remove_tree
from mmdiff_jax.disk.leftovers import temporary_folder

# What the gathered metrics are called on disk, from the first checkpoints on.
_METRICS = "window"
# The newest ones that are kept, whatever else is.
_KEPT = 2

_training = ocp.training
_preservation = _training.preservation_policies
_decisions = _training.save_decision_policies


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
    self._keep_every, self._has_saved = keep_every, False
    self._checkpointer = _training.Checkpointer(
      epath.Path(self._directory),
      # The loop decides when to save; every step is allowed.
      save_decision_policy=_decisions.FixedIntervalPolicy(1),
      # What is removed goes at once (`_remove`), which orbax's removal, if it
      # is interrupted, does not.
      preservation_policy=_preservation.PreserveAll(),
      cleanup_tmp_directories=True,
    )

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *exc_info: Any) -> None:
    self.close()

  def close(self) -> None:
    """Waits for a save under way and releases the directory."""
    with writing(self._directory):
      self._checkpointer.close()
      if self._has_saved:
        self._remove_old()

  @property
  def latest_step(self) -> int | None:
    """Step of the newest complete checkpoint, or None."""
    return max(saved_steps(self._directory), default=None)

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
    with writing(self._directory):
      self._checkpointer.wait()
      self._remove_old()
      with _checksums_before_commit(path):
        response = self._checkpointer.save_checkpointables_async(
          step,
          {"state": state, _METRICS: metrics},
          custom_metadata=make_metadata(config, loader_state, step),
        )
    self._has_saved = True
    if response is None:
      raise RuntimeError(f"The checkpoint of step {step} was not accepted.")

  def discard(self, step: int) -> bool:
    """Removes the checkpoint of a step; returns whether there was one."""
    with writing(self._directory):
      self._checkpointer.wait()
    path = self.path(step)
    if not is_checkpoint(path):
      return False
    _remove(path)
    return True

  def _remove_old(self) -> None:
    """Removes all but the newest and those that are kept for good."""
    for step in sorted(saved_steps(self._directory))[:-_KEPT]:
      if self._keep_every <= 0 or step % self._keep_every:
        _remove(self.path(step))

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
    check_whole(self.path(step))
    with reading(self.path(step)):
      loaded = self._checkpointer.load_checkpointables(
        step, {"state": abstract_state, _METRICS: abstract_metrics}
      )
      loader = read_metadata(self.path(step))["loader"]
      return loaded["state"], loaded[_METRICS], loader


def check_checkpoints_path(directory: str | os.PathLike) -> None:
  """Raises ValueError where orbax cannot write checkpoints of a run."""
  if is_cloud(directory) and not os.fspath(directory).startswith("gs://"):
    raise ValueError(
      f"{os.fspath(directory)}: checkpoints of a run are written to folders "
      "and gs:// only; give such a --workdir, and copy it when it is done "
      "(data sets, samples, reports and finished checkpoints may lie there)."
    )


def _remove(path: pathlib.Path) -> None:
  """Removes a checkpoint; a kill in the midst leaves none, or all of it."""
  if jax.process_index() != 0:
    return
  if is_cloud(path):
    # Without this file it is none, whatever becomes of the rest.
    mark_of(path).unlink()
    remove_tree(path)
    return
  try:
    with temporary_folder(path) as aside:
      os.rename(path, aside)
  except OSError:
    remove_tree(path)  # On a full disk there may be no room for a name.


def _checksums_before_commit(path: pathlib.Path) -> ocp.Context:
  """Has the checksums written in the background, ahead of the last rename."""

  def finish() -> None:
    # Its name until all of it is written.
    folder = next(path.parent.glob(f"{path.name}.orbax-checkpoint-tmp*"), path)
    add_checksums(folder)

  context = ocp.Context()
  if jax.process_index() == 0:
    context.asynchronous.post_finalization_callback = finish
  return context
