"""The training loop, the same for every task."""

import contextlib
import functools
import logging
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
from ml_collections import ConfigDict

from mmdiff_jax import checkpoint
from mmdiff_jax.checkpoint.text_encoder import open_text_encoder
from mmdiff_jax.configuration import check_seed
from mmdiff_jax.devices import sharding
from mmdiff_jax.devices.compilation import announce, compile_lowered
from mmdiff_jax.devices.memory import check_memory
from mmdiff_jax.devices.mesh import make_mesh
from mmdiff_jax.disk.files import as_path, check_directory
from mmdiff_jax.disk.locks import Lock, locked
from mmdiff_jax.task import Task, make_task
from mmdiff_jax.training import divergence, metrics, settings
from mmdiff_jax.training.flops import count_flops, model_flops
from mmdiff_jax.training.goodput import Goodput
from mmdiff_jax.training.observers import Observer, make_observers
from mmdiff_jax.training.profile import Profile
from mmdiff_jax.training.program import TrainProgram, build_program
from mmdiff_jax.training.report import Report
from mmdiff_jax.training.signals import StoppedError, stop_on_signals
from mmdiff_jax.training.state import TrainState

_log = logging.getLogger(__name__)


def train(
  config: ConfigDict,
  workdir: pathlib.Path | str,
  loader: Any = None,
  held_out: Iterable[Any] | None = None,
  profile: str | None = None,
  force: bool = False,
) -> TrainState:
  """Trains, or continues the run in `workdir`, to `config.train.num_steps`.

  A resumed run restores state, gathered metrics and loader position from the
  newest complete checkpoint and cuts the logs back to its step; what follows
  is then the same as without the interruption.

  Args:
    config: a configuration with the keys of `configs/default.py`.
    workdir: receives `checkpoints/`, `previews/`, `metrics.jsonl`,
      `tensorboard/`, `config.json` and `parameters.txt`, and `profile/`
      where steps are traced.
    loader: an iterator over batches (see `Task.abstract_batch`) with
      `get_state() -> JSON`, `set_state(state)` and `close()`; None opens
      `config.data.source`.
    held_out: batches for the held-out loss; None takes them from the held-out
      share of `config.data.source`, if there is one.
    profile: steps to trace, START:COUNT; None is none.
    force: start a step that seems too large for the memory, too.

  Returns:
    The state after the last finished step.

  Raises:
    ValueError: if the configuration makes no sense.
    divergence.NonFiniteLossError: naming step, term and cure.
    signals.StoppedError: after a signal, once the checkpoint is saved.
    locks.InUseError: if another process trains in `workdir`.
    memory.DoesNotFitError: if the step needs more memory than there is.
  """
  clock = Goodput()
  workdir = as_path(workdir)
  checkpoint.check_checkpoints_path(workdir)
  if jax.process_index() == 0:
    check_directory(workdir, "--workdir")
  mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
  check_seed(config.seed, "config.seed")
  settings.check_ranges(config.train)
  tracing = Profile(profile, workdir, config.train.num_steps)
  settings.check_batch(config.train, mesh)
  _check_start(config.train.init_from, workdir)
  task = make_task(config, mesh)
  with contextlib.ExitStack() as stack:
    # Data come first: what is wrong with them is known in a second.
    ours = loader is None
    loader = stack.enter_context(
      contextlib.closing(loader or _create_loader(task, config))
    )
    if ours and config.train.eval_every and config.data.holdout_fraction:
      held_out = stack.enter_context(
        contextlib.closing(_create_loader(task, config, train=False))
      )
    config = settings.record_inputs(config, task, getattr(loader, "inputs", {}))
    observers = make_observers(task, config, mesh, workdir, held_out)
    # One host writes for all.
    first_host = jax.process_index() == 0
    lock = stack.enter_context(locked(workdir)) if first_host else None
    checkpoints = stack.enter_context(
      checkpoint.Checkpoints(
        workdir / "checkpoints", keep_every=config.train.keep_every
      )
    )
    latest = checkpoints.latest_step
    if latest is not None:
      settings.compare(checkpoints.config(latest), config)
    if latest is None or latest < config.train.num_steps:
      announce("the train step")
    with clock.doing("compiling"):
      program = build_program(task, config, mesh)
    state, gathered = _start_or_resume(program, checkpoints, loader)
    first_step = int(state.step)
    if first_step >= config.train.num_steps:
      _log.info("Step %d is reached already: nothing to train.", first_step)
      return state
    checkpoint.write_config(config, workdir)
    _write_overview(state.params, workdir)
    tracing.check(first_step)
    stack.callback(tracing.close)
    with clock.doing("compiling"):
      train_step, executed, needed = _compile(program)
    check_memory(
      train_step, "The train step", _cures(config), held=state, force=force
    )
    report = stack.enter_context(
      contextlib.closing(
        Report(config, workdir, first_step, executed, needed, clock)
      )
    )
    clock.begin_steps()
    stack.callback(lambda: _log.info("%s", clock.in_words()))
    return _run(
      program,
      train_step,
      state,
      gathered,
      loader=loader,
      checkpoints=checkpoints,
      report=report,
      observers=observers,
      lock=lock,
      tracing=tracing,
    )


