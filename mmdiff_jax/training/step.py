"""The loss of a batch and the optimiser step, as pure functions to jit."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax.av import frame_of
from mmdiff_jax.devices import sharding
from mmdiff_jax.diffusion import level_mix, training_losses
from mmdiff_jax.task import Task
from mmdiff_jax.training import metrics
from mmdiff_jax.training.state import TrainState

LossFn = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


def make_loss_fn(task: Task, loss: str, train: bool = True) -> LossFn:
  """Returns `loss_fn(params, x_start, inputs, noise, t, weights, rng)`.

  `t` is `[B]`, or `level_mix.Levels`: a loss is then 0 where all is clean. It
  returns the scalar loss and the `[B]` losses of the samples: `loss` in
  all, and `<modality>_mse` (and `<modality>_vb`, in bits) apart.

  Args:
    task: what is learnt.
    loss: `config.diffusion.loss`.
    train: turns dropout on.
  """

  def loss_fn(params, x_start, inputs, noise, t, weights, rng):
    denoise_fn, clean = task.denoise_fn(params, inputs, train=train), None
    if isinstance(t, level_mix.Levels):
      shapes = {name: leaf.shape for name, leaf in x_start.items()}
      denoise_fn = _told(denoise_fn, t.told(task.levels))
      t, clean = t.t, _masks(t.clean, shapes)
    terms = training_losses(
      denoise_fn,
      task.process,
      x_start,
      t,
      noise,
      loss=loss,
      learn_sigma=task.network.learn_sigma,
      prediction=task.prediction,
      rng=rng,
      weights=task.loss_weights,
      clean=clean,
    )
    by_term = {
      f"{name}_{term}": value
      for term, values in terms.items()
      if term != "loss"
      for name, value in values.items()
    }
    return jnp.mean(weights * terms["loss"]), {"loss": terms["loss"]} | by_term

  return loss_fn


def _masks(
  clean: Mapping[str, jax.Array], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, jax.Array]:
  """Clean frames `[B, F]` laid out along streams of these shapes."""
  masks = {}
  for name, shape in shapes.items():
    mask = clean[name]
    if shape[1] != mask.shape[1]:
      mask = mask[:, frame_of(shape[1], mask.shape[1])]
    masks[name] = mask.reshape(*mask.shape, *(1,) * (len(shape) - 2))
  return masks


def _told(denoise_fn: Any, levels: Any) -> Any:
  """A denoiser whose network is told other levels than those of the noise."""
  return lambda x_t, t, rng: denoise_fn(x_t, levels, rng)


def group_norms(grads: Any) -> dict[str, jax.Array]:
  """Gradient norms of the video, the audio and the shared parameters.

  A parameter belongs to the modality that its path names.
  """
  squares: dict[str, Any] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    name = jax.tree_util.keystr(path)
    group = next((m for m in ("video", "audio") if m in name), "shared")
    square = jnp.sum(jnp.square(leaf.astype(jnp.float32)))
    squares[group] = squares.get(group, 0.0) + square
  return {f"grad_norm_{k}": jnp.sqrt(v) for k, v in squares.items()}


def _split(x: jax.Array, parts: int) -> jax.Array:
  # Micro-batch m takes samples m, m+M, ...: each stays on its device.
  x = x.reshape(x.shape[0] // parts, parts, *x.shape[1:])
  return jnp.moveaxis(x, 1, 0)


def make_gradients(
  loss_fn: LossFn, microbatches: int, mesh: Mesh
) -> Callable[..., Any]:
  """Returns `gradients(params, inputs, rng) -> ((loss, terms), grads)`.

  Parameters are gathered when they are used, and gradients scattered as soon
  as they are made: no device holds more than its share for longer than that.

  Args:
    loss_fn: of `make_loss_fn`.
    microbatches: parts of a batch that are computed one after another; the
      gradients are their mean.
    mesh: devices that share batch, parameters and gradients.
  """

  def grad_fn(params, inputs, rng):
    params = sharding.gathered(mesh, params)
    out, grads = jax.value_and_grad(loss_fn, has_aux=True)(params, *inputs, rng)
    return out, sharding.scattered(mesh, grads)

  if microbatches == 1:
    return grad_fn

  def gradients(params, inputs, rng):
    def body(total, scanned):
      part, index = scanned
      out, grads = grad_fn(params, part, jax.random.fold_in(rng, index))
      return jax.tree.map(jnp.add, total, grads), out

    parts = jax.tree.map(lambda x: _split(x, microbatches), inputs)
    zeros = sharding.scattered(mesh, jax.tree.map(jnp.zeros_like, params))
    grads, (losses, terms) = jax.lax.scan(
      body, zeros, (parts, jnp.arange(microbatches))
    )
    grads = jax.tree.map(lambda g: g / microbatches, grads)
    terms = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1), terms)
    return (losses.mean(), terms), grads

  return gradients


def draw_noise(
  rng: jax.Array, x_start: Mapping[str, jax.Array], mesh: Mesh
) -> dict[str, jax.Array]:
  """Standard normal noise like `x_start`, split over the mesh as it is."""
  sharded = sharding.batch_sharded(mesh)
  names = sorted(x_start)
  keys = jax.random.split(rng, len(names))
  return {
    name: jax.lax.with_sharding_constraint(
      jax.random.normal(key, x_start[name].shape, x_start[name].dtype), sharded
    )
    for name, key in zip(names, keys, strict=True)
  }


def make_train_step(
  task: Task,
  config: ConfigDict,
  optimizer: optax.GradientTransformation,
  timestep_sampler: Any,
  mesh: Mesh,
  root_rng: jax.Array,
) -> Callable[[TrainState, Any], tuple[TrainState, Any]]:
  """Returns `train_step(state, batch) -> (state, metrics)`, not yet jitted.

  Timesteps and noise are drawn for the whole global batch from
  `fold_in(root_rng, step)`, before it is cut into micro-batches: they depend
  neither on the number of devices nor on that of micro-batches. The metric
  "finite" says whether losses and gradients are; where they are not, nothing
  but the step number changes under `config.train.on_nonfinite="skip"`.
  """
  skip = config.train.on_nonfinite == "skip"
  shares = None
  if task.levels != "shared":
    shares = level_mix.check_shares(config.train.level_shares)
    if config.diffusion.timestep_sampler != "uniform":
      raise ValueError(
        "config.train.levels='mixed' draws several steps for a sample; "
        f"config.diffusion.timestep_sampler="
        f"{config.diffusion.timestep_sampler!r} weighs one. Use 'uniform'."
      )
  gradients = make_gradients(
    make_loss_fn(task, config.diffusion.loss), config.train.microbatches, mesh
  )

  def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Any]:
    rng = jax.random.fold_in(root_rng, state.step)
    t_rng, noise_rng, net_rng = jax.random.split(rng, 3)
    x_start, inputs = task.split(batch)
    noise = draw_noise(noise_rng, x_start, mesh)
    size = jax.tree.leaves(x_start)[0].shape[0]
    t, weights = timestep_sampler.sample(state.timestep_state, t_rng, size)
    levels = t
    if shares is not None:
      levels = level_mix.draw_levels(
        jax.random.fold_in(t_rng, 0),
        shares,
        t,
        timestep_sampler.sample({}, jax.random.fold_in(t_rng, 1), size)[0],
        task.process.num_timesteps,
        task.spec.frames,
      )
    (_, terms), grads = gradients(
      state.params, (x_start, inputs, noise, levels, weights), net_rng
    )

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema_params = optax.incremental_update(
      params, state.ema_params, 1.0 - config.train.ema_decay
    )
    new_state = TrainState(
      step=state.step + 1,
      params=params,
      ema_params=ema_params,
      opt_state=opt_state,
      timestep_state=timestep_sampler.update(
        state.timestep_state, t, terms["loss"]
      ),
    )
    values = terms | group_norms(grads)
    nonfinite = metrics.first_nonfinite(new_state.step, values)
    finite = jnp.stack([jnp.isfinite(x).all() for x in values.values()]).all()
    counted = jnp.ones((), bool)
    if skip:
      kept = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), new_state, state
      )
      new_state = kept.replace(step=new_state.step)
      nonfinite = jax.tree.map(lambda _: metrics.NEVER, nonfinite)
      counted = finite
    averages = metrics.loss_averages(
      values, levels, task.process.num_timesteps, counted
    )
    return new_state, {
      "averages": averages,
      "nonfinite": nonfinite,
      "finite": finite,
    }

  return train_step
