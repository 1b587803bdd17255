"""The loss of a batch and the optimiser step, as pure functions to jit."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax import sharding
from mmdiff_jax.diffusion import Schedule, training_losses
from mmdiff_jax.task import make_denoise_fn
from mmdiff_jax.training import metrics
from mmdiff_jax.training.state import TrainState


def unpack_batch(batch: Mapping[str, jax.Array]) -> tuple[Any, Any]:
  """Splits a loader's batch into `(x_start, low_res)`.

  uint8 leaves become float32 in [-1, 1]; `low_res` is None for the joint
  model.
  """
  x_start = {
    name: value.astype(jnp.float32) / 127.5 - 1.0
    if value.dtype == jnp.uint8
    else value
    for name, value in batch.items()
    if name != "low_res"
  }
  return x_start, batch.get("low_res")


def make_loss_fn(
  model: nn.Module, schedule: Schedule, config: ConfigDict
) -> Callable[..., tuple[jax.Array, dict[str, Any]]]:
  """Returns `loss_fn(params, x_start, low_res, noise, t, weights, rng)`.

  It returns the scalar loss and the `[B]` losses of the samples: `loss` in
  all, and `<modality>_mse` (and `<modality>_vb`, in bits) apart.
  """
  weights_by_name = {
    "video": config.train.video_loss_weight,
    "audio": config.train.audio_loss_weight,
    "image": 1.0,
  }

  def loss_fn(params, x_start, low_res, noise, t, weights, rng):
    terms = training_losses(
      make_denoise_fn(model, params, low_res=low_res, train=True),
      schedule,
      x_start,
      t,
      noise,
      loss=config.diffusion.loss,
      learn_sigma=config.model.learn_sigma,
      prediction=config.diffusion.prediction,
      rng=rng,
      weights={name: weights_by_name[name] for name in x_start},
    )
    by_term = {
      f"{name}_{term}": value
      for term, values in terms.items()
      if term != "loss"
      for name, value in values.items()
    }
    return jnp.mean(weights * terms["loss"]), {"loss": terms["loss"]} | by_term

  return loss_fn


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


def make_train_step(
  loss_fn: Callable[..., Any],
  optimizer: optax.GradientTransformation,
  timestep_sampler: Any,
  schedule: Schedule,
  config: ConfigDict,
  mesh: Mesh,
  root_rng: jax.Array,
) -> Callable[[TrainState, Any], tuple[TrainState, Any]]:
  """Returns `train_step(state, batch) -> (state, metrics)`, not yet jitted.

  Timesteps and noise are drawn for the whole global batch from
  `fold_in(root_rng, step)`, before it is cut into micro-batches: they depend
  neither on the number of devices nor on that of micro-batches.
  """
  num_micro = config.train.microbatches
  ema_decay = config.train.ema_decay
  sharded = sharding.batch_sharded(mesh)

  def split(x: jax.Array) -> jax.Array:
    # Micro-batch m takes samples m, m+M, ...: each stays on its device.
    x = x.reshape(x.shape[0] // num_micro, num_micro, *x.shape[1:])
    return jnp.moveaxis(x, 1, 0)

  def gradients(params, inputs, rng):
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    if num_micro == 1:
      return grad_fn(params, *inputs, rng)
    inputs = jax.tree.map(split, inputs)

    def body(total, scanned):
      micro_inputs, index = scanned
      out, grads = grad_fn(
        params, *micro_inputs, jax.random.fold_in(rng, index)
      )
      return jax.tree.map(jnp.add, total, grads), out

    zeros = jax.tree.map(jnp.zeros_like, params)
    grads, (losses, terms) = jax.lax.scan(
      body, zeros, (inputs, jnp.arange(num_micro))
    )
    grads = jax.tree.map(lambda g: g / num_micro, grads)
    terms = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1), terms)
    return (losses.mean(), terms), grads

  def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Any]:
    rng = jax.random.fold_in(root_rng, state.step)
    t_rng, noise_rng, net_rng = jax.random.split(rng, 3)
    x_start, low_res = unpack_batch(batch)
    leaves, structure = jax.tree.flatten(x_start)
    keys = jax.random.split(noise_rng, len(leaves))
    noise = structure.unflatten(
      jax.lax.with_sharding_constraint(
        jax.random.normal(key, leaf.shape, leaf.dtype), sharded
      )
      for key, leaf in zip(keys, leaves, strict=True)
    )
    t, weights = timestep_sampler.sample(
      state.timestep_state, t_rng, leaves[0].shape[0]
    )
    (_, terms), grads = gradients(
      state.params, (x_start, low_res, noise, t, weights), net_rng
    )

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema_params = optax.incremental_update(
      params, state.ema_params, 1.0 - ema_decay
    )
    grad_norms = group_norms(grads)
    step = state.step + 1
    step_metrics = {
      "averages": {
        name: metrics.average(value)
        for name, value in (terms | grad_norms).items()
      }
      | metrics.quarter_averages(terms["loss"], t, schedule.num_timesteps),
      "nonfinite": metrics.first_nonfinite(step, terms | grad_norms),
    }
    new_state = TrainState(
      step=step,
      params=params,
      ema_params=ema_params,
      opt_state=opt_state,
      timestep_state=timestep_sampler.update(
        state.timestep_state, t, terms["loss"]
      ),
    )
    return new_state, step_metrics

  return train_step
