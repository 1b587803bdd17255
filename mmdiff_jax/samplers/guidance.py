"""Transforms of a denoiser: whatever solver calls it is guided by them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.diffusion import gaussian
from mmdiff_jax.diffusion.process import Process
from mmdiff_jax.samplers.base import DenoiseFn, Tree

# Which samples are guided at their noise levels: t [B] -> bool [B], or both by
# stream.
Inside = Callable[[Any], Any]


def classifier_free(
  denoise_fn: DenoiseFn,
  scale: float,
  *,
  learn_sigma: bool = False,
  inside: Inside | None = None,
  alone: DenoiseFn | None = None,
) -> DenoiseFn:
  """Guides a denoiser by the difference that its condition makes.

  Ho & Salimans 2021 (arXiv 2207.12598), eq. 6 with w = scale - 1: the
  prediction is uncond + scale * (cond - uncond). All predictions are linear in
  the output, so that all of them are guided alike.

  Args:
    denoise_fn: a denoiser of batches [2B, ...] in which every sample stands
      twice, as neighbours: first conditioned, then unconditioned. Neighbours,
      because they lie on one device where the batch is split over several.
    scale: 0 is unconditioned, 1 is conditioned, more exaggerates.
    learn_sigma: whether the network's channels are doubled; the variance is
      the conditioned one, unguided.
    inside: which samples are guided, the others being conditioned alone; None
      guides all at all times. See `noise_interval`.
    alone: the conditioned denoiser of batches [B, ...], called where no sample
      is guided; None calls `denoise_fn` there too. It is needed with `inside`.

  Returns:
    A denoiser of batches [B, ...], at one network call of twice the batch.

  Raises:
    ValueError: if the scale is not finite.
  """
  if not math.isfinite(scale):
    raise ValueError(f"guidance scale={scale}; give a finite number.")

  def guided(x_t: Tree, t: Any, rng: jax.Array) -> Tree:
    x_twice, t_twice = jax.tree.map(
      lambda leaf: jnp.repeat(leaf, 2, axis=0), (x_t, t)
    )
    output, variance = gaussian.split_output(
      denoise_fn(x_twice, t_twice, rng), x_twice, learn_sigma
    )

    def extrapolate(
      output: jax.Array, chosen: jax.Array | None = None
    ) -> jax.Array:
      pairs = _pairs(output)
      conditioned, unconditioned = pairs[:, 0], pairs[:, 1]
      out = unconditioned + scale * (conditioned - unconditioned)
      if chosen is None:
        return out
      return jnp.where(gaussian.expand_to(chosen, out), out, conditioned)

    if inside is None:
      prediction = jax.tree.map(extrapolate, output)
    else:
      chosen = gaussian.by_leaf(inside(t), x_t)
      prediction = jax.tree.map(extrapolate, output, chosen)
    if not learn_sigma:
      return prediction
    return jax.tree.map(
      lambda mean, v: jnp.concatenate([mean, _pairs(v)[:, 0]], axis=-1),
      prediction,
      variance,
    )

  if inside is None or alone is None:
    return guided

  def limited(x_t: Tree, t: Any, rng: jax.Array) -> Tree:
    def conditioned(x_t: Tree, t: Any, rng: jax.Array) -> Tree:
      return jax.tree.map(
        lambda out, x: out.astype(jnp.promote_types(x.dtype, jnp.float32)),
        alone(x_t, t, rng),
        x_t,
      )

    chosen = jnp.stack(jax.tree.leaves(inside(t)))
    return jax.lax.cond(chosen.any(), guided, conditioned, x_t, t, rng)

  return limited


def check_interval(interval: Sequence[float], name: str) -> tuple[float, float]:
  """Returns an interval of noise levels.

  Raises:
    ValueError: unless it is two numbers, 0 <= low < high.
  """
  values = tuple(interval)
  if len(values) != 2 or not 0 <= values[0] < values[1]:
    raise ValueError(
      f"{name}={values}; give two numbers, 0 <= low < high: the noise levels "
      "sigma / alpha between which guidance applies, such as 0.2,2."
    )
  return values


def noise_interval(process: Process, interval: Sequence[float]) -> Inside:
  """Limits guidance to an interval of noise levels.

  Kynkaanniemi et al. 2024 (arXiv 2404.07724): guidance harms where the noise
  is high and does nothing where it is low. Their sigma is that of the variance
  exploding process; of any process it is sigma / alpha.

  Args:
    process: that the network was trained with.
    interval: low and high: guided are low < sigma / alpha <= high.

  Returns:
    Which samples are guided at step indices t [B]. Where t is by stream, [B]
    or [B, F], every stream is guided by its own level, that of its noisiest
    frame.
  """
  low, high = check_interval(interval, "cfg_interval")
  with np.errstate(divide="ignore"):
    level = process.sigma / process.alpha
  table = jnp.asarray((level > low) & (level <= high))

  def inside(t: Any) -> Any:
    return jax.tree.map(
      lambda leaf: table[leaf.reshape(leaf.shape[0], -1).max(axis=1)], t
    )

  return inside


def _pairs(x: jax.Array) -> jax.Array:
  """[2B, ...] -> [B, 2, ...]."""
  return x.reshape(-1, 2, *x.shape[1:])
