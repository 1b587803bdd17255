"""Zero-shot conditioning: what is known, and how it steers any solver.

A condition transforms the sampling problem; the solvers do not know of it.
The known part of x is replaced before each network call, and the result holds
it exactly. By what it is replaced is the method:

* "clean" puts c itself in place at every step, and tells a network that takes
  noise levels of its own for every stream or frame that they are 0 there;
* "replacement" puts c_t = q_sample(c, t, z) in place, with one noise z for
  the whole run (Song et al. 2021, arXiv 2011.13456), and so do the others;
* "gradient" also pulls the unknown part after each step down the gradient of
  the known part's misfit (Ho et al. 2022, arXiv 2204.03458, and MM-Diffusion);
* "resampling" also repeats stretches of the trajectory, noised back in between
  (RePaint: Lugmayr et al. 2022, arXiv 2201.09865).
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.av import frame_of
from mmdiff_jax.diffusion.gaussian import expand_to
from mmdiff_jax.samplers import noise as noise_lib

Tree = Any
Array = jax.Array | np.ndarray

METHODS = ("clean", "replacement", "gradient", "resampling")


@dataclasses.dataclass(frozen=True)
class Condition:
  """Known values of some elements of a sample.

  Attributes:
    known: modality name -> [B or 1, ...] clean values; a modality that is
      left out is generated whole.
    mask: modality name -> array that broadcasts against the modality, true
      (nonzero) where the value is known. A known modality without a mask is
      known whole.
    method: one of `METHODS`.
    scale: strength of the gradient method, which needs one above 0, for the
      misfit SUMMED over a sample's elements: it means the same at any batch
      and clip size.
    resample_repeats: how often the resampling method runs each stretch; None
      is 4.
    resample_jump: length of a stretch in steps; None is 5.
    levels: noise levels that the network takes, "shared", "stream" or
      "frame"; with "clean" the known part has level 0 as far as they reach.
    noise: the noise z of the known part, like `known`; None draws it from the
      samples' keys.
    absent: modalities that are noise throughout: the others are generated
      without them. Only with "clean", for a network that takes noise levels
      of its own for every stream; it is told `last_t` there.
    last_t: step index of pure noise.
    origin: modality name -> [B or 1, ...] clean values that the samples start
      from (Meng et al. 2022, arXiv 2108.01073), or None: above step
      `strength * last_t` all that is not known is the origin, noised by z.
    strength: from 0 (the origin itself) to 1 (noise alone).
  """

  known: Mapping[str, Array]
  mask: Mapping[str, Array] | None = None
  method: str = "replacement"
  scale: float = 0.0
  resample_repeats: int | None = None
  resample_jump: int | None = None
  levels: str = "shared"
  noise: Mapping[str, Array] | None = None
  absent: tuple[str, ...] = ()
  last_t: int = 0
  origin: Mapping[str, Array] | None = None
  strength: float | None = None

  def __post_init__(self):
    if self.method not in METHODS:
      raise ValueError(
        f"unknown conditioning method {self.method!r}; allowed are "
        f"{', '.join(METHODS)}."
      )
    object.__setattr__(self, "scale", float(self.scale))
    if self.absent and self.method != "clean":
      raise ValueError(
        f"absent={self.absent} with method {self.method!r}; only 'clean' takes "
        "modalities that are noise throughout."
      )
    if self.method == "gradient":
      # At 0 it would be replacement at three times the cost.
      if not 0 < self.scale < math.inf:
        raise ValueError(
          f"scale={self.scale} with method 'gradient'; give one above 0."
        )
    elif self.scale:
      raise ValueError(
        f"scale={self.scale} with method {self.method!r}; only 'gradient' "
        "takes a scale."
      )
    if (self.origin is None) != (self.strength is None):
      raise ValueError("origin and strength go together; give both.")
    if self.strength is not None and not 0 < self.strength <= 1:
      raise ValueError(
        f"strength={self.strength} must be above 0 and at most 1."
      )
    for name, default in (("resample_repeats", 4), ("resample_jump", 5)):
      value = getattr(self, name)
      if self.method != "resampling":
        if value is not None:
          raise ValueError(
            f"{name}={value} with method {self.method!r}; only 'resampling' "
            "takes it."
          )
      elif value is None:
        object.__setattr__(self, name, default)
      elif value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")

  def at(self, levels: str, last_t: int) -> "Condition":
    """The condition for a network that was trained with such noise levels.

    Raises:
      ValueError: where a modality is absent and the network cannot be told.
    """
    if self.absent and levels == "shared":
      raise ValueError(
        f"{' and '.join(self.absent)} cannot be left out: the network was "
        "trained with train.levels=shared; take one of mixed levels."
      )
    return dataclasses.replace(self, levels=levels, last_t=last_t)

  @property
  def resampling(self) -> tuple[int, int] | None:
    """Repeats and jump of the resampling method; None for the others."""
    if self.resample_repeats is None or self.resample_jump is None:
      return None
    return self.resample_repeats, self.resample_jump

  def bind(self, x: Mapping[str, jax.Array], keys: jax.Array) -> "Condition":
    """Completes the condition for one run.

    Args:
      x: the run's initial sample, which gives shapes and precision.
      keys: [B] keys of the samples, from which z is drawn.

    Returns:
      A condition with `known`, `mask` (bool) and, unless the method is
      "clean", `noise` for every modality.

    Raises:
      ValueError: if names or shapes do not fit x.
    """
    if not isinstance(x, Mapping):
      raise ValueError(
        f"a condition needs samples as a dict of modalities, got {type(x)}."
      )
    for what in ("known", "mask", "noise", "origin"):
      given = getattr(self, what) or {}
      allowed = self.known if what == "mask" else x
      if not set(given) <= set(allowed):
        raise ValueError(
          f"the condition's {what} names {sorted(given)}; allowed are "
          f"{sorted(allowed)}."
        )
    mask, known, noise = {}, {}, dict(self.noise or {})
    noised = self.method != "clean" or self.absent or self.origin is not None
    if set(noise) != set(x) and noised:
      noise = noise_lib.normal_like(keys, dict(x), noise_lib.KNOWN) | noise
    for name, leaf in x.items():
      if name in self.absent:
        mask[name], known[name] = jnp.ones(leaf.shape, bool), noise[name]
        continue
      value = self.known.get(name, jnp.zeros((), leaf.dtype))
      where = (self.mask or {}).get(name, name in self.known)
      mask[name] = _fit(f"mask[{name!r}]", where, leaf).astype(bool)
      # A value that is not known may be anything, NaN included.
      known[name] = jnp.where(
        mask[name], _fit(f"known[{name!r}]", value, leaf), 0
      ).astype(leaf.dtype)
    origin = None
    if self.origin is not None:
      origin = {
        name: _fit(
          f"origin[{name!r}]", self.origin.get(name, jnp.zeros(())), leaf
        )
        for name, leaf in x.items()
      }
    return dataclasses.replace(
      self, known=known, mask=mask, noise=noise, origin=origin
    )

  def known_at(self, alpha: jax.Array, sigma: jax.Array) -> Tree:
    """What takes the place of the known part before a network call.

    c, or c_t = alpha c + sigma z, at scalar or per-sample [B] alpha, sigma.
    """
    if self.method == "clean":
      return self.known
    return jax.tree.map(
      lambda c, z: expand_to(alpha, c) * c + expand_to(sigma, c) * z,
      self.known,
      self.noise,
    )

  def replace(
    self, x: Tree, alpha: jax.Array, sigma: jax.Array, t: jax.Array
  ) -> Tree:
    """Puts c or c_t in the place of the known part of x.

    Args:
      x: the sample.
      alpha: scale of the signal at the call, scalar or [B].
      sigma: scale of the noise there.
      t: step index there.
    """
    if self.origin is not None and self.strength is not None:
      early = jnp.asarray(t) > self.strength * self.last_t
      x = jax.tree.map(
        lambda a, c, z: jnp.where(
          expand_to(early, a),
          expand_to(alpha, a) * c + expand_to(sigma, a) * z,
          a,
        ),
        x,
        self.origin,
        self.noise,
      )
    return jax.tree.map(jnp.where, self.mask, self.known_at(alpha, sigma), x)

  def level(self, t: jax.Array) -> Any:
    """The step indices that the network is told.

    Args:
      t: step indices `[B]` of what is generated.

    Returns:
      `t`, or by modality `[B]` or `[B, F]` with 0 where all is known.
    """

    def told(name: str) -> int:
      return self.last_t if name in self.absent else 0

    if self.method != "clean" or self.levels == "shared":
      return t
    masks: dict[str, Any] = dict(self.mask or {})
    if self.levels == "stream":
      return {
        name: jnp.where(mask.all(tuple(range(1, mask.ndim))), told(name), t)
        for name, mask in masks.items()
      }
    frames = masks["video"].shape[1]
    return {
      name: jnp.where(_known_frames(mask, frames), told(name), t[:, None])
      for name, mask in masks.items()
    }

  def misfit(self, x: Tree, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
    """Sum over all known elements of (x - c_t)^2."""
    errors = jax.tree.map(
      lambda known, a, b: jnp.sum(jnp.where(known, a - b, 0) ** 2),
      self.mask,
      x,
      self.known_at(alpha, sigma),
    )
    return functools.reduce(operator.add, jax.tree.leaves(errors))

  def correct(self, x: Tree, gradient: Tree, strength: jax.Array) -> Tree:
    """Moves the unknown part of x by -strength * scale * gradient."""
    return jax.tree.map(
      lambda known, a, g: jnp.where(
        known, a, a - expand_to(strength * self.scale, a) * g
      ),
      self.mask,
      x,
      gradient,
    )

  def finish(self, x: Tree) -> Tree:
    """Returns x with the known part exactly as it was given."""
    return jax.tree.map(jnp.where, self.mask, self.known, x)


# The fields that are arrays; all others are options.
DATA_FIELDS = ("known", "mask", "noise", "origin")
# All that a configuration does not set.
NOT_OPTIONS = (*DATA_FIELDS, "levels", "absent", "last_t", "strength")

jax.tree_util.register_dataclass(
  Condition,
  data_fields=DATA_FIELDS,
  meta_fields=[
    field.name
    for field in dataclasses.fields(Condition)
    if field.name not in DATA_FIELDS
  ],
)


def _known_frames(mask: jax.Array, frames: int) -> jax.Array:
  """Frames of a modality of which every element is known: `[B, F]`."""
  by_step = mask.all(tuple(range(2, mask.ndim)))
  length = by_step.shape[1]
  if length == frames:
    return by_step
  member = np.eye(frames, dtype=bool)[frame_of(length, frames)]
  return ~(~by_step[:, :, None] & member).any(1)


def _fit(what: str, value: Array | bool, leaf: jax.Array) -> jax.Array:
  value = jnp.asarray(value)
  fits = value.ndim in (0, leaf.ndim) and all(
    a in (1, b) for a, b in zip(value.shape, leaf.shape, strict=False)
  )
  if not fits:
    raise ValueError(
      f"the condition's {what} has shape {value.shape}, the sample "
      f"{leaf.shape}; give that shape, or 1 for an axis to repeat."
    )
  return jnp.broadcast_to(value, leaf.shape)
