"""Progress bar, logs and rates of a training run."""

import contextlib
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mmdiff_jax.configuration import flatten
from mmdiff_jax.devices.chips import chip_of
from mmdiff_jax.disk.progress import progress_bar
from mmdiff_jax.training import metrics
from mmdiff_jax.training.goodput import Goodput
from mmdiff_jax.training.optimizer import learning_rate_schedule
from mmdiff_jax.training.shown import Shown


class Report:
  """Progress bar, logs and rates of a run."""

  def __init__(
    self,
    config: ConfigDict,
    workdir: pathlib.Path,
    first_step: int,
    executed_flops: float,
    model_flops: float,
    clock: Goodput,
  ):
    """Opens the logs of a run.

    Args:
      config: of the run.
      workdir: receives the logs.
      first_step: number of steps that are finished already.
      executed_flops: floating-point operations of one step's program.
      model_flops: those that the model needs for it.
      clock: of the run.
    """
    self._batch_size = config.train.batch_size
    self._executed, self._needed = executed_flops, model_flops
    self._learning_rate = jax.jit(learning_rate_schedule(config.train))
    self._clock = clock
    # Before the log is cut back to the first step.
    clock.go_on(metrics.read_jsonl(workdir / metrics.LOG), first_step)
    main = jax.process_index() == 0
    self._writer = (
      metrics.MetricWriter(workdir, first_step=first_step) if main else None
    )
    if self._writer is not None:
      self._writer.write_settings(flatten(config.to_dict()))
    self._bar = progress_bar(
      config.train.num_steps, "step", initial=first_step, disable=not main
    )
    chip = chip_of(jax.devices()[0].device_kind)
    self._peak = chip and chip.flops * jax.device_count()
    self._waited = 0.0
    self._step = first_step
    self._started = time.perf_counter()

  def tick(self) -> None:
    """Counts one step."""
    self._bar.update()

  @contextlib.contextmanager
  def paused(self, activity: str) -> Iterator[None]:
    """Keeps the time spent within it out of the rates.

    Args:
      activity: one of `goodput.ACTIVITIES`.
    """
    before = time.perf_counter()
    with self._clock.doing(activity):
      yield
    self._started += time.perf_counter() - before

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Counts the time spent within it as waiting for input."""
    before = time.perf_counter()
    with self._clock.doing("input"):
      yield
    self._waited += time.perf_counter() - before

  def saving(self) -> contextlib.AbstractContextManager[None]:
    """Counts the time spent within it as that of a checkpoint."""
    return self._clock.doing("saving")

  def write(
    self, step: int, gathered: Any, counts: Mapping[str, float]
  ) -> None:
    """Logs the averages, some counts and the rates since the last call."""
    scalars = metrics.compute(gathered["averages"]) | dict(counts)
    now = time.perf_counter()
    seconds = max(now - self._started, 1e-9)
    rate, waited = (step - self._step) / seconds, self._waited / seconds
    self._step, self._started, self._waited = step, now, 0.0
    rate_of_step = self._learning_rate(jax.device_put(np.int32(step - 1)))
    scalars |= {
      "learning_rate": float(jax.device_get(rate_of_step)),
      "steps_per_second": rate,
      "clips_per_second": rate * self._batch_size,
      "model_tflops_per_second": rate * self._needed / 1e12,
      "executed_tflops_per_second": rate * self._executed / 1e12,
      "input_wait_share": waited,
    } | self._clock.scalars()
    if self._peak:
      scalars["mfu"] = rate * self._needed / self._peak
      scalars["hfu"] = rate * self._executed / self._peak
    if self._writer is not None:
      self._writer.write(step, scalars)
    self._bar.set_postfix(_short(scalars), refresh=False)

  def add(self, step: int, shown: Shown) -> None:
    """Logs what a look at the model shows, scalars as a record of their own."""
    if self._writer is None:
      return
    if shown.scalars:
      self._writer.write(step, shown.scalars)
    self._writer.show(step, shown)

  def flush(self) -> None:
    """Brings the logs to where they belong, ahead of a checkpoint."""
    if self._writer is not None:
      self._writer.flush()

  def close(self) -> None:
    """Closes bar and logs."""
    self._bar.close()
    if self._writer is not None:
      self._writer.close()


def _short(scalars: Mapping[str, float]) -> dict[str, str]:
  names = ("loss", "video_mse", "audio_mse", "image_mse")
  short = {n: f"{scalars[n]:.4f}" for n in names if n in scalars}
  short["TFLOP/s"] = f"{scalars['model_tflops_per_second']:.3g}"
  if "mfu" in scalars:
    short["MFU"] = f"{scalars['mfu']:.0%}"
  return short