def _check_start(init_from: str, workdir: pathlib.Path) -> None:
  """Raises FileNotFoundError where a new run has nothing to start from."""
  if init_from and not checkpoint.list_checkpoints(workdir):
    try:
      checkpoint.find_checkpoint(init_from)
    except FileNotFoundError as error:
      raise FileNotFoundError(
        f"--config.train.init_from={init_from}: {error}"
      ) from None


def _create_loader(task: Task, config: ConfigDict, train: bool = True) -> Any:
  """This host's batches of what the task generates and is given."""
  # Late: training on arrays of one's own needs no grain.
  from mmdiff_jax.data import pipeline

  return pipeline.create_loader(
    config.data,
    view=task.network.view,
    names=[*task.x, *task.inputs],
    sr=config.sr,
    batch_size=config.train.batch_size,
    seed=config.seed,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    train=train,
    absent=task.absent(),
    open_encoder=functools.partial(
      open_text_encoder, config.data.get("text_encoder", "")
    ),
  )


def _start_or_resume(
  program: TrainProgram, checkpoints: checkpoint.Checkpoints, loader: Any
) -> tuple[TrainState, Any]:
  """Returns state and metrics of the newest checkpoint, or of step 0."""
  latest = checkpoints.latest_step
  if latest is not None:
    state, gathered, loader_state = checkpoints.restore(
      latest, program.abstract_state, program.abstract_metrics
    )
    if int(state.step) != latest:
      raise ValueError(
        f"{checkpoints.path(latest)} holds step {int(state.step)}: it was "
        "copied there, or renamed. Delete it, or give it the name of its step."
      )
    loader.set_state(loader_state)
    _log.info("Continuing from step %d.", latest)
    return state, gathered
  shardings = jax.tree.map(lambda x: x.sharding, program.abstract_state)
  state = jax.jit(program.init, out_shardings=shardings)(program.init_rng)
  init_from = program.config.train.init_from
  if init_from:
    params = checkpoint.load_params(
      init_from,
      program.abstract_state.params,
      initial=state.params,
      grown=program.task.network.grown,
    )
    state = state.replace(
      params=params, ema_params=jax.tree.map(lambda x: x.copy(), params)
    )
    _log.info("Parameters start from %s.", init_from)
  return state, _no_metrics(program)


def _no_metrics(program: TrainProgram) -> Any:
  # Computed, not put: arrays that are put together on several hosts with one
  # device each cannot be saved.
  return jax.jit(
    lambda: metrics.empty_like(program.abstract_metrics),
    out_shardings=sharding.replicated(program.mesh),
  )()


def _write_overview(params: Any, workdir: pathlib.Path) -> None:
  """Writes a table of all parameters, where clu is installed."""
  count = sum(x.size for x in jax.tree.leaves(params))
  _log.info("The network has %s parameters.", f"{count:,}")
  if jax.process_index() != 0:
    return
  try:
    from clu import parameter_overview
  except ImportError:
    return
  table = parameter_overview.get_parameter_overview(params, include_stats=False)
  (workdir / "parameters.txt").write_text(table + "\n")


