"""A trained model as an object, for use from Python."""

import dataclasses
import operator
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax import checkpoint, samplers
from mmdiff_jax.av import AVSpec
from mmdiff_jax.configuration import check_seed
from mmdiff_jax.devices.mesh import find_devices, make_mesh
from mmdiff_jax.samplers import Condition
from mmdiff_jax.samplers.base import DenoiseFn
from mmdiff_jax.sampling.parameters import load_sampling_params
from mmdiff_jax.sampling.sample_fn import SampleFn, make_sample_fn
from mmdiff_jax.task import Task, make_task


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
  """A trained network on one device.

  Attributes:
    task: what it generates, from which inputs, and its noise process.
    params: its averaged parameters.
    config: of the run that trained it.
    mesh: the device.
  """

  task: Task
  params: Any
  config: ConfigDict
  mesh: Mesh
  _programs: dict[Any, SampleFn] = dataclasses.field(
    default_factory=dict, repr=False
  )

  @classmethod
  def load(cls, path: str | os.PathLike) -> "Model":
    """See `mmdiff_jax.load`."""
    mesh = make_mesh(devices=find_devices()[:1])
    config = checkpoint.load_config(path)
    task = make_task(config, mesh)
    return cls(task, load_sampling_params(task, path, mesh), config, mesh)

  @property
  def spec(self) -> AVSpec:
    """Geometry of a clip."""
    return self.task.spec

  def denoise_fn(self, inputs: Mapping[str, Any] | None = None) -> DenoiseFn:
    """`denoise_fn(x_t, t, rng)`, as all samplers take it.

    Args:
      inputs: of the network `[B, ...]`, such as `{"label": ...}`.
    """
    return self.task.denoise_fn(self.params, inputs)

  def sample(
    self,
    count: int,
    sampler: str = "dpm_solver++",
    *,
    seed: int = 0,
    condition: Condition | None = None,
    inputs: Mapping[str, Any] | None = None,
    cfg_scale: float | None = None,
    cfg_interval: tuple[float, float] | None = None,
    coupling: Mapping[str, float] | None = None,
    **options: Any,
  ) -> dict[str, jax.Array]:
    """Samples a batch; sample i does not depend on `count`.

    Args:
      count: size of the batch.
      sampler: one of `samplers.SAMPLERS`.
      seed: of all samples.
      condition: values that are known; see `samplers.condition_on_audio` and
        its neighbours.
      inputs: of the network by name, the same for all samples, such as
        `{"label": 3}`.
      cfg_scale: scale of classifier-free guidance by `inputs`; None is none.
      cfg_interval: noise levels sigma / alpha that it is limited to.
      coupling: scales of coupling guidance by stream; see
        `samplers.coupling`. None is none.
      **options: of the sampler; `samplers.sampler_options` lists them.

    Returns:
      What the network generates, `[count, ...]` in [-1, 1] by name.

    Raises:
      ValueError: for an argument of another kind, an unknown sampler or
        option, and inputs that the network does not take.
    """
    _check_kinds(count, condition, inputs, cfg_scale)
    check_seed(seed, "seed")
    unknown = options.keys() - set(samplers.OPTIONS)
    if unknown:
      raise ValueError(
        f"{', '.join(sorted(unknown))}: no option of a sampler; allowed are "
        f"{', '.join(samplers.OPTIONS)}."
      )
    settings = dict.fromkeys(samplers.OPTIONS) | options
    settings |= {"sampler": sampler, "cfg_scale": cfg_scale}
    settings["cfg_interval"] = cfg_interval
    for name, scale in (coupling or {}).items():
      settings[f"coupling_{name}"] = scale
    key = tuple(settings.items())
    if key not in self._programs:
      self._programs[key] = make_sample_fn(
        self.task, ConfigDict(settings), self.mesh
      )
    x, _ = self._programs[key](
      self.params,
      jax.random.key(seed),
      jnp.arange(count),
      condition,
      self.task.repeat_inputs(inputs or {}, count),
    )
    return x


def _check_kinds(
  count: Any, condition: Any, inputs: Any, cfg_scale: Any
) -> None:
  """Raises ValueError for an argument of `sample` of another kind."""
  try:
    value = 0 if isinstance(count, bool) else operator.index(count)
  except TypeError:
    value = 0
  if not 1 <= value < 2**31:
    raise ValueError(
      f"count={count!r}: give a whole number of samples, from 1."
    )
  if condition is not None and not isinstance(condition, Condition):
    raise ValueError(
      f"condition={condition!r}: give a Condition, such as "
      "samplers.condition_on_audio(audio)."
    )
  if inputs is not None and not isinstance(inputs, Mapping):
    raise ValueError(
      f"inputs={inputs!r}: give values by name, such as {{'label': 3}}."
    )
  if cfg_scale is not None:
    samplers.check_types({"cfg_scale": cfg_scale}, {"cfg_scale": float})
