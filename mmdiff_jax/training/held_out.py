"""The loss on clips that training never sees, measured while it runs."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax.devices import sharding
from mmdiff_jax.task import Task
from mmdiff_jax.training import metrics
from mmdiff_jax.training.step import draw_noise, make_loss_fn

HeldOutLoss = Callable[[Any], Mapping[str, float]]


def make_held_out_loss(
  task: Task, config: ConfigDict, mesh: Mesh, batches: Iterable[Any]
) -> HeldOutLoss:
  """Returns `held_out_loss(params)`, a function to scalars `heldout_<name>`.

  They are the training loss of the same parameters (`loss`), its terms
  (`<modality>_mse`, `<modality>_vb`) and both by quarter of the diffusion
  steps (`_q1`, least noise, to `_q4`), without dropout. Clips, steps and noise
  are the same at every call, so that the figures of two moments compare.

  Args:
    task: what is learnt.
    config: of the run.
    mesh: devices that share a batch.
    batches: this host's share of the held-out batches; the first
      `config.train.eval_batches` are kept.
  """
  steps = task.process.num_timesteps
  loss_fn = make_loss_fn(task, config.diffusion.loss, train=False)
  # Apart from the streams of training and previews.
  root_rng = jax.random.fold_in(jax.random.key(config.seed), 3)
  kept = [
    sharding.put_batch(mesh, batch)
    for batch in itertools.islice(batches, config.train.eval_batches)
  ]

  @jax.jit
  def one_batch(params: Any, batch: Any, number: jax.Array) -> Any:
    t_rng, noise_rng, net_rng = jax.random.split(
      jax.random.fold_in(root_rng, number), 3
    )
    x_start, inputs = task.split(batch)
    size = jax.tree.leaves(x_start)[0].shape[0]
    # Evenly spread over the steps, whatever the size of the batch.
    spread = (jnp.arange(size) + jax.random.uniform(t_rng)) / size
    t = (spread * steps).astype(jnp.int32)
    _, terms = loss_fn(
      params,
      x_start,
      inputs,
      draw_noise(noise_rng, x_start, mesh),
      t,
      jnp.ones(size),
      net_rng,
    )
    averages = {name: metrics.average(value) for name, value in terms.items()}
    for name, value in terms.items():
      averages |= metrics.quarter_averages(value, t, steps, name)
    return averages

  def held_out_loss(params: Any) -> Mapping[str, float]:
    total = None
    for number, batch in enumerate(kept):
      averages = one_batch(params, batch, jax.device_put(np.int32(number)))
      total = (
        averages if total is None else metrics.merge_averages(total, averages)
      )
    return {
      f"heldout_{name}": value
      for name, value in metrics.compute(total or {}).items()
    }

  return held_out_loss
