"""Gaussian diffusion on any pytree of modalities.

Every `x` is a tree of arrays [B, ...] that share the step `t` [B], which is an
index into the schedule's table (not the network's original index). The maths
runs in float32, or wider where x is wider.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.diffusion.schedule import Schedule

Tree = Any

PREDICTIONS = ("eps", "x_start")


class Prediction(NamedTuple):
  """The network's view of one step back; each field is a tree like x_t.

  Attributes:
    mean: mean of p(x_{t-1} | x_t).
    variance: its variance (broadcastable where it is fixed).
    log_variance: the logarithm of the variance.
    pred_xstart: the predicted clean sample.
  """

  mean: Tree
  variance: Tree
  log_variance: Tree
  pred_xstart: Tree


def expand_to(values: jax.Array, x: jax.Array) -> jax.Array:
  """Appends axes to `values` (scalar or [B]) until it broadcasts to x."""
  return values.reshape(values.shape + (1,) * (x.ndim - values.ndim))


def extract(table: np.ndarray, t: jax.Array, x: jax.Array) -> jax.Array:
  """Reads a float64 table at steps t [B], in x's precision, as [B, 1, ...]."""
  dtype = jnp.promote_types(x.dtype, jnp.float32)
  return expand_to(jnp.asarray(table, dtype)[t], x)


def q_sample(
  schedule: Schedule, x_start: Tree, t: jax.Array, noise: Tree
) -> Tree:
  """Draws x_t = sqrt(ab) x_start + sqrt(1 - ab) noise."""
  return jax.tree.map(
    lambda x, n: (
      extract(schedule.sqrt_alphas_cumprod, t, x) * x
      + extract(schedule.sqrt_one_minus_alphas_cumprod, t, x) * n
    ),
    x_start,
    noise,
  )


def predict_xstart_from_eps(
  schedule: Schedule, x_t: Tree, t: jax.Array, eps: Tree
) -> Tree:
  """Solves q_sample for x_start."""
  return jax.tree.map(
    lambda x, e: (
      extract(schedule.sqrt_recip_alphas_cumprod, t, x) * x
      - extract(schedule.sqrt_recipm1_alphas_cumprod, t, x) * e
    ),
    x_t,
    eps,
  )


def predict_eps_from_xstart(
  schedule: Schedule, x_t: Tree, t: jax.Array, x_start: Tree
) -> Tree:
  """Solves q_sample for the noise."""
  return jax.tree.map(
    lambda x, x0: (
      (extract(schedule.sqrt_recip_alphas_cumprod, t, x) * x - x0)
      / extract(schedule.sqrt_recipm1_alphas_cumprod, t, x)
    ),
    x_t,
    x_start,
  )


def q_posterior_mean_variance(
  schedule: Schedule, x_start: Tree, x_t: Tree, t: jax.Array
) -> tuple[Tree, Tree, Tree]:
  """Mean, variance and clipped log variance of q(x_{t-1} | x_t, x_start)."""
  mean = jax.tree.map(
    lambda x0, x: (
      extract(schedule.posterior_mean_coef1, t, x) * x0
      + extract(schedule.posterior_mean_coef2, t, x) * x
    ),
    x_start,
    x_t,
  )
  variance = jax.tree.map(
    lambda x: extract(schedule.posterior_variance, t, x), x_t
  )
  log_variance = jax.tree.map(
    lambda x: extract(schedule.posterior_log_variance_clipped, t, x), x_t
  )
  return mean, variance, log_variance


def split_output(
  output: Tree, x_t: Tree, learn_sigma: bool
) -> tuple[Tree, Tree | None]:
  """Splits a network's output into its prediction and variance values.

  Args:
    output: what the network returned; with `learn_sigma` its channels are
      doubled, prediction first.
    x_t: the network's input, whose precision the parts are cast to.
    learn_sigma: whether the network learns its variance.

  Returns:
    The prediction, and the variance values (None without `learn_sigma`).

  Raises:
    ValueError: if the number of channels does not fit `learn_sigma`.
  """
  factor = 2 if learn_sigma else 1

  def cast(out, x):
    channels = x.shape[-1]
    if out.shape != (*x.shape[:-1], factor * channels):
      raise ValueError(
        f"the network returned shape {out.shape} for an input of {x.shape}; "
        f"learn_sigma={learn_sigma} needs {factor * channels} channels."
      )
    return out.astype(jnp.promote_types(x.dtype, jnp.float32))

  output = jax.tree.map(cast, output, x_t)
  if not learn_sigma:
    return output, None
  first = jax.tree.map(lambda out: jnp.split(out, 2, axis=-1)[0], output)
  second = jax.tree.map(lambda out: jnp.split(out, 2, axis=-1)[1], output)
  return first, second


