"""Gaussian data, for which denoiser and trajectories are known in closed form.

Data ~ N(MEAN, STD^2) per element. At alpha, sigma the marginal has variance
v = alpha^2 STD^2 + sigma^2, and the probability-flow ODE keeps
(x - alpha MEAN) / sqrt(v) constant.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.diffusion import Schedule
from mmdiff_jax.diffusion.schedule import RectifiedFlow

MEAN, STD = 0.3, 0.5


def linear_lambda_schedule(cells, start=-2.0, end=2.0):
  """A table whose lambda falls linearly, so that grids fall on its entries."""
  lambdas = np.linspace(end, start, cells + 1)
  ab = 1 / (1 + np.exp(-2 * lambdas))
  return Schedule(1 - ab / np.append(1.0, ab[:-1]))


def linear_lambda_flow(cells, start=-2.0, end=2.0):
  """The same of rectified flow."""
  lambdas = np.linspace(end, start, cells + 1)
  return RectifiedFlow(1 / (1 + np.exp(lambdas)), np.arange(cells + 1))


def make_denoiser(process, mean=MEAN, std=STD, prediction="eps"):
  """The exact E[prediction | x_t] of every modality, at table entries t."""

  def denoise_fn(x, t, rng):
    del rng

    def leaf(x):
      alpha, sigma = (
        jnp.asarray(table, x.dtype)[t].reshape(-1, *(1,) * (x.ndim - 1))
        for table in (process.alpha, process.sigma)
      )
      unit = (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)
      eps, x_start = sigma * unit, mean + alpha * std**2 * unit
      return {
        "eps": eps,
        "x_start": x_start,
        "v": alpha * eps - sigma * x_start,
        "velocity": eps - x_start,
      }[prediction]

    return jax.tree.map(leaf, x)

  return denoise_fn


def flow(process, x, start=-1, end=0, mean=MEAN, std=STD):
  """The exact solution at table entry `end` from x at entry `start`."""
  alpha = process.alpha
  v = alpha**2 * std**2 + process.sigma**2
  unit = (x - alpha[start] * mean) / np.sqrt(v[start])
  return alpha[end] * mean + np.sqrt(v[end]) * unit