def _compile(program: TrainProgram) -> tuple[jax.stages.Compiled, float, float]:
  """Compiles the train step.

  Returns:
    The program, its floating-point operations and those of the model.
  """
  task = program.task
  traced = program.traced_step
  executed = count_flops(traced.jaxpr.jaxpr)
  needed = model_flops(task, program.config, program.abstract_state.params)
  lowered = traced.lower()
  compiled = compile_lowered(lowered, "Train step", task.compiler_options)
  _log.info(
    "The train step has %.4g TFLOP, of which the model needs %.4g.",
    executed / 1e12,
    needed / 1e12,
  )
  return compiled, executed, needed


def _cures(config: ConfigDict) -> list[str]:
  """What makes the train step smaller."""
  train_config = config.train
  cures = [
    f"more config.train.microbatches (now {train_config.microbatches})",
    f"a smaller config.train.batch_size (now {train_config.batch_size})",
  ]
  if config.model.get("remat") in ("none", "attention", "products"):
    cures.insert(0, "config.model.remat=blocks")
  return cures


def _run(
  program: TrainProgram,
  train_step: Callable[..., Any],
  state: TrainState,
  gathered: Any,
  *,
  loader: Any,
  checkpoints: checkpoint.Checkpoints,
  report: Report,
  observers: list[Observer],
  lock: Lock | None,
  tracing: Profile,
) -> TrainState:
  """Steps until the end or a signal; logs, observes and saves on the way."""
  config, train_config = program.config, program.config.train
  no_metrics = _no_metrics(program)
  skipping = train_config.on_nonfinite == "skip"
  skipped = divergence.Skipped(train_config.max_skipped)
  first = int(state.step) + 1
  # What goes to the devices and back does so by intent: a transfer that nobody
  # wrote down would stop the devices at every step.
  with stop_on_signals() as stop_requested, jax.transfer_guard("disallow"):
    for step in range(first, train_config.num_steps + 1):
      tracing.before(step)
      with report.waiting():
        local = next(loader)
      divergence.check_batch(local, step, skipping)
      batch = sharding.put_batch(program.mesh, local)
      state, step_metrics = train_step(state, batch)
      gathered = metrics.merge(gathered, step_metrics)
      if skipping:
        skipped.add(step, step_metrics["finite"])
      tracing.after(step, state)
      report.tick()
      stopping = stop_requested(step)
      last = step == train_config.num_steps
      if last or _due(step, train_config.log_every):
        _check(gathered, checkpoints, lock)
        report.write(step, gathered, skipped.take() if skipping else {})
        gathered = no_metrics
      for observer in observers:
        if _due(step, observer.every):
          jax.block_until_ready(state)  # Or its step would count as this.
          # Nothing is shown of a model that has diverged.
          _check(gathered, checkpoints, lock)
          divergence.check_state(state, step, checkpoints)
          with (
            report.paused(observer.activity),
            divergence.explained(step, checkpoints),
            # On several devices, previews spread keys of their own over them.
            jax.transfer_guard("allow"),
          ):
            shown = observer.observe(state, step)
          report.add(step, shown)
      if last or stopping or _due(step, train_config.checkpoint_every):
        _check(gathered, checkpoints, lock)
        divergence.check_state(state, step, checkpoints)
        report.flush()
        # Orbax copies to the host in a way that counts as unintended.
        with jax.transfer_guard("allow"), report.saving():
          checkpoints.save(
            step,
            state,
            gathered,
            config=config,
            loader_state=loader.get_state(),
          )
      if stopping and not last:
        raise StoppedError(step, stopping, state)
  return state


def _due(step: int, every: int) -> bool:
  return every > 0 and step % every == 0


def _check(
  gathered: Any, checkpoints: checkpoint.Checkpoints, lock: Lock | None
) -> None:
  """Ends a run that diverged, or whose directory is gone."""
  divergence.check_metrics(gathered, checkpoints)
  if lock is not None:
    lock.check()
