"""The training loop, for the joint model and for super-resolution alike."""

import contextlib
import dataclasses
import logging
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from mmdiff_jax import checkpoint, models, sharding, task
from mmdiff_jax.diffusion import create_timestep_sampler, make_schedule
from mmdiff_jax.sampling.preview import Preview, make_preview
from mmdiff_jax.training import metrics, settings
from mmdiff_jax.training.optimizer import create_optimizer
from mmdiff_jax.training.report import Report
from mmdiff_jax.training.state import TrainState, state_initializer
from mmdiff_jax.training.step import make_loss_fn, make_train_step

_log = logging.getLogger(__name__)


class NonFiniteLossError(RuntimeError):
  """A loss or a gradient stopped being finite."""


def train(
  config: ConfigDict, workdir: pathlib.Path | str, loader: Any = None
) -> TrainState:
  """Trains, or continues the run in `workdir`, to `config.train.num_steps`.

  A resumed run restores state, gathered metrics and loader position from the
  newest complete checkpoint and cuts the logs back to its step; what follows
  is then the same as without the interruption.

  Args:
    config: a configuration with the keys of `configs/default.py`.
    workdir: receives `checkpoints/`, `previews/`, `metrics.jsonl`,
      `tensorboard/`, `config.json` and `parameters.txt`.
    loader: an iterator over batches (see `task.abstract_batch`) with
      `get_state() -> JSON`, `set_state(state)` and `close()`; None opens
      `config.data.source`.

  Returns:
    The state after the last finished step.

  Raises:
    ValueError: if the configuration makes no sense.
    NonFiniteLossError: naming step, term and cure.
  """
  workdir = pathlib.Path(workdir)
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  settings.check_ranges(config.train)
  _check_batch(config.train, mesh)
  preview = None
  if config.train.preview_every > 0:
    preview = make_preview(config, mesh, workdir / "previews")
  with contextlib.ExitStack() as stack:
    program = _build(config, mesh)
    loader = stack.enter_context(
      contextlib.closing(loader or _create_loader(config))
    )
    checkpoints = stack.enter_context(
      checkpoint.Checkpoints(
        workdir / "checkpoints", keep_every=config.train.keep_every
      )
    )
    state, window = _start_or_resume(program, checkpoints, loader)
    first_step = int(state.step)
    if first_step >= config.train.num_steps:
      _log.info("Step %d is reached already: nothing to train.", first_step)
      return state
    checkpoint.write_config(config, workdir)
    _write_overview(state.params, workdir)
    train_step, flops = _compile(program, state)
    report = stack.enter_context(
      contextlib.closing(Report(config, workdir, first_step, flops))
    )
    return _run(
      program,
      train_step,
      state,
      window,
      loader=loader,
      checkpoints=checkpoints,
      report=report,
      preview=preview,
    )


@dataclasses.dataclass(frozen=True)
class _Program:
  """The functions of a run and the shapes and shardings they work on."""

  config: ConfigDict
  mesh: jax.sharding.Mesh
  init: Callable[[jax.Array], TrainState]
  init_rng: jax.Array
  step_fn: Callable[[TrainState, Any], tuple[TrainState, Any]]
  abstract_batch: Any
  abstract_state: TrainState
  abstract_metrics: Any


def _build(config: ConfigDict, mesh: jax.sharding.Mesh) -> _Program:
  """Builds the traceable functions of a run; nothing is compiled."""
  init_rng, step_rng = jax.random.split(jax.random.key(config.seed))
  model = models.create_model(config.model)
  schedule = make_schedule(
    config.diffusion.schedule, config.diffusion.num_timesteps
  )
  optimizer = create_optimizer(config.train)
  timestep_sampler = create_timestep_sampler(
    config.diffusion.timestep_sampler, schedule
  )
  init = state_initializer(
    task.make_init_params(config), optimizer, timestep_sampler.init
  )
  step_fn = make_train_step(
    make_loss_fn(model, schedule, config),
    optimizer,
    timestep_sampler,
    schedule,
    config,
    mesh,
    step_rng,
  )
  batch = task.abstract_batch(config, sharding.batch_sharded(mesh))
  state = jax.eval_shape(init, init_rng)
  _, step_metrics = jax.eval_shape(step_fn, state, batch)
  return _Program(
    config=config,
    mesh=mesh,
    init=init,
    init_rng=init_rng,
    step_fn=step_fn,
    abstract_batch=batch,
    abstract_state=sharding.with_shardings(
      state, sharding.fsdp_sharded(mesh, state)
    ),
    abstract_metrics=sharding.with_shardings(
      step_metrics,
      jax.tree.map(lambda _: sharding.replicated(mesh), step_metrics),
    ),
  )


