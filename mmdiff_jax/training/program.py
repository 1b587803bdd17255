"""The functions of a training run, before anything is compiled."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from mmdiff_jax.devices import sharding
from mmdiff_jax.diffusion import create_timestep_sampler
from mmdiff_jax.task import Task
from mmdiff_jax.training.optimizer import create_optimizer
from mmdiff_jax.training.state import TrainState, state_initializer
from mmdiff_jax.training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class TrainProgram:
  """The functions of a run and the shapes and shardings they work on.

  Attributes:
    task: what is learnt.
    config: of the run.
    mesh: the devices that it is for.
    init: makes the first state from a key.
    init_rng: that key.
    traced_step: `(state, batch) -> (state, metrics)` as it will be compiled:
      `.jaxpr`, `.lower()`.
    abstract_state: shapes and shardings of the state.
    abstract_metrics: of the metrics that are gathered.
  """

  task: Task
  config: ConfigDict
  mesh: jax.sharding.Mesh
  init: Callable[[jax.Array], TrainState]
  init_rng: jax.Array
  traced_step: jax.stages.Traced
  abstract_state: TrainState
  abstract_metrics: Any


def build_program(
  task: Task, config: ConfigDict, mesh: jax.sharding.Mesh
) -> TrainProgram:
  """Traces the functions of a run; nothing is compiled.

  Args:
    task: what is learnt.
    config: of the run.
    mesh: the devices that it is for, which need not be there.
  """
  init_rng, step_rng = jax.random.split(jax.random.key(config.seed))
  optimizer = create_optimizer(config.train)
  timestep_sampler = create_timestep_sampler(
    config.diffusion.timestep_sampler, task.process
  )
  init = state_initializer(task.init, optimizer, timestep_sampler.init)
  step_fn = make_train_step(
    task, config, optimizer, timestep_sampler, mesh, step_rng
  )
  batch = task.abstract_batch(
    config.train.batch_size, sharding.batch_sharded(mesh)
  )
  state = jax.eval_shape(init, init_rng)
  shardings = sharding.fsdp_sharded(mesh, state)
  state = sharding.with_shardings(state, shardings)
  # Traced once, here: that takes as long as the start of a run whose compiled
  # programs are kept.
  traced = jax.jit(
    step_fn,
    in_shardings=(shardings, sharding.batch_sharded(mesh)),
    out_shardings=(shardings, sharding.replicated(mesh)),
    donate_argnums=0,
  ).trace(state, batch)
  step_metrics = dict(traced.out_info[1])
  del step_metrics["finite"]  # It says something of one step alone.
  return TrainProgram(
    task=task,
    config=config,
    mesh=mesh,
    init=init,
    init_rng=init_rng,
    traced_step=traced,
    abstract_state=state,
    abstract_metrics=sharding.with_shardings(
      step_metrics,
      jax.tree.map(lambda _: sharding.replicated(mesh), step_metrics),
    ),
  )
