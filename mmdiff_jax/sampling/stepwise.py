"""A run of a sampler in parts, so that it can be watched."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax import samplers
from mmdiff_jax.devices import sharding
from mmdiff_jax.devices.compilation import compile_lowered
from mmdiff_jax.devices.memory import check_memory
from mmdiff_jax.samplers import Condition
from mmdiff_jax.samplers.plan import PlannedSampler
from mmdiff_jax.sampling.sample_fn import (
  denoiser,
  make_configured_sampler,
  make_sample_fn,
)
from mmdiff_jax.task import Task

# Seconds between two reports. The first step tells how many make that.
_INTERVAL = 0.5


class WatchedSampler:
  """Samples as `make_sample_fn`, and tells how far it is.

  Samplers whose steps are not planned are run in one piece.
  """

  def __init__(
    self,
    task: Task,
    settings: ConfigDict,
    mesh: Mesh,
    force: bool = False,
    cures: Sequence[str] = (),
  ):
    """Prepares the programs, which are compiled when they are first needed.

    Args:
      task: what is sampled.
      settings: a section like `config.sample`.
      mesh: devices that share a batch.
      force: start programs that seem too large for the memory, too.
      cures: what makes them smaller; none means the batch size.

    Raises:
      ValueError: see `make_configured_sampler`.
    """
    self._task, self._force = task, force
    self._cures = cures or [
      f"a smaller config.sample.batch_size (now {settings.batch_size})"
    ]
    self._sampler = make_configured_sampler(task, settings)
    self._split = sharding.batch_sharded(mesh)
    self._programs: dict[Any, jax.stages.Compiled] = {}
    sampler = self._sampler
    if not isinstance(sampler, PlannedSampler):
      self._whole = make_sample_fn(task, settings, mesh)
      return
    shapes = {name: leaf.shape for name, leaf in task.x.items()}

    def start(rng, indices):
      rngs = samplers.make_rng(rng, indices)
      return sampler.start(
        samplers.initial_noise(rngs, shapes, indices.shape[0])
      )

    def part(params, rng, indices, condition, inputs, state, first, stop):
      rngs = samplers.make_rng(rng, indices)
      if condition is not None:
        condition = condition.at(task.levels, task.last_t)
      return sampler.part(
        denoiser(task, settings, mesh, params, inputs, rngs),
        task.process,
        state,
        rngs,
        condition,
        first,
        stop,
      )

    self._start = jax.jit(start, out_shardings=self._split)
    self._part = jax.jit(part, out_shardings=self._split, donate_argnums=5)

  def count(self, condition: Condition | None) -> int | None:
    """Number of steps of a run; None where it is not known beforehand."""
    if not isinstance(self._sampler, PlannedSampler):
      return None
    return self._sampler.count(self._task.process, condition)[0]

  def __call__(
    self,
    params: Any,
    rng: jax.Array,
    indices: jax.Array,
    condition: Condition | None = None,
    inputs: Mapping[str, jax.Array] | None = None,
    watch: Callable[[int], Any] = lambda steps: None,
  ) -> tuple[Any, int]:
    """Samples a batch.

    Args:
      params: of the network.
      rng: one key.
      indices: sample numbers `[B]`.
      condition: known values, or None.
      inputs: of the network `[B, ...]` by name.
      watch: is told of steps that have been made since it was last told.

    Returns:
      Samples and the number of network calls, as `make_sample_fn`.

    Raises:
      DoesNotFitError: if a program needs more memory than there is.
    """
    arguments = (params, rng, indices, condition, dict(inputs or {}))
    if not isinstance(self._sampler, PlannedSampler):
      x, nfe = self._compiled(self._whole, arguments, params)(*arguments)
      return x, int(nfe)
    steps, nfe = self._sampler.count(self._task.process, condition)
    state = self._start(rng, indices)
    done, size = 0, 1
    while done < steps:
      stop = min(steps, done + size)
      args = (*arguments, state, jnp.int32(done), jnp.int32(stop))
      program = self._compiled(self._part, args, params)
      started = time.perf_counter()
      state = jax.block_until_ready(program(*args))
      seconds = (time.perf_counter() - started) / (stop - done)
      watch(stop - done)
      done, size = stop, max(1, round(_INTERVAL / max(seconds, 1e-9)))
    return state[0], nfe

  def _compiled(
    self, function: Any, args: tuple[Any, ...], params: Any
  ) -> jax.stages.Compiled:
    """The program for such arguments."""
    leaves, structure = jax.tree.flatten(args)
    key = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    if key not in self._programs:
      program = compile_lowered(function.lower(*args), "Sampler")
      check_memory(
        program, "The sampler", self._cures, held=params, force=self._force
      )
      self._programs[key] = program
    return self._programs[key]