def _check_batch(train_config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
  if (
    train_config.microbatches < 1
    or train_config.batch_size % train_config.microbatches
  ):
    raise ValueError(
      f"config.train.microbatches={train_config.microbatches} must divide "
      f"config.train.batch_size={train_config.batch_size}."
    )
  sharding.check_batch_size(
    mesh,
    train_config.batch_size // train_config.microbatches,
    "config.train.batch_size / config.train.microbatches",
  )


def _create_loader(config: ConfigDict) -> Any:
  """The batches of this host: clips, or image pairs for super-resolution."""
  # Late: training on arrays of one's own needs no grain.
  from mmdiff_jax.data import pipeline

  options = dict(
    batch_size=config.train.batch_size,
    seed=config.seed,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  if config.model.name == "sr_unet":
    return pipeline.create_loader(
      config.data, view="images", sr=config.sr, **options
    )
  return pipeline.create_loader(config.data, **options)


def _start_or_resume(
  program: _Program, checkpoints: checkpoint.Checkpoints, loader: Any
) -> tuple[TrainState, Any]:
  """Returns state and metrics of the newest checkpoint, or of step 0."""
  latest = checkpoints.latest_step
  if latest is not None:
    settings.compare(checkpoints.config(latest), program.config)
    state, window, loader_state = checkpoints.restore(
      latest, program.abstract_state, program.abstract_metrics
    )
    loader.set_state(loader_state)
    _log.info("Continuing from step %d.", latest)
    return state, window
  shardings = jax.tree.map(lambda x: x.sharding, program.abstract_state)
  state = jax.jit(program.init, out_shardings=shardings)(program.init_rng)
  init_from = program.config.train.init_from
  if init_from:
    params = checkpoint.load_params(init_from, program.abstract_state.params)
    state = state.replace(
      params=params, ema_params=jax.tree.map(lambda x: x.copy(), params)
    )
    _log.info("Parameters start from %s.", init_from)
  return state, _empty_window(program)


def _empty_window(program: _Program) -> Any:
  return jax.device_put(
    metrics.empty_like(program.abstract_metrics),
    sharding.replicated(program.mesh),
  )


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


def _compile(
  program: _Program, state: TrainState
) -> tuple[Callable[..., Any], float]:
  """Compiles the train step; returns it and its FLOPs by XLA's count."""
  started = time.perf_counter()
  shardings = jax.tree.map(lambda x: x.sharding, program.abstract_state)
  lowered = jax.jit(
    program.step_fn,
    in_shardings=(shardings, sharding.batch_sharded(program.mesh)),
    out_shardings=(shardings, sharding.replicated(program.mesh)),
    donate_argnums=0,
  ).lower(state, program.abstract_batch)
  # XLA counts the body of the micro-batch loop once.
  flops = (lowered.cost_analysis() or {}).get("flops", 0.0)
  flops *= program.config.train.microbatches
  options = {}
  if jax.default_backend() == "cpu" and program.config.model.remat != "none":
    # Otherwise XLA:CPU recomputes early, to keep cores busy, and saves no
    # memory.
    options["xla_cpu_enable_concurrency_optimized_scheduler"] = False
  compiled = lowered.compile(compiler_options=options)
  _log.info(
    "Train step compiled in %.0f s: %.4g TFLOP.",
    time.perf_counter() - started,
    flops / 1e12,
  )
  return compiled, flops


def _run(
  program: _Program,
  train_step: Callable[..., Any],
  state: TrainState,
  window: Any,
  *,
  loader: Any,
  checkpoints: checkpoint.Checkpoints,
  report: Report,
  preview: Preview | None,
) -> TrainState:
  """Steps until the end or a signal; logs, previews and saves on the way."""
  config, train_config = program.config, program.config.train
  empty_window = _empty_window(program)
  with _stop_on_signals() as stop_requested:
    for step in range(int(state.step) + 1, train_config.num_steps + 1):
      batch = sharding.put_batch(program.mesh, next(loader))
      state, step_metrics = train_step(state, batch)
      window = metrics.merge(window, step_metrics)
      report.tick()
      stopping = stop_requested(step)
      last = step == train_config.num_steps
      if last or _due(step, train_config.log_every):
        _check_finite(window)
        report.write(step, window)
        window = empty_window
      if _due(step, train_config.preview_every):
        with report.paused():
          scalars = preview(state.ema_params, step)
        report.add(step, scalars)
      if last or stopping or _due(step, train_config.checkpoint_every):
        _check_finite(window)
        checkpoints.save(
          step,
          state,
          window,
          config=config,
          loader_state=loader.get_state(),
        )
      if stopping and not last:
        _log.warning(
          "Stopped by a signal after step %d; the checkpoint is saved and "
          "the same command continues.",
          step,
        )
        break
  return state


def _due(step: int, every: int) -> bool:
  return every > 0 and step % every == 0


def _check_finite(window: Any) -> None:
  """Raises NonFiniteLossError if a step since the last log was not finite."""
  first = {k: int(v) for k, v in jax.device_get(window["nonfinite"]).items()}
  bad = {name: step for name, step in first.items() if step != metrics.NEVER}
  if not bad:
    return
  step = min(bad.values())
  terms = ", ".join(sorted(name for name, s in bad.items() if s == step))
  raise NonFiniteLossError(
    f"Step {step}: not finite: {terms}. The checkpoints before it are intact. "
    "Lower config.train.learning_rate, set config.train.gradient_clip=1.0 "
    "and config.train.warmup_steps, or use config.model.dtype=float32; then "
    "run the same command again."
  )


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[Callable[[int], bool]]:
  """Yields `stop_requested(step)`: is this the step to save and stop at?

  Within it, SIGTERM and SIGINT only raise a flag; a second one acts. Several
  hosts get a signal (SIGTERM; one of them is enough) at different steps, but
  save together: JAX's preemption service lets them agree on a step.
  """
  if jax.process_count() > 1:
    yield multihost_utils.reached_preemption_sync_point
    return
  received = []
  previous = {}

  def handler(signum: int, frame: Any) -> None:
    del frame
    received.append(signum)
    signal.signal(signum, previous[signum])

  for signum in (signal.SIGTERM, signal.SIGINT):
    previous[signum] = signal.signal(signum, handler)
  try:
    yield lambda step: bool(received)
  finally:
    for signum, old in previous.items():
      signal.signal(signum, old)
