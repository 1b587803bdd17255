"""Transforms of a denoiser: whatever solver calls it is guided by them."""

import math

import jax
import jax.numpy as jnp

from mmdiff_jax.diffusion import gaussian
from mmdiff_jax.samplers.base import DenoiseFn, Tree


def classifier_free(
  denoise_fn: DenoiseFn, scale: float, *, learn_sigma: bool = False
) -> DenoiseFn:
  """Guides a denoiser by the difference that its condition makes.

  Ho & Salimans 2021 (arXiv 2207.12598), eq. 6 with w = scale - 1: the
  prediction is uncond + scale * (cond - uncond). It is linear in a prediction
  of eps, x_start or v, so that all of them are guided alike.

  Args:
    denoise_fn: a denoiser of batches [2B, ...] in which every sample stands
      twice, as neighbours: first conditioned, then unconditioned. Neighbours,
      because they lie on one device where the batch is split over several.
    scale: 0 is unconditioned, 1 is conditioned, more exaggerates.
    learn_sigma: whether the network's channels are doubled; the variance is
      the conditioned one, unguided.

  Returns:
    A denoiser of batches [B, ...], at one network call of twice the batch.

  Raises:
    ValueError: if the scale is not finite.
  """
  if not math.isfinite(scale):
    raise ValueError(f"guidance scale={scale}; give a finite number.")

  def extrapolate(output: jax.Array) -> jax.Array:
    pairs = _pairs(output)
    conditioned, unconditioned = pairs[:, 0], pairs[:, 1]
    return unconditioned + scale * (conditioned - unconditioned)

  def guided(x_t: Tree, t: jax.Array, rng: jax.Array) -> Tree:
    x_twice, t_twice = jax.tree.map(
      lambda leaf: jnp.repeat(leaf, 2, axis=0), (x_t, t)
    )
    output, variance = gaussian.split_output(
      denoise_fn(x_twice, t_twice, rng), x_twice, learn_sigma
    )
    prediction = jax.tree.map(extrapolate, output)
    if not learn_sigma:
      return prediction
    return jax.tree.map(
      lambda mean, v: jnp.concatenate([mean, _pairs(v)[:, 0]], axis=-1),
      prediction,
      variance,
    )

  return guided


def _pairs(x: jax.Array) -> jax.Array:
  """[2B, ...] -> [B, 2, ...]."""
  return x.reshape(-1, 2, *x.shape[1:])
