"""Training stops at a signal: it saves, and its exit status tells."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

# Is this the step to save and stop at? The signal, or None.
StopRequested = Callable[[int], int | None]


class StoppedError(Exception):
  """Training was stopped by a signal, and has saved.

  Attributes:
    signum: the signal.
    state: the training state after the last step.
  """

  def __init__(self, step: int, signum: int, state: Any):
    super().__init__(
      f"Stopped by a signal after step {step}; the checkpoint is saved and the "
      "same command continues."
    )
    self.signum, self.state = signum, state

  @property
  def status(self) -> int:
    """As shells report the signal: 143 or 130."""
    return 128 + self.signum


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequested]:
  """Yields `stop_requested(step)`: is this the step to save and stop at?

  Within it, SIGTERM and SIGINT only raise a flag; a second one acts. Several
  hosts get a signal (SIGTERM; one of them is enough) at different steps, but
  save together: JAX's preemption service lets them agree on a step.
  """
  if jax.process_count() > 1:
    yield _agreed
    return
  received: list[int] = []
  previous: dict[int, Any] = {}

  def handler(signum: int, frame: FrameType | None) -> None:
    del frame
    received.append(signum)
    signal.signal(signum, previous[signum])

  for signum in (signal.SIGTERM, signal.SIGINT):
    previous[signum] = signal.signal(signum, handler)
  try:
    yield lambda step: received[0] if received else None
  finally:
    for number, old in previous.items():
      signal.signal(number, old)


def _agreed(step: int) -> int | None:
  if multihost_utils.reached_preemption_sync_point(step):
    return signal.SIGTERM
  return None
