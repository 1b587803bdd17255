"""What a run does about losses and parameters that are not finite."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.checkpoint import Checkpoints
from mmdiff_jax.training import metrics

_log = logging.getLogger(__name__)

ON_NONFINITE = ("stop", "skip")
# What lies in [-1, 1] may exceed it a little, as resampled sound does.
_LARGEST = {"audio": 2.0, "low_res": 2.0}
_CURE = (
  "Lower config.train.learning_rate, set config.train.gradient_clip=1.0 and "
  "config.train.warmup_steps, or use config.model.dtype=float32; then run the "
  "same command again"
)


class NonFiniteLossError(RuntimeError):
  """A loss, a gradient or a parameter stopped being finite."""


def check_metrics(gathered: Any, checkpoints: Checkpoints) -> None:
  """Stops a run if a step since the last log was not finite.

  The parameters that such a step started from are ruined, even where they
  are finite: their checkpoint, if there is one, is removed.

  Raises:
    NonFiniteLossError: naming step, term and cure.
  """
  bad = _nonfinite_steps(gathered)
  if not bad:
    return
  step = min(bad.values())
  terms = ", ".join(sorted(name for name, s in bad.items() if s == step))
  removed = ""
  if checkpoints.discard(step - 1):
    removed = (
      f"The checkpoint of step {step - 1}, which led to it, is removed. "
    )
  _stop(f"Step {step}: not finite: {terms}. {removed}", checkpoints)


def check_state(state: Any, step: int, checkpoints: Checkpoints) -> None:
  """Stops a run ahead of saving parameters that are not finite.

  Raises:
    NonFiniteLossError: naming step, parameter and cure.
  """
  finite = _finite({"params": state.params, "ema_params": state.ema_params})
  bad = [
    jax.tree_util.keystr(path)
    for path, ok in jax.tree_util.tree_leaves_with_path(jax.device_get(finite))
    if not ok
  ]
  if bad:
    _stop(f"After step {step}: {bad[0]} is not finite. ", checkpoints)


def check_batch(batch: Mapping[str, Any], step: int, skipping: bool) -> None:
  """Looks for numbers of a host's batch that no data should hold.

  They are the data's fault: no checkpoint is removed.

  Args:
    batch: arrays with a row for each clip.
    step: that will be taken with it.
    skipping: whether a step that is not finite is dropped: then a warning
      names the clip.

  Raises:
    ValueError: if there are such numbers.
  """
  for name, values in batch.items():
    array = np.asarray(values)
    if array.dtype.kind != "f":
      continue
    # NaN is not below anything.
    good = np.abs(array) <= _LARGEST.get(name, np.finfo(np.float32).max)
    if good.all():
      continue
    row = int(np.argmin(good.reshape(len(good), -1).all(axis=1)))
    worst = array[row][~good[row]].flat[0]
    what = (
      f"Step {step}: {name} of clip {row} of the batch holds {worst:g}: the "
      "data are at fault"
    )
    if not skipping:
      raise ValueError(
        f"{what}. Repair them or leave that clip out, and run the same command "
        "again; no checkpoint is removed."
      )
    _log.warning("%s.", what)


@contextlib.contextmanager
def explained(step: int, checkpoints: Checkpoints) -> Iterator[None]:
  """Ends a run whose samples are not finite, though its parameters are.

  Raises:
    NonFiniteLossError: naming step and cure, for a FloatingPointError.
  """
  try:
    yield
  except FloatingPointError as error:
    _stop(f"After step {step}: {error}. ", checkpoints)


def check_samples(x: Mapping[str, np.ndarray]) -> None:
  """Raises FloatingPointError for a preview's values that are not finite."""
  for name, values in x.items():
    if not np.isfinite(values).all():
      raise FloatingPointError(f"the {name} of the preview is not finite")


@jax.jit
def _finite(tree: Any) -> Any:
  return jax.tree.map(lambda x: jnp.isfinite(x).all(), tree)


def _stop(what: str, checkpoints: Checkpoints) -> None:
  latest = checkpoints.latest_step
  rest = (
    "there is no checkpoint to go on from: the run starts anew."
    if latest is None
    else f"it goes on from step {latest}. (Should it fail there again, delete "
    f"{checkpoints.path(latest)}: it goes on from the one before.)"
  )
  raise NonFiniteLossError(f"{what}{_CURE}: {rest}")


def _nonfinite_steps(gathered: Any) -> dict[str, int]:
  first = {k: int(v) for k, v in jax.device_get(gathered["nonfinite"]).items()}
  return {name: step for name, step in first.items() if step != metrics.NEVER}


class Skipped:
  """Counts the updates that `config.train.on_nonfinite="skip"` drops.

  It looks at a step once the next one runs, so that the device never waits.
  """

  def __init__(self, limit: int):
    """Starts counting.

    Args:
      limit: so many in a row end the run.
    """
    self._limit = limit
    self._in_a_row = 0
    self._since_log = 0
    self._pending: tuple[int, Any] | None = None

  def add(self, step: int, finite: jax.Array) -> None:
    """Takes whether a step was finite, without which its update is dropped.

    Raises:
      NonFiniteLossError: after `limit` dropped updates in a row.
    """
    self._count()
    self._pending = step, finite

  def take(self) -> dict[str, float]:
    """What to log: the number of dropped updates since the last call.

    Raises:
      NonFiniteLossError: after `limit` dropped updates in a row.
    """
    self._count()
    count, self._since_log = self._since_log, 0
    return {"skipped_updates": float(count)}

  def _count(self) -> None:
    if self._pending is None:
      return
    step, finite = self._pending
    self._pending = None
    if bool(jax.device_get(finite)):
      self._in_a_row = 0
      return
    self._in_a_row += 1
    self._since_log += 1
    _log.warning("Step %d: not finite, the update is dropped.", step)
    if self._in_a_row >= self._limit:
      raise NonFiniteLossError(
        f"Step {step}: the last {self._in_a_row} updates were not finite and "
        f"were dropped (config.train.max_skipped). {_CURE}: it goes on from "
        "the newest checkpoint."
      )
