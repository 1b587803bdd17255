"""Training losses, per sample and per modality."""

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.diffusion import gaussian
from mmdiff_jax.diffusion.process import Process, check_prediction

Tree = Any
DenoiseFn = Callable[[Tree, Tree, jax.Array | None], Tree]

LOSSES = ("mse", "mse_vb", "rescaled_mse_vb")


def mean_flat(x: jax.Array, clean: jax.Array | None = None) -> jax.Array:
  """Mean over all axes but the batch, where `clean` counts as 0: -> [B]."""
  if clean is not None:
    x = jnp.where(clean, 0.0, x)
  return jnp.mean(x, axis=tuple(range(1, x.ndim)))


def normal_kl(
  mean1: jax.Array, logvar1: jax.Array, mean2: jax.Array, logvar2: jax.Array
) -> jax.Array:
  """KL(N(mean1, e^logvar1) || N(mean2, e^logvar2)) in nats, elementwise."""
  return 0.5 * (
    logvar2
    - logvar1
    - 1.0
    + jnp.exp(logvar1 - logvar2)
    + (mean1 - mean2) ** 2 * jnp.exp(-logvar2)
  )


def _approximate_normal_cdf(y: jax.Array) -> jax.Array:
  cubic = y + 0.044715 * y**3
  return 0.5 * (1.0 + jnp.tanh(np.sqrt(2.0 / np.pi) * cubic))


def discretized_gaussian_log_likelihood(
  x: jax.Array, mean: jax.Array, log_scale: jax.Array
) -> jax.Array:
  """Log probability in nats of 8-bit values x in [-1, 1], elementwise.

  Each value owns the bin x +- 1/255; the outermost bins are open.

  Args:
    x: targets in [-1, 1].
    mean: means of the Gaussian.
    log_scale: logarithms of its standard deviation.

  Returns:
    Log probabilities, probabilities floored at 1e-12.
  """
  inverse_std = jnp.exp(-log_scale)
  cdf_plus = _approximate_normal_cdf(inverse_std * (x - mean + 1.0 / 255.0))
  cdf_minus = _approximate_normal_cdf(inverse_std * (x - mean - 1.0 / 255.0))
  probability = jnp.where(
    x < -0.999,
    cdf_plus,
    jnp.where(x > 0.999, 1.0 - cdf_minus, cdf_plus - cdf_minus),
  )
  return jnp.log(jnp.maximum(probability, 1e-12))


def variational_bound(
  process: Process,
  output: Tree,
  x_start: Tree,
  x_t: Tree,
  t: Tree,
  prediction: str = "eps",
  clean: Tree | None = None,
) -> Tree:
  """One term of the variational bound, in bits per element, [B] per modality.

  KL(q(x_{t-1}|x_t,x_start) || p(x_{t-1}|x_t)) for t > 0 and the discretised
  negative log likelihood at t = 0 (Ho et al. 2020, eq. 5).

  Args:
    process: the process.
    output: the network's output with doubled channels.
    x_start: clean samples.
    x_t: noisy samples.
    t: table indices [B], of all modalities or by modality.
    prediction: one of `process.PREDICTIONS`.
    clean: see `training_losses`.

  Returns:
    Tree of [B] arrays.
  """
  p = gaussian.p_mean_variance(
    process,
    output,
    x_t,
    t,
    learn_sigma=True,
    prediction=prediction,
    clip_denoised=False,
  )
  q_mean, _, q_log = gaussian.q_posterior_mean_variance(
    process, x_start, x_t, t
  )

  def bound(x0, mean, log_variance, true_mean, true_log, t, clean):
    kl = mean_flat(normal_kl(true_mean, true_log, mean, log_variance), clean)
    nll = -mean_flat(
      discretized_gaussian_log_likelihood(x0, mean, 0.5 * log_variance), clean
    )
    return jnp.where(t == 0, nll, kl) / np.log(2.0)

  return jax.tree.map(
    bound,
    x_start,
    p.mean,
    p.log_variance,
    q_mean,
    q_log,
    gaussian.by_leaf(t, x_start),
    _by_leaf(clean, x_start),
  )


def _by_leaf(clean: Tree | None, x: Tree) -> Tree:
  return jax.tree.map(lambda _: None, x) if clean is None else clean


