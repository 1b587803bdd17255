"""A task and a sampler as one jitted function of seeds."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax import samplers
from mmdiff_jax.devices import sharding
from mmdiff_jax.samplers import guidance
from mmdiff_jax.samplers.base import DenoiseFn, Sampler
from mmdiff_jax.task import Task

# A jitted function, which can be traced and lowered too.
SampleFn = jax.stages.Wrapped


def make_configured_sampler(task: Task, settings: ConfigDict) -> Sampler:
  """Builds the sampler of a section like `config.sample` for a task.

  Raises:
    ValueError: for an option that the chosen sampler does not have, or a
      number of steps that the process cannot give.
  """
  sampler = samplers.make_sampler(
    settings.sampler,
    prediction=task.prediction,
    learn_sigma=task.network.learn_sigma,
    **{name: settings[name] for name in samplers.OPTIONS},
  )
  _check_guidance(settings)
  # Not only when the first samples are asked for: fails for impossible steps.
  sampler.respace(task.process)
  return sampler


def _check_guidance(settings: ConfigDict) -> None:
  interval = settings.get("cfg_interval")
  if interval is None:
    return
  guidance.check_interval(interval, "config.sample.cfg_interval")
  if settings.get("cfg_scale") is None:
    raise ValueError(
      f"config.sample.cfg_interval={tuple(interval)} has no effect without "
      "config.sample.cfg_scale."
    )


def sampler_alone(name: str, **options: Any) -> dict[str, Any]:
  """Keys of `config.sample` for a sampler; all other options are unset."""
  return dict.fromkeys(samplers.OPTIONS) | {"sampler": name} | options


def inherit_sampler(
  trained: ConfigDict, asked: Mapping[str, Any]
) -> dict[str, Any]:
  """The sampler of a checkpoint under what is asked for.

  With another sampler the checkpoint's options go: they belong to its own.

  Args:
    trained: the section `sample` of the checkpoint's configuration.
    asked: keys like those of `trained`; None unsets an option.

  Returns:
    "sampler" and all options of samplers, None where they are not set.
  """
  name = asked.get("sampler") or trained.sampler
  same = name == trained.sampler
  options = {
    option: asked.get(option, trained.get(option) if same else None)
    for option in samplers.OPTIONS
  }
  return {"sampler": name} | options


def denoiser(
  task: Task, settings: ConfigDict, mesh: Mesh, params: Any, inputs: Any
) -> DenoiseFn:
  """The network as samplers call it, guided where the settings say so."""
  params = sharding.gathered(mesh, params)
  if settings.cfg_scale is None:
    return task.denoise_fn(params, inputs)
  return task.guided_denoise_fn(
    params, inputs or {}, settings.cfg_scale, settings.get("cfg_interval")
  )


def make_sample_fn(task: Task, settings: ConfigDict, mesh: Mesh) -> SampleFn:
  """Returns `sample(params, rng, indices, condition=None, inputs=None)`.

  It is jitted, network included, with the samples split over the mesh.
  Sample `indices[b]` depends on `rng`, that index, its known values and its
  inputs alone: neither on its batch nor on the number of devices.

  Args:
    task: what is sampled.
    settings: a section like `config.sample`: the sampler, its options, and
      `cfg_scale`, which guides by `inputs` where it is set (`cfg_interval`
      says at which noise levels).
    mesh: devices that share a batch.

  Returns:
    A function of parameters, one key, sample numbers `[B]`, a `Condition` or
    None, and the network's inputs `[B, ...]` by name, to `(x, nfe)`: a
    dict of `[B, ...]` samples in [-1, 1] and the number of network
    evaluations.

  Raises:
    ValueError: see `make_configured_sampler`.
  """
  sampler = make_configured_sampler(task, settings)
  shapes = {name: leaf.shape for name, leaf in task.x.items()}
  split = sharding.batch_sharded(mesh)

  def sample(params, rng, indices, condition=None, inputs=None):
    rngs = samplers.make_rng(rng, indices)
    x_init = jax.lax.with_sharding_constraint(
      samplers.initial_noise(rngs, shapes, indices.shape[0]), split
    )
    denoise_fn = denoiser(task, settings, mesh, params, inputs)
    if condition is not None:
      condition = condition.at(task.levels, task.last_t)
    return sampler(denoise_fn, task.process, x_init, rngs, condition)

  return jax.jit(sample)
