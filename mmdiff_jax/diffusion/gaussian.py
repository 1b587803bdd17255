"""Steps of a Gaussian process, on any pytree of modalities.

Every `x` is a tree of arrays [B, ...]. The step `t` is an index into the
process's table (not the network's original index): an array [B] for all
modalities, or a tree like x of arrays whose axes lead those of x. The maths
runs in float32, or wider where x is wider.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.diffusion.process import Process, check_prediction, noise_of

Tree = Any


class Transition(NamedTuple):
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
  """Appends axes to `values` (scalar, [B], ...) until it broadcasts to x."""
  return values.reshape(values.shape + (1,) * (x.ndim - values.ndim))


def extract(table: np.ndarray, t: jax.Array, x: jax.Array) -> jax.Array:
  """Reads a float64 table at steps t [B], in x's precision, as [B, 1, ...]."""
  dtype = jnp.promote_types(x.dtype, jnp.float32)
  return expand_to(jnp.asarray(table, dtype)[t], x)


def by_leaf(t: Tree, x: Tree) -> Tree:
  """The steps of every leaf of x: one array serves all of them."""
  if isinstance(t, jax.Array | np.ndarray):
    return jax.tree.map(lambda _: t, x)
  return t


def q_sample(process: Process, x_start: Tree, t: Tree, noise: Tree) -> Tree:
  """Draws x_t = alpha_t x_start + sigma_t noise."""
  return jax.tree.map(
    lambda x, n, t: (
      extract(process.alpha, t, x) * x + extract(process.sigma, t, x) * n
    ),
    x_start,
    noise,
    by_leaf(t, x_start),
  )


def predict_xstart(
  process: Process, output: Tree, x_t: Tree, t: Tree, prediction: str
) -> Tree:
  """The clean sample that a network's output implies."""
  kind = check_prediction(prediction)
  return jax.tree.map(
    lambda out, x, t: kind.to_x_start(
      out, x, extract(process.alpha, t, x), extract(process.sigma, t, x)
    ),
    output,
    x_t,
    by_leaf(t, x_t),
  )


def q_posterior_mean_variance(
  process: Process, x_start: Tree, x_t: Tree, t: Tree
) -> tuple[Tree, Tree, Tree]:
  """Mean, variance and clipped log variance of q(x_{t-1} | x_t, x_start)."""
  t = by_leaf(t, x_t)

  def read(table: np.ndarray) -> Tree:
    return jax.tree.map(lambda x, t: extract(table, t, x), x_t, t)

  mean = jax.tree.map(
    lambda x0, x, a, b: a * x0 + b * x,
    x_start,
    x_t,
    read(process.posterior_mean_coef1),
    read(process.posterior_mean_coef2),
  )
  variance = read(process.posterior_variance)
  return mean, variance, read(process.posterior_log_variance_clipped)


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


def clip_unit(x: Tree) -> Tree:
  """Clips every modality to the data's range [-1, 1]."""
  return jax.tree.map(lambda leaf: jnp.clip(leaf, -1.0, 1.0), x)


def p_mean_variance(
  process: Process,
  output: Tree,
  x_t: Tree,
  t: Tree,
  *,
  learn_sigma: bool = False,
  prediction: str = "eps",
  clip_denoised: bool = True,
) -> Transition:
  """Turns a network's output at x_t into p(x_{t-1} | x_t).

  Args:
    process: the (possibly respaced) process.
    output: the network's output, channels doubled with `learn_sigma`.
    x_t: tree of [B, ...] noisy samples.
    t: table indices.
    learn_sigma: learned-range variance (Nichol & Dhariwal 2021, eq. 15)
      instead of fixed large.
    prediction: one of `process.PREDICTIONS`.
    clip_denoised: clip the predicted x_start to [-1, 1].

  Returns:
    Mean, variance, log variance and predicted x_start.
  """
  output, values = split_output(output, x_t, learn_sigma)
  pred_xstart = predict_xstart(process, output, x_t, t, prediction)
  if clip_denoised:
    pred_xstart = clip_unit(pred_xstart)
  mean, _, min_log = q_posterior_mean_variance(process, pred_xstart, x_t, t)
  t = by_leaf(t, x_t)
  if learn_sigma:
    max_log = np.log(process.step_variance)
    log_variance = jax.tree.map(
      lambda v, low, t: (
        (v + 1) / 2 * extract(max_log, t, v) + (1 - v) / 2 * low
      ),
      values,
      min_log,
      t,
    )
  else:
    fixed_log = np.log(process.fixed_large_variance)
    log_variance = jax.tree.map(lambda x, t: extract(fixed_log, t, x), x_t, t)
  variance = jax.tree.map(jnp.exp, log_variance)
  return Transition(mean, variance, log_variance, pred_xstart)


def ddpm_step(p: Transition, t: Tree, noise: Tree) -> Tree:
  """Samples x_{t-1} ~ p(x_{t-1} | x_t); at t=0 its mean, without noise."""
  return jax.tree.map(
    lambda mean, log_variance, n, t: (
      mean + expand_to(t > 0, n) * jnp.exp(0.5 * log_variance) * n
    ),
    p.mean,
    p.log_variance,
    noise,
    by_leaf(t, noise),
  )


def ddim_step(
  process: Process,
  pred_xstart: Tree,
  x_t: Tree,
  t: Tree,
  noise: Tree | None = None,
  eta: float = 0.0,
) -> Tree:
  """One DDIM step (Song et al. 2021, arXiv 2010.02502, eq. 12).

  Args:
    process: the (possibly respaced) process.
    pred_xstart: predicted (clipped) clean sample; eps is recomputed from it.
    x_t: tree of [B, ...] noisy samples.
    t: table indices.
    noise: tree like x_t; None where eta is 0.
    eta: 0 is deterministic, 1 has the posterior's variance.

  Returns:
    The sample one table step lower; at t=0 no noise is added.
  """
  # Zero at t=0, where no noise is left before the step.
  sigma = eta * np.sqrt(process.posterior_variance)
  direction = np.sqrt(process.variance_prev - sigma**2)

  def leaf(x0: jax.Array, x: jax.Array, t: jax.Array) -> jax.Array:
    alpha, scale = (extract(v, t, x) for v in (process.alpha, process.sigma))
    eps = noise_of(x0, x, alpha, scale)
    return (
      extract(process.alpha_prev, t, x) * x0 + extract(direction, t, x) * eps
    )

  t = by_leaf(t, x_t)
  mean = jax.tree.map(leaf, pred_xstart, x_t, t)
  if eta == 0:
    return mean
  return jax.tree.map(
    lambda m, n, t: m + extract(sigma, t, n) * n, mean, noise, t
  )