def validate_loss(loss: str, learn_sigma: bool) -> None:
  """Raises ValueError unless the loss trains every output of the network."""
  allowed = LOSSES[1:] if learn_sigma else LOSSES[:1]
  if loss not in allowed:
    raise ValueError(
      f"loss {loss!r} with learn_sigma={learn_sigma}; allowed are "
      f"{', '.join(allowed)} (a learned variance is trained by the bound "
      "alone, and the bound needs a learned variance)."
    )


def training_losses(
  denoise_fn: DenoiseFn,
  process: Process,
  x_start: Tree,
  t: Tree,
  noise: Tree,
  *,
  loss: str = "mse",
  learn_sigma: bool = False,
  prediction: str = "eps",
  rng: jax.Array | None = None,
  weights: Mapping[str, float] | None = None,
  clean: Tree | None = None,
) -> dict[str, Any]:
  """Loss terms of one batch.

  Args:
    denoise_fn: `(x_t, t_original, rng) -> output` tree.
    process: the training process.
    x_start: tree of clean samples [B, ...] in [-1, 1].
    t: int32 table indices [B], of all modalities or by modality.
    noise: tree of standard normal noise like x_start.
    loss: "mse"; with a learned variance "mse_vb" or "rescaled_mse_vb", which
      multiplies the bound by T/1000.
    learn_sigma: whether the network's channels are doubled.
    prediction: what the network predicts, one of `process.PREDICTIONS`.
    rng: handed on to `denoise_fn`.
    weights: weight of each modality in "loss"; None weighs all by 1.
    clean: true where a modality is known, arrays that broadcast against
      x_start: it enters as it is, and its loss is 0. None: nowhere.

  Returns:
    `{"loss": [B], "mse": tree of [B]}`, and with a learned variance
    `"vb"`: tree of [B] (bits, after rescaling). "loss" is the weighted sum
    over modalities of all terms.

  Raises:
    ValueError: for a loss that does not fit `learn_sigma`, a prediction that
      the process rules out, or weights that are not one per modality.
  """
  validate_loss(loss, learn_sigma)
  kind = check_prediction(prediction, process)
  x_t = gaussian.q_sample(process, x_start, t, noise)
  if clean is not None:
    x_t = jax.tree.map(jnp.where, clean, x_start, x_t)
  timestep_map = jnp.asarray(process.timestep_map, jnp.int32)
  output = denoise_fn(x_t, jax.tree.map(lambda t: timestep_map[t], t), rng)
  predicted, values = gaussian.split_output(output, x_t, learn_sigma)
  target = jax.tree.map(
    lambda x, n, t: kind.target(
      x,
      n,
      gaussian.extract(process.alpha, t, x),
      gaussian.extract(process.sigma, t, x),
    ),
    x_start,
    noise,
    gaussian.by_leaf(t, x_start),
  )
  mse = jax.tree.map(
    lambda a, b, known: mean_flat((a - b) ** 2, known),
    target,
    predicted,
    _by_leaf(clean, x_start),
  )
  terms = {"mse": mse}
  if learn_sigma:
    # The bound trains the variance alone: it may not move the prediction.
    frozen = jax.tree.map(
      lambda mean, v: jnp.concatenate([jax.lax.stop_gradient(mean), v], -1),
      predicted,
      values,
    )
    scale = process.num_timesteps / 1000.0 if loss.startswith("re") else 1.0
    terms["vb"] = jax.tree.map(
      lambda bound: scale * bound,
      variational_bound(process, frozen, x_start, x_t, t, prediction, clean),
    )
  return {"loss": _weighted_sum(terms, weights), **terms}


def _weighted_sum(
  terms: dict[str, Tree], weights: Mapping[str, float] | None
) -> jax.Array:
  if weights is None:
    return functools.reduce(operator.add, jax.tree.leaves(terms))
  for name, modalities in terms.items():
    if set(weights) != set(modalities):
      raise ValueError(
        f"weights are given for {sorted(weights)} but the batch has "
        f"{sorted(modalities)} ({name}); give one weight per modality."
      )
  return sum(
    weights[modality] * term
    for modalities in terms.values()
    for modality, term in modalities.items()
  )
