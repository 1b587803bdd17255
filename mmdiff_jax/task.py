"""The task: what is generated, from which inputs, by which network.

Made once from a configuration and handed on in its place. Training, sampling,
previews and upscaling ask it, and know neither the network's name nor what
the batches hold.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax.av import AVSpec
from mmdiff_jax.devices.mesh import platform_of
from mmdiff_jax.diffusion import Process, level_mix, make_process
from mmdiff_jax.diffusion.process import check_prediction
from mmdiff_jax.models import Leaves, Network, create_network
from mmdiff_jax.models.levels import LEVELS, Levels, check_levels
from mmdiff_jax.models.remat import MEMORY_FIRST
from mmdiff_jax.samplers import guidance
from mmdiff_jax.samplers.base import DenoiseFn

Arrays = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
  """What is learnt, and the functions that follow from it.

  Attributes:
    network: computes it.
    spec: geometry of a clip.
    x: what is generated, by name: shapes without batch axis and types as a
      batch carries them.
    inputs: what the network is given beside it, likewise.
    process: what noise does.
    levels: the finest noise levels that it is trained with, of
      `models.levels.LEVELS`.
    prediction: what the network predicts, one of `process.PREDICTIONS`.
    loss_weights: weight in the loss of all that is generated, by name.
    cond_dropout: share of training samples whose inputs are withheld, where
      the network has a value for that.
    compiler_options: for the programs that train, on the task's platform.
  """

  network: Network
  spec: AVSpec
  x: Leaves
  inputs: Leaves
  process: Process
  levels: str
  prediction: str
  loss_weights: dict[str, float]
  cond_dropout: float
  compiler_options: dict[str, str]

  @property
  def last_t(self) -> int:
    """Step index of pure noise."""
    return self.process.num_timesteps - 1

  def split(self, batch: Arrays) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a batch by name into `(x_start, inputs)`.

    Pixels (uint8) of what is generated become float32 in [-1, 1].

    Raises:
      ValueError: if the batch lacks an input, or has one that nobody declared.
    """
    declared = self.x.keys() | self.inputs.keys()
    if batch.keys() != declared:
      raise ValueError(
        f"The batch holds {sorted(batch)}; the network generates "
        f"{sorted(self.x)} from the inputs {sorted(self.inputs)}: it must hold "
        "these and nothing else."
      )
    x_start = {
      name: batch[name].astype(jnp.float32) / 127.5 - 1.0
      if batch[name].dtype == jnp.uint8
      else batch[name]
      for name in batch
      if name in self.x
    }
    return x_start, {name: batch[name] for name in self.inputs}

  def absent(self) -> dict[str, np.ndarray]:
    """What one sample's inputs are that are withheld, by name."""
    return {
      name: np.full(self.inputs[name].shape, value, self.inputs[name].dtype)
      for name, value in self.network.null.items()
    }

  def abstract_batch(self, size: int, split: Any = None) -> Leaves:
    """Shapes and types of a training batch, sharded as `split`."""
    return {
      name: jax.ShapeDtypeStruct(
        (size, *leaf.shape), leaf.dtype, sharding=split
      )
      for name, leaf in (self.x | self.inputs).items()
    }

  def init(self, rng: jax.Array) -> Any:
    """Initialises the network's parameters; traceable."""
    return self.network.init(rng, self.x, self.inputs)["params"]

  def plainly(self) -> "Task":
    """The task with its network as the definition computes it."""
    return dataclasses.replace(self, network=self.network.plainly())

  def denoise_fn(
    self, params: Any, inputs: Arrays | None = None, train: bool = False
  ) -> DenoiseFn:
    """Returns `denoise_fn(x_t, t, rng)` for given parameters.

    Args:
      params: of the network.
      inputs: of the network `[B, ...]`; one that is left out is withheld.
      train: turns dropout on, and withholds inputs at random
        (`cond_dropout`, each sample for itself).

    Returns:
      A function of `x_t`, the step indices `t` (`[B]`, or finer noise levels
      where the network takes them: `models.levels`) and one key, which seeds
      dropout and the window shifts. It returns a dict like `x_t`, with twice
      the channels where the network learns a variance.

    Raises:
      ValueError: (when called) if an input that is needed is missing, or the
        network does not take one.
    """

    def denoise_fn(x_t: Any, t: Levels, rng: jax.Array) -> Any:
      shapes = {name: leaf.shape for name, leaf in x_t.items()}
      check_levels(t, self.network.levels, shapes)
      batch = next(iter(shapes.values()))[0]
      window_rng, dropout_rng = jax.random.split(rng)
      rngs = {"window": window_rng}
      complete = self._complete(inputs or {}, batch)
      if train:
        rngs["dropout"] = dropout_rng
        complete = self._withhold(complete, jax.random.fold_in(rng, 2))
      return self.network.module.apply(
        {"params": params},
        x_t,
        t,
        complete,
        train,
        rngs=rngs,
        method=self.network,
      )

    return denoise_fn

  def guided_denoise_fn(
    self,
    params: Any,
    inputs: Arrays,
    scale: float,
    interval: Sequence[float] | None = None,
  ) -> DenoiseFn:
    """Returns `denoise_fn(x_t, t, rng)` under classifier-free guidance.

    Args:
      params: of the network.
      inputs: of the network `[B, ...]`.
      scale: see `guidance.classifier_free`.
      interval: see `guidance.noise_interval`; None guides at all levels.

    Raises:
      ValueError: if none of the inputs can be withheld.
    """
    null = {k: v for k, v in self.network.null.items() if k in inputs}
    if not null:
      raise ValueError(
        "Guidance compares an input with its absence, but none of these "
        f"inputs can be withheld: {sorted(inputs)}; this network takes "
        f"{sorted(self.network.null) or 'none of the kind'}."
      )
    pairs = {
      name: jnp.stack(
        [value, jnp.full_like(value, null[name]) if name in null else value], 1
      ).reshape(-1, *value.shape[1:])
      for name, value in inputs.items()
    }
    inside = alone = None
    if interval is not None:
      inside = guidance.noise_interval(self.process, interval)
      alone = self.denoise_fn(params, inputs)
    return guidance.classifier_free(
      self.denoise_fn(params, pairs),
      scale,
      learn_sigma=self.network.learn_sigma,
      inside=inside,
      alone=alone,
    )

  def repeat_inputs(self, inputs: Mapping[str, Any], batch: int) -> Arrays:
    """Inputs that are the same for all samples, as a batch.

    Args:
      inputs: values of the network's inputs by name, without batch axis.
      batch: number of samples.

    Returns:
      Arrays `[batch, ...]` of the types that the network takes.

    Raises:
      ValueError: for an input that the network does not take, and for a value
        of another shape or kind.
    """
    self._check_names(inputs)
    return {
      name: jnp.broadcast_to(
        _as_input(name, value, self.inputs[name]),
        (batch, *self.inputs[name].shape),
      )
      for name, value in inputs.items()
    }

  def _check_names(self, inputs: Mapping[str, Any]) -> None:
    unknown = sorted(inputs.keys() - self.inputs.keys())
    if unknown:
      takes = ", ".join(sorted(self.inputs)) or "none"
      raise ValueError(
        f"The network has no input {unknown[0]!r}; its inputs: {takes}. Leave "
        "it out, or train a network that has it."
      )

  def _complete(self, inputs: Arrays, batch: int) -> dict[str, jax.Array]:
    """All inputs: one that is absent has the value that says so."""
    self._check_names(inputs)
    null = self.network.null
    missing = sorted(self.inputs.keys() - null.keys() - inputs.keys())
    if missing:
      raise ValueError(
        f"The network's input {missing[0]!r} is missing; it needs "
        f"{', '.join(sorted(self.inputs.keys() - null.keys()))}."
      )
    for name, value in inputs.items():
      wanted = (batch, *self.inputs[name].shape)
      if jnp.shape(value) != wanted:
        raise ValueError(
          f"The network's input {name!r} has shape {jnp.shape(value)}; for "
          f"{batch} samples it must have {wanted}."
        )
    return {
      name: jnp.asarray(inputs[name])
      if name in inputs
      else jnp.full((batch, *leaf.shape), null[name], leaf.dtype)
      for name, leaf in self.inputs.items()
    }

  def _withhold(
    self, inputs: dict[str, jax.Array], rng: jax.Array
  ) -> dict[str, jax.Array]:
    """Takes all that can be withheld from a random share of the samples."""
    null = self.network.null
    if not null or not self.cond_dropout:
      return inputs

    def drop(name: str, value: jax.Array) -> jax.Array:
      if name not in null:
        return value
      drawn = jax.random.bernoulli(rng, self.cond_dropout, value.shape[:1])
      mask = drawn.reshape(-1, *(1,) * (value.ndim - 1))
      return jnp.where(mask, jnp.asarray(null[name], value.dtype), value)

    return {name: drop(name, value) for name, value in inputs.items()}


