"""A task and a sampler as one jitted function of seeds."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax import samplers
from mmdiff_jax.devices import sharding
from mmdiff_jax.samplers import coupling, guidance
from mmdiff_jax.samplers import noise as noise_lib
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
  coupling_scales(task, settings)
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
  task: Task,
  settings: ConfigDict,
  mesh: Mesh,
  params: Any,
  inputs: Any,
  rngs: Mapping[str, jax.Array],
) -> DenoiseFn:
  """The network as samplers call it, guided where the settings say so.

  Args:
    task: what is sampled.
    settings: see `make_sample_fn`.
    mesh: devices that share a batch.
    params: of the network.
    inputs: of the network `[B, ...]` by name, or None.
    rngs: of `samplers.make_rng`.
  """
  params = sharding.gathered(mesh, params)
  scales = coupling_scales(task, settings)
  if scales:
    count = coupling.num_calls(scales)
    inputs = jax.tree.map(lambda x: jnp.repeat(x, count, 0), inputs)
  if settings.cfg_scale is None:
    denoise_fn = task.denoise_fn(params, inputs)
  else:
    denoise_fn = task.guided_denoise_fn(
      params, inputs or {}, settings.cfg_scale, settings.get("cfg_interval")
    )
  if not scales:
    return denoise_fn
  keys = rngs["noise"]
  like = {
    name: jax.ShapeDtypeStruct((keys.shape[0], *leaf.shape), jnp.float32)
    for name, leaf in task.x.items()
  }
  return coupling.coupled(
    denoise_fn,
    scales,
    noise_lib.normal_like(keys, like, noise_lib.UNCOUPLED),
    task.last_t,
    learn_sigma=task.network.learn_sigma,
  )


def coupling_scales(task: Task, settings: ConfigDict) -> dict[str, float]:
  """Scales of coupling guidance by stream, of those that have one.

  Raises:
    ValueError: for a scale that is not finite, and where the network has no
      noise levels of its own for every stream.
  """
  scales = {
    name: settings.get(f"coupling_{name}")
    for name in task.x
    if settings.get(f"coupling_{name}") is not None
  }
  coupling.check_scales(scales)
  if scales and task.levels == "shared":
    raise ValueError(
      f"config.sample.coupling_{next(iter(scales))} needs a network that was "
      "trained with config.train.levels=mixed; this one was not."
    )
  return scales


def make_sample_fn(task: Task, settings: ConfigDict, mesh: Mesh) -> SampleFn:
  """Returns `sample(params, rng, indices, condition=None, inputs=None)`.

  It is jitted, network included, with the samples split over the mesh.
  Sample `indices[b]` depends on `rng`, that index, its known values and its
  inputs alone: neither on its batch nor on the number of devices.

  Args:
    task: what is sampled.
    settings: a section like `config.sample`: the sampler, its options, and
      `cfg_scale`, which guides by `inputs` where it is set (`cfg_interval`
      says at which noise levels), and `coupling_video` and `coupling_audio`,
      which guide a stream by the other one.
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
    denoise_fn = denoiser(task, settings, mesh, params, inputs, rngs)
    if condition is not None:
      condition = condition.at(task.levels, task.last_t)
    return sampler(denoise_fn, task.process, x_init, rngs, condition)

  return jax.jit(sample)
