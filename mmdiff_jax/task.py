"""The task: what is generated, what is given, and by which network.

Made once from a configuration and handed on in its place. Training, sampling,
previews and upscaling ask it, and know neither the network's name nor what
the batches hold.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax.av import AVSpec
from mmdiff_jax.devices.mesh import platform_of
from mmdiff_jax.diffusion import Schedule, make_schedule
from mmdiff_jax.models import Leaves, Network, create_network
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
    cond: what is given, likewise.
    schedule: of the noise.
    prediction: what the network predicts, "eps" or "x_start".
    loss_weights: weight of each generated input in the loss.
    cond_dropout: share of training samples whose given inputs are withheld,
      where the network knows a value for that.
    compiler_options: for the programs that train, on the task's platform.
  """

  network: Network
  spec: AVSpec
  x: Leaves
  cond: Leaves
  schedule: Schedule
  prediction: str
  loss_weights: dict[str, float]
  cond_dropout: float
  compiler_options: dict[str, str]

  def split(self, batch: Arrays) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a batch by name into `(x_start, cond)`.

    Pixels (uint8) of what is generated become float32 in [-1, 1].

    Raises:
      ValueError: if the batch lacks an input, or has one that nobody declared.
    """
    declared = self.x.keys() | self.cond.keys()
    if batch.keys() != declared:
      raise ValueError(
        f"The batch holds {sorted(batch)}; the network generates "
        f"{sorted(self.x)} and is given {sorted(self.cond)}: it must hold "
        "these and nothing else."
      )
    x_start = {
      name: batch[name].astype(jnp.float32) / 127.5 - 1.0
      if batch[name].dtype == jnp.uint8
      else batch[name]
      for name in batch
      if name in self.x
    }
    return x_start, {name: batch[name] for name in self.cond}

  def abstract_batch(self, size: int, split: Any = None) -> Leaves:
    """Shapes and types of a training batch, sharded as `split`."""
    return {
      name: jax.ShapeDtypeStruct(
        (size, *leaf.shape), leaf.dtype, sharding=split
      )
      for name, leaf in (self.x | self.cond).items()
    }

  def init(self, rng: jax.Array) -> Any:
    """Initialises the network's parameters; traceable."""
    return self.network.init(rng, self.x, self.cond)["params"]

  def denoise_fn(
    self, params: Any, cond: Arrays | None = None, train: bool = False
  ) -> DenoiseFn:
    """Returns `denoise_fn(x_t, t, rng)` for given parameters.

    Args:
      params: of the network.
      cond: given inputs `[B, ...]`; what is left out is not given.
      train: turns dropout on, and withholds given inputs at random
        (`cond_dropout`, each sample for itself).

    Returns:
      A function of `x_t`, the step indices `t` `[B]` and one key, which seeds
      dropout and the window shifts. It returns a dict like `x_t`, with twice
      the channels where the network learns a variance.

    Raises:
      ValueError: (when called) if an input that must be given is missing, or
        one is given that the network does not take.
    """

    def denoise_fn(x_t: Any, t: jax.Array, rng: jax.Array) -> Any:
      window_rng, dropout_rng = jax.random.split(rng)
      rngs = {"window": window_rng}
      given = self._complete(cond or {}, t.shape[0])
      if train:
        rngs["dropout"] = dropout_rng
        given = self._withhold(given, jax.random.fold_in(rng, 2))
      return self.network.module.apply(
        {"params": params}, x_t, t, given, train, rngs=rngs, method=self.network
      )

    return denoise_fn

  def guided_denoise_fn(
    self, params: Any, cond: Arrays, scale: float
  ) -> DenoiseFn:
    """Returns `denoise_fn(x_t, t, rng)` under classifier-free guidance.

    Args:
      params: of the network.
      cond: given inputs `[B, ...]`.
      scale: see `guidance.classifier_free`.

    Raises:
      ValueError: if nothing is given that could be withheld.
    """
    null = {k: v for k, v in self.network.null.items() if k in cond}
    if not null:
      raise ValueError(
        "Guidance compares what is given with its absence, but nothing is "
        f"given that could be withheld; this network takes "
        f"{sorted(self.network.null) or 'nothing of the kind'}."
      )
    pairs = {
      name: jnp.stack(
        [value, jnp.full_like(value, null[name]) if name in null else value], 1
      ).reshape(-1, *value.shape[1:])
      for name, value in cond.items()
    }
    return guidance.classifier_free(
      self.denoise_fn(params, pairs),
      scale,
      learn_sigma=self.network.learn_sigma,
    )

  def _complete(self, cond: Arrays, batch: int) -> dict[str, jax.Array]:
    """All given inputs: what is absent has the value that says so."""
    null = self.network.null
    missing = self.cond.keys() - null.keys() - cond.keys()
    if missing or not cond.keys() <= self.cond.keys():
      raise ValueError(
        f"The network was given {sorted(cond)}; it takes {sorted(self.cond)}, "
        f"of which {sorted(self.cond.keys() - null.keys())} must be given."
      )
    return {
      name: cond[name]
      if name in cond
      else jnp.full((batch, *leaf.shape), null[name], leaf.dtype)
      for name, leaf in self.cond.items()
    }

  def _withhold(
    self, cond: dict[str, jax.Array], rng: jax.Array
  ) -> dict[str, jax.Array]:
    """Takes all that can be withheld from a random share of the samples."""
    null = self.network.null
    if not null or not self.cond_dropout:
      return cond

    def drop(name: str, value: jax.Array) -> jax.Array:
      if name not in null:
        return value
      drawn = jax.random.bernoulli(rng, self.cond_dropout, value.shape[:1])
      mask = drawn.reshape(-1, *(1,) * (value.ndim - 1))
      return jnp.where(mask, jnp.asarray(null[name], value.dtype), value)

    return {name: drop(name, value) for name, value in cond.items()}


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
  x, cond = network.inputs(config)
  network.check_shapes(x)
  dropout = config.train.get("cond_dropout", 0.0)
  if not 0 <= dropout < 1:
    raise ValueError(f"config.train.cond_dropout={dropout} must lie in [0, 1).")
  remat = config.model.get("remat", "none") != "none"
  return Task(
    network=network,
    spec=AVSpec.from_config(config.data),
    x=x,
    cond=cond,
    schedule=make_schedule(
      config.diffusion.schedule, config.diffusion.num_timesteps
    ),
    prediction=config.diffusion.prediction,
    loss_weights={
      name: config.train.get(f"{name}_loss_weight", 1.0) for name in x
    },
    cond_dropout=dropout,
    compiler_options=MEMORY_FIRST.get(platform, {}) if remat else {},
  )
