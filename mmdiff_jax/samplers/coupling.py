"""Coupling guidance: every stream is guided by what the others add to it."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmdiff_jax.diffusion import gaussian
from mmdiff_jax.samplers.base import DenoiseFn, Tree


def check_scales(scales: Mapping[str, float]) -> None:
  """Raises ValueError unless every scale is a finite number."""
  for name, scale in scales.items():
    if not math.isfinite(scale):
      raise ValueError(
        f"config.sample.coupling_{name}={scale}; give a finite number."
      )


def coupled(
  denoise_fn: DenoiseFn,
  scales: Mapping[str, float],
  noise: Mapping[str, jax.Array],
  last_t: int,
  *,
  learn_sigma: bool = False,
) -> DenoiseFn:
  """Guides a joint denoiser by the difference that the other streams make.

  The uncoupled prediction of a stream is the network's own where the other
  streams are noise at the last step; the guided one is uncoupled + scale *
  (joint - uncoupled), as in classifier-free guidance, so that no second
  network is needed. The network must have been trained with noise levels per
  stream, some of them at the last step (`train.level_shares.pure_noise`).

  Args:
    denoise_fn: a denoiser of batches [K * B, ...], K = `num_calls(scales)`, in
      which the K variants of a sample are neighbours.
    scales: of the streams that are guided; 1 is the joint prediction.
    noise: `[B, ...]` what takes the place of a stream, by name.
    last_t: step index of pure noise.
    learn_sigma: whether the network's channels are doubled; the variance is
      the joint one, unguided.

  Returns:
    A denoiser of batches [B, ...], at one network call of K times the batch.
  """
  check_scales(scales)
  guided_streams = tuple(scales)
  count = num_calls(scales)

  def variants(name: str, value: jax.Array, other: jax.Array) -> jax.Array:
    """The joint value, then that in the uncoupled call of each stream."""
    rows = [value] + [value if name == g else other for g in guided_streams]
    return jnp.stack(rows, 1).reshape(-1, *value.shape[1:])

  def guided(x_t: Tree, t: Any, rng: jax.Array) -> Tree:
    if not isinstance(t, Mapping):
      t = dict.fromkeys(x_t, t)
    x_all = {name: variants(name, x_t[name], noise[name]) for name in x_t}
    t_all = {
      name: variants(name, t[name], jnp.full_like(t[name], last_t))
      for name in x_t
    }
    output, variance = gaussian.split_output(
      denoise_fn(x_all, t_all, rng), x_all, learn_sigma
    )
    result = {}
    for name, value in output.items():
      rows = value.reshape(-1, count, *value.shape[1:])
      result[name] = rows[:, 0]
      if name in scales:
        alone = rows[:, 1 + guided_streams.index(name)]
        result[name] = alone + scales[name] * (rows[:, 0] - alone)
      if variance is not None:
        kept = variance[name].reshape(rows.shape)[:, 0]
        result[name] = jnp.concatenate([result[name], kept], -1)
    return result

  return guided


def num_calls(scales: Mapping[str, float]) -> int:
  """Variants of a sample that one call of the network computes."""
  return 1 + len(scales)
