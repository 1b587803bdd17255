"""Metrics that accumulate on the device, and the writers that record them."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.diffusion import level_mix
from mmdiff_jax.disk.files import Mirror, as_path, naming, replacing
from mmdiff_jax.training.shown import Shown
from mmdiff_jax.training.tensorboard import EventFile

LOG = "metrics.jsonl"
# By which TensorBoard compares runs.
_COMPARED = ("loss", "heldout_loss")
# The value of `FirstStep` when nothing has happened.
NEVER = np.iinfo(np.int32).max


@flax.struct.dataclass
class Average:
  """A mean that can be continued: sum and number of its values."""

  total: jax.Array
  count: jax.Array

  def merge(self, other: "Average") -> "Average":
    """The mean of both sets of values."""
    return Average(self.total + other.total, self.count + other.count)

  def compute(self) -> jax.Array:
    """The mean; NaN where there was no value."""
    return self.total / self.count


def average(
  values: jax.Array,
  mask: jax.Array | None = None,
  share: jax.Array | float = 1.0,
) -> Average:
  """Mean of `values` (any shape).

  Args:
    values: the values.
    mask: of those that count; None counts all.
    share: of what each value is the mean over, where the rest of it is 0 and
      does not count.
  """
  values = jnp.asarray(values, jnp.float32)
  mask = jnp.ones(values.shape, bool) if mask is None else mask
  return Average(
    jnp.where(mask, values, 0.0).sum(),
    (mask * jnp.float32(share)).sum().astype(jnp.float32),
  )


def quarter_averages(
  losses: jax.Array,
  t: jax.Array,
  num_timesteps: int,
  name: str = "loss",
  counted: jax.Array | bool = True,
  share: jax.Array | float = 1.0,
) -> dict[str, Average]:
  """Mean loss of each quarter of the diffusion steps.

  Args:
    losses: `[B]`.
    t: `[B]` step indices.
    num_timesteps: T.
    name: of the losses.
    counted: whether these losses count at all, a scalar.
    share: see `average`.

  Returns:
    `<name>_q1` (least noise) to `<name>_q4` (most noise).
  """
  quarter = t * 4 // num_timesteps
  return {
    f"{name}_q{q + 1}": average(losses, (quarter == q) & counted, share)
    for q in range(4)
  }


def loss_averages(
  values: Mapping[str, jax.Array],
  levels: jax.Array | level_mix.Levels,
  num_timesteps: int,
  counted: jax.Array,
) -> dict[str, Average]:
  """Averages of a step's losses, and of its gradients' norms.

  Args:
    values: "loss", `<stream>_<term>` `[B]`, and scalars.
    levels: step indices `[B]`, or levels by stream.
    num_timesteps: T.
    counted: whether the step counts at all, a scalar.

  Returns:
    An average of each value, and by quarter of the steps: of the loss where
    all streams share their level, else of each stream's terms.
  """
  averages = {
    name: average(value, jnp.broadcast_to(counted, value.shape))
    for name, value in values.items()
  }
  if not isinstance(levels, level_mix.Levels):
    return averages | quarter_averages(
      values["loss"], levels, num_timesteps, counted=counted
    )
  for name, value in values.items():
    stream = name.rpartition("_")[0]
    if stream in levels.t:
      share = levels.share(stream)
      mask = jnp.broadcast_to(counted, value.shape)
      averages[name] = average(value, mask, share)
      averages |= quarter_averages(
        value, levels.t[stream], num_timesteps, name, counted, share
      )
  return averages


def first_nonfinite(
  step: jax.Array, values: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """For each named value, `step` if it is not finite, else `NEVER`."""
  return {
    name: jnp.where(jnp.isfinite(value).all(), NEVER, step)
    for name, value in values.items()
  }


def merge_averages(
  a: Mapping[str, Average], b: Mapping[str, Average]
) -> dict[str, Average]:
  """Merges averages by name."""
  return {name: a[name].merge(b[name]) for name in b}


def merge(a: Any, b: Any) -> Any:
  """Merges the metrics of two stretches of steps."""
  return {
    "averages": merge_averages(a["averages"], b["averages"]),
    "nonfinite": jax.tree.map(jnp.minimum, a["nonfinite"], b["nonfinite"]),
  }


def empty_like(abstract: Any) -> Any:
  """Metrics of no step, in the structure of one step's metrics."""
  return {
    "averages": {
      k: Average(jnp.zeros(()), jnp.zeros(())) for k in abstract["averages"]
    },
    "nonfinite": jax.tree.map(
      lambda _: jnp.asarray(NEVER, jnp.int32), abstract["nonfinite"]
    ),
  }


def compute(averages: Mapping[str, Average]) -> dict[str, float]:
  """Averages as floats; those of no value are left out."""
  host = jax.device_get(averages)
  return {
    name: float(value.compute())
    for name, value in host.items()
    if value.count > 0
  }


class MetricWriter:
  """Writes scalars to a JSON-lines file and to TensorBoard event files.

  The event files also have settings, pictures and sounds.

  After a restart the records of steps that are about to be repeated are
  dropped, so that the log looks like that of an uninterrupted run.
  """

  def __init__(self, directory: os.PathLike, *, first_step: int):
    """Opens the logs of `directory`, keeping records up to `first_step`."""
    kept = read_jsonl(as_path(directory) / LOG, last_step=first_step)
    self._folder = Mirror(directory)
    local = self._folder.local
    local.mkdir(parents=True, exist_ok=True)
    self._path = local / LOG
    with replacing(self._path) as beside:
      pathlib.Path(beside).write_text(
        "".join(json.dumps(record) + "\n" for record in kept)
      )
    self._file = self._path.open("a", buffering=1)
    self._events = EventFile(local / "tensorboard", first_step=first_step)

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Records scalars of one step."""
    from tensorboardX import summary

    record = {"step": step} | {k: float(v) for k, v in scalars.items()}
    with naming(self._path):
      self._file.write(json.dumps(record) + "\n")
    for name, value in scalars.items():
      self._events.add(summary.scalar(name, value), step)

  def write_settings(self, settings: Mapping[str, Any]) -> None:
    """Records a run's settings, by name, for TensorBoard's page HPARAMS."""
    from tensorboardX import summary

    simple = {
      name: value if isinstance(value, bool | int | float | str) else str(value)
      for name, value in settings.items()
      if value is not None
    }
    start = summary.hparams(simple, dict.fromkeys(_COMPARED, 0.0))[:2]
    for part in start:
      self._events.add(part)

  def show(self, step: int, shown: Shown) -> None:
    """Records the pictures and sounds of one step."""
    from tensorboardX import summary

    for name, picture in shown.pictures.items():
      self._events.add(summary.image(name, picture, dataformats="HWC"), step)
    for name, sound in shown.sounds.items():
      self._events.add(summary.audio(name, sound, shown.sample_rate), step)

  def flush(self) -> None:
    """Brings both logs to where they belong."""
    self._file.flush()
    self._events.flush()
    self._folder.push()

  def close(self) -> None:
    """Flushes and closes both logs."""
    self._file.close()
    self._events.close()
    self._folder.close()


def read_jsonl(path: os.PathLike, last_step: int = NEVER) -> list[dict]:
  """Reads the records of a JSON-lines log up to `last_step`.

  A last line that an interruption cut off is left out.
  """
  path = as_path(path)
  if not path.exists():
    return []
  records = []
  for line in path.read_text().splitlines():
    try:
      record = json.loads(line)
    except json.JSONDecodeError:
      break
    if record["step"] <= last_step:
      records.append(record)
  return records
