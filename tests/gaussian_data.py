"""Gaussian data, for which denoiser and trajectories are known in closed form.

Data ~ N(MEAN, STD^2) per element. At alpha, sigma the marginal has variance
v = alpha^2 STD^2 + sigma^2, and the probability-flow ODE keeps
(x - alpha MEAN) / sqrt(v) constant.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.diffusion import Schedule

MEAN, STD = 0.3, 0.5


def linear_lambda_schedule(cells, start=-2.0, end=2.0):
  """A table whose lambda falls linearly, so that grids fall on its entries."""
  lambdas = np.linspace(end, start, cells + 1)
  ab = 1 / (1 + np.exp(-2 * lambdas))
  return Schedule(1 - ab / np.append(1.0, ab[:-1]))


def make_denoiser(schedule, mean=MEAN, std=STD):
  """The exact eps(x, t) = E[noise | x_t] of every modality."""
  ab = schedule.alphas_cumprod

  def denoise_fn(x, t, rng):
    del rng

    def leaf(x):
      table = jnp.asarray(ab, x.dtype)[t].reshape(-1, *(1,) * (x.ndim - 1))
      variance = table * std**2 + 1 - table
      return jnp.sqrt(1 - table) * (x - jnp.sqrt(table) * mean) / variance

    return jax.tree.map(leaf, x)

  return denoise_fn


def flow(schedule, x, start=-1, end=0, mean=MEAN, std=STD):
  """The exact solution at table entry `end` from x at entry `start`."""
  ab = schedule.alphas_cumprod
  v = ab * std**2 + 1 - ab
  unit = (x - np.sqrt(ab[start]) * mean) / np.sqrt(v[start])
  return np.sqrt(ab[end]) * mean + np.sqrt(v[end]) * unit