def validate_prediction(kind: str) -> None:
  """Raises ValueError unless `kind` names a thing that networks predict."""
  if kind not in PREDICTIONS:
    raise ValueError(
      f"unknown prediction {kind!r}; allowed are {', '.join(PREDICTIONS)}."
    )


def predict_xstart(
  schedule: Schedule, prediction: Tree, x_t: Tree, t: jax.Array, kind: str
) -> Tree:
  """The clean sample that a prediction of `kind` (eps | x_start) implies."""
  validate_prediction(kind)
  if kind == "x_start":
    return prediction
  return predict_xstart_from_eps(schedule, x_t, t, prediction)


def clip_unit(x: Tree) -> Tree:
  """Clips every modality to the data's range [-1, 1]."""
  return jax.tree.map(lambda leaf: jnp.clip(leaf, -1.0, 1.0), x)


def p_mean_variance(
  schedule: Schedule,
  output: Tree,
  x_t: Tree,
  t: jax.Array,
  *,
  learn_sigma: bool = False,
  prediction: str = "eps",
  clip_denoised: bool = True,
) -> Prediction:
  """Turns a network's output at x_t into p(x_{t-1} | x_t).

  Args:
    schedule: the (possibly respaced) schedule.
    output: the network's output, channels doubled with `learn_sigma`.
    x_t: tree of [B, ...] noisy samples.
    t: [B] table indices.
    learn_sigma: learned-range variance (Nichol & Dhariwal 2021, eq. 15)
      instead of fixed large.
    prediction: "eps" or "x_start".
    clip_denoised: clip the predicted x_start to [-1, 1].

  Returns:
    Mean, variance, log variance and predicted x_start.
  """
  output, values = split_output(output, x_t, learn_sigma)
  pred_xstart = predict_xstart(schedule, output, x_t, t, prediction)
  if clip_denoised:
    pred_xstart = clip_unit(pred_xstart)
  mean, _, min_log = q_posterior_mean_variance(schedule, pred_xstart, x_t, t)
  if learn_sigma:
    max_log = np.log(schedule.betas)
    log_variance = jax.tree.map(
      lambda v, low: (v + 1) / 2 * extract(max_log, t, v) + (1 - v) / 2 * low,
      values,
      min_log,
    )
  else:
    fixed_log = np.log(schedule.fixed_large_variance)
    log_variance = jax.tree.map(lambda x: extract(fixed_log, t, x), x_t)
  variance = jax.tree.map(jnp.exp, log_variance)
  return Prediction(mean, variance, log_variance, pred_xstart)


def ddpm_step(p: Prediction, t: jax.Array, noise: Tree) -> Tree:
  """Samples x_{t-1} ~ p(x_{t-1} | x_t); at t=0 its mean, without noise."""
  return jax.tree.map(
    lambda mean, log_variance, n: (
      mean + expand_to(t > 0, n) * jnp.exp(0.5 * log_variance) * n
    ),
    p.mean,
    p.log_variance,
    noise,
  )


def ddim_step(
  schedule: Schedule,
  pred_xstart: Tree,
  x_t: Tree,
  t: jax.Array,
  noise: Tree | None = None,
  eta: float = 0.0,
) -> Tree:
  """One DDIM step (Song et al. 2021, arXiv 2010.02502, eq. 12).

  Args:
    schedule: the (possibly respaced) schedule.
    pred_xstart: predicted (clipped) clean sample; eps is recomputed from it.
    x_t: tree of [B, ...] noisy samples.
    t: [B] table indices.
    noise: tree like x_t; None where eta is 0.
    eta: 0 is deterministic, 1 has the posterior's variance.

  Returns:
    The sample one table step lower; at t=0 no noise is added.
  """
  eps = predict_eps_from_xstart(schedule, x_t, t, pred_xstart)
  ab, ab_prev = schedule.alphas_cumprod, schedule.alphas_cumprod_prev
  # Zero at t=0, where ab_prev is 1.
  sigma = eta * np.sqrt((1 - ab_prev) / (1 - ab) * (1 - ab / ab_prev))
  direction = np.sqrt(1 - ab_prev - sigma**2)
  mean = jax.tree.map(
    lambda x0, e: (
      extract(np.sqrt(ab_prev), t, x0) * x0 + extract(direction, t, x0) * e
    ),
    pred_xstart,
    eps,
  )
  if eta == 0:
    return mean
  return jax.tree.map(lambda m, n: m + extract(sigma, t, n) * n, mean, noise)
