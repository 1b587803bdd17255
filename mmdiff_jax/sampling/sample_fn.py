"""A configured network and sampler as one jitted function of seeds."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax import models, samplers, sharding, task
from mmdiff_jax.diffusion import make_schedule

SampleFn = Callable[..., tuple[dict[str, jax.Array], jax.Array]]

# Keys of `config.sample` that are options of its sampler.
OPTIONS = (
  "steps",
  "order",
  "method",
  "grid",
  "eta",
  "clip_denoised",
  "dynamic_thresholding",
  "denoise_final",
)


def make_configured_sampler(config: ConfigDict) -> Callable[..., Any]:
  """Builds the sampler of `config.sample` for the network of `config.model`.

  Raises:
    ValueError: for an option that the chosen sampler does not have.
  """
  settings = config.sample
  options = {k: settings[k] for k in OPTIONS if settings[k] is not None}
  return samplers.make_sampler(
    settings.sampler,
    prediction=config.diffusion.prediction,
    learn_sigma=config.model.learn_sigma,
    **options,
  )


def make_sample_fn(config: ConfigDict, mesh: Mesh) -> SampleFn:
  """Returns `sample(params, rng, indices, condition=None, low_res=None)`.

  It is jitted, network included, with the samples split over the mesh.
  Sample `indices[b]` depends on `rng` and that index alone: neither on the
  batch that it is part of nor on the number of devices.

  Returns:
    A function to `(x, nfe)`: a dict of `[B, ...]` samples in [-1, 1] and the
    number of network evaluations.

  Raises:
    ValueError: for options that the sampler does not have, or a number of
      steps that the schedule cannot give.
  """
  model = models.create_model(config.model)
  schedule = make_schedule(
    config.diffusion.schedule, config.diffusion.num_timesteps
  )
  sampler = make_configured_sampler(config)
  # Not only when the first samples are asked for: fails for impossible steps.
  sampler.respace(schedule)
  shapes = task.sample_shapes(config)
  split = sharding.batch_sharded(mesh)

  def sample(params, rng, indices, condition=None, low_res=None):
    rngs = samplers.make_rng(rng, indices)
    x_init = jax.lax.with_sharding_constraint(
      samplers.initial_noise(rngs, shapes, indices.shape[0]), split
    )
    return sampler(
      task.make_denoise_fn(model, params, low_res=low_res),
      schedule,
      x_init,
      rngs,
      condition,
    )

  return jax.jit(sample)