def _as_input(name: str, value: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
  """One value of an input, checked against what the network declares."""
  try:
    array = np.asarray(value)
    exact = array.astype(leaf.dtype)
  except (ValueError, TypeError) as error:
    raise ValueError(f"{name}={value!r} is not a number or array.") from error
  if array.shape != leaf.shape:
    raise ValueError(
      f"{name} has shape {array.shape}; the network takes {leaf.shape}, the "
      "same for all samples."
    )
  if np.issubdtype(leaf.dtype, np.integer) and not np.array_equal(array, exact):
    raise ValueError(f"{name}={value!r} must hold whole numbers.")
  return exact


def make_task(config: ConfigDict, mesh: Mesh | None = None) -> Task:
  """Makes the task of a configuration.

  Args:
    config: with the keys of `configs/default.py`.
    mesh: the devices that its programs will be compiled for; None is the
      default device of this process.

  Raises:
    ValueError: if network, data and diffusion settings do not fit together,
      before anything is traced.
  """
  platform = jax.default_backend()
  if mesh is not None:
    platform = platform_of(mesh)
  network = create_network(config.model).on(platform, mesh)
  x, inputs = network.declare(config)
  network.check_shapes(x)
  dropout = config.train.get("cond_dropout", 0.0)
  if not 0 <= dropout < 1:
    raise ValueError(f"config.train.cond_dropout={dropout} must lie in [0, 1).")
  diffusion = config.diffusion
  process = make_process(
    diffusion.get("process", "vp"),
    diffusion.num_timesteps,
    diffusion.schedule,
    diffusion.get("zero_terminal_snr", False),
  )
  check_prediction(diffusion.prediction, process)
  remat = config.model.get("remat", "none") != "none"
  return Task(
    network=network,
    spec=AVSpec.from_config(config.data),
    x=x,
    inputs=inputs,
    process=process,
    levels=_levels(config, network, x),
    prediction=diffusion.prediction,
    loss_weights={
      name: config.train.get(f"{name}_loss_weight", 1.0) for name in x
    },
    cond_dropout=dropout,
    compiler_options=MEMORY_FIRST.get(platform, {}) if remat else {},
  )


def _levels(config: ConfigDict, network: Network, x: Leaves) -> str:
  """The noise levels that `config.train` trains with."""
  how = config.train.get("levels", "shared")
  if how == "shared":
    return "shared"
  if how != "mixed":
    raise ValueError(
      f"config.train.levels={how!r} is unknown; allowed are shared, mixed."
    )
  shares = level_mix.check_shares(config.train.level_shares)
  wanted = "frame" if shares["clean_frames"] else "stream"
  if x.keys() != {"video", "audio"} or LEVELS.index(wanted) > LEVELS.index(
    network.levels
  ):
    raise ValueError(
      f"config.train.levels='mixed' needs a network of video and audio that "
      f"takes one noise level per {wanted}; {config.model.name} does not. Use "
      "'shared'."
    )
  return wanted
