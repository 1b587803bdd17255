"""A trace of some steps of a run, by JAX's profiler."""

import logging
import pathlib
import re
from typing import Any

import jax

_log = logging.getLogger(__name__)


class Profile:
  """Traces the steps that were asked for into `profile/` of a run."""

  def __init__(self, steps: str | None, workdir: pathlib.Path, num_steps: int):
    """Reads which steps.

    Args:
      steps: START:COUNT, both from 1; None traces nothing.
      workdir: of the run.
      num_steps: the last step of the run.

    Raises:
      ValueError: if that says no steps of the run.
    """
    self._folder, self._running = workdir / "profile", False
    self._first = self._last = 0
    if steps is None:
      return
    match = re.fullmatch(r"(\d+):(\d+)", steps)
    start, count = map(int, match.groups()) if match else (0, 0)
    if start < 1 or count < 1 or start + count - 1 > num_steps:
      raise ValueError(
        f"--profile={steps}: give START:COUNT, the first step to trace and how "
        f"many, within the {num_steps} steps of the run, such as 10:3."
      )
    self._first, self._last = start, start + count - 1

  def check(self, done: int) -> None:
    """Says so where the steps to trace are behind the start of this process."""
    if 0 < self._first <= done:
      _log.warning(
        "--profile: step %d is past (%d are done); nothing is traced.",
        self._first,
        done,
      )

  def before(self, step: int) -> None:
    """Starts the trace ahead of its first step."""
    if step == self._first:
      jax.profiler.start_trace(self._folder)
      self._running = True

  def after(self, step: int, state: Any) -> None:
    """Ends the trace once the devices have done its last step."""
    if self._running and step == self._last:
      jax.block_until_ready(state)
      self.close()
      _log.info("Steps %d to %d: %s", self._first, step, self._folder)

  def close(self) -> None:
    """Ends a trace that a signal or an error cut short."""
    if self._running:
      self._running = False
      jax.profiler.stop_trace()
