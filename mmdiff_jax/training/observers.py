"""What looks at the model every so often while it is trained."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax.task import Task
from mmdiff_jax.training.held_out import make_held_out_loss
from mmdiff_jax.training.preview import make_preview
from mmdiff_jax.training.shown import Shown
from mmdiff_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Observer:
  """A look at the model.

  Attributes:
    every: steps from one look to the next.
    activity: that its time is booked to (`goodput.ACTIVITIES`).
    observe: `(state, step) ->` what it shows, which is logged.
  """

  every: int
  activity: str
  observe: Callable[[TrainState, int], Shown]


def make_observers(
  task: Task,
  config: ConfigDict,
  mesh: Mesh,
  workdir: pathlib.Path,
  held_out: Iterable[Any] | None,
) -> list[Observer]:
  """The held-out loss and the previews of a run, where it has them.

  Args:
    task: what is learnt.
    config: of the run.
    mesh: devices that share a batch.
    workdir: receives the previews.
    held_out: batches that training does not see, if there are any.
  """
  train, observers = config.train, []
  if train.eval_every > 0 and held_out is not None:
    loss = make_held_out_loss(task, config, mesh, held_out)
    observers.append(
      Observer(
        train.eval_every,
        "evaluation",
        lambda state, _: Shown(loss(state.params)),
      )
    )
  if train.preview_every > 0:
    preview = make_preview(task, config, mesh, workdir / "previews")
    observers.append(
      Observer(
        train.preview_every,
        "previews",
        lambda state, step: preview(state.ema_params, step),
      )
    )
  return observers
