"""One step of the process: published numbers, Bayes by hand, round trips."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax.diffusion import gaussian, make_process, make_schedule
from mmdiff_jax.diffusion.process import noise_of
from tests.diffusion_golden import (
  NOISE,
  X_START,
  X,
  assert_close,
  golden,
  make_toy,
)

SCHEDULE = make_schedule("linear", 1000)
VARIANCES = {"fixed_large": False, "learned_range": True}
STEPS = [0, 1, 400, 999]


@functools.cache
def _one_step(learn_sigma):
  """Everything the goldens say about a step, compiled once for all t."""
  denoise_fn = make_toy(learn_sigma)

  @jax.jit
  def run(t):
    output = denoise_fn(X, t, None)
    p = gaussian.p_mean_variance(
      SCHEDULE, output, X, t, learn_sigma=learn_sigma
    )
    ddim = {
      f"eta{eta}": gaussian.ddim_step(SCHEDULE, p.pred_xstart, X, t, NOISE, eta)
      for eta in (0.0, 1.0)
    }
    return p, gaussian.ddpm_step(p, t, NOISE), ddim

  return run


@pytest.mark.parametrize("t", STEPS)
@pytest.mark.parametrize("variance", VARIANCES)
def test_steps_equal_the_published_ones(variance, t):
  p, sample, ddim = _one_step(VARIANCES[variance])(jnp.full(2, t))
  for what, tree in p._asdict().items():
    tree = jax.tree.map(lambda a, x: jnp.broadcast_to(a, x.shape), tree, X)
    assert_close(tree, golden(f"p_mean_variance/{variance}/{t}/{what}"), 1e-5)
  assert_close(sample, golden(f"p_sample/{variance}/{t}"), 1e-5)
  for eta, tree in ddim.items():
    # The published step at t=1 was computed from float32 tables.
    tolerance = 5e-4 if t == 1 else 1e-5
    assert_close(tree, golden(f"ddim/{variance}/{eta}/{t}"), tolerance)


@pytest.mark.parametrize("t", STEPS)
def test_q_sample_equals_the_published_one(t):
  x_t = gaussian.q_sample(SCHEDULE, X_START, jnp.full(2, t), NOISE)
  assert_close(x_t, golden(f"q_sample/{t}"), 1e-5)


def test_samples_of_a_batch_use_their_own_step():
  t = jnp.array([3, 700])
  both = gaussian.q_sample(SCHEDULE, X_START, t, NOISE)
  for i in range(2):
    one = gaussian.q_sample(SCHEDULE, X_START, t[i] * jnp.ones(2, int), NOISE)
    for m in both:
      np.testing.assert_array_equal(both[m][i], one[m][i])


def _forward(process, t):
  """Scale of x_{t-1} in x_t, noise that the step adds, scales before it."""
  if process is SCHEDULE:
    beta, ab_prev = SCHEDULE.betas[t], SCHEDULE.alphas_cumprod_prev[t]
    return np.sqrt(1 - beta), beta, np.sqrt(ab_prev), 1 - ab_prev
  s, before = (t + 1) / 1000, t / 1000
  scale = (1 - s) / (1 - before)
  return scale, s**2 - (scale * before) ** 2, 1 - before, before**2


@pytest.mark.parametrize("t", [1, 10, 500, 999])
@pytest.mark.parametrize("process", [SCHEDULE, make_process("flow")])
def test_posterior_is_bayes_rule_for_gaussians(process, t):
  # q(x_{t-1}|x_t,x_0) ~ q(x_t|x_{t-1}) q(x_{t-1}|x_0): precisions add up.
  scale, added, alpha_prev, variance_prev = _forward(process, t)
  precision = scale**2 / added + 1 / variance_prev
  x_start, x_t = 0.7, -0.4
  mean = (
    scale * x_t / added + alpha_prev * x_start / variance_prev
  ) / precision
  got_mean, got_variance, got_log = gaussian.q_posterior_mean_variance(
    process, jnp.full((1, 1), x_start), jnp.full((1, 1), x_t), jnp.array([t])
  )
  assert float(got_mean[0, 0]) == pytest.approx(mean, rel=1e-5)
  assert float(got_variance[0, 0]) == pytest.approx(1 / precision, rel=1e-5)
  assert float(got_log[0, 0]) == pytest.approx(-np.log(precision), rel=1e-5)


def test_eps_and_x_start_determine_each_other():
  t = jnp.array([0, 600])
  x_t = gaussian.q_sample(SCHEDULE, X_START, t, NOISE)
  x_start = gaussian.predict_xstart(SCHEDULE, NOISE, x_t, t, "eps")
  assert_close(x_start, X_START, 1e-4)
  for m in x_t:
    scales = (
      gaussian.extract(v, t, x_t[m]) for v in (SCHEDULE.alpha, SCHEDULE.sigma)
    )
    eps = noise_of(X_START[m], x_t[m], *scales)
    assert_close({m: eps}, {m: NOISE[m]}, 1e-4)


def test_both_predictions_give_the_same_step():
  t = jnp.array([5, 600])
  as_x_start = gaussian.predict_xstart(SCHEDULE, NOISE, X, t, "eps")
  a = gaussian.p_mean_variance(SCHEDULE, NOISE, X, t)
  b = gaussian.p_mean_variance(SCHEDULE, as_x_start, X, t, prediction="x_start")
  assert_close(a.mean, b.mean, 1e-6)


def test_every_leaf_of_a_tree_is_a_process_of_its_own():
  t = jnp.array([1, 600])
  tree = {"image": X["video"][:, 0], "more": [X["audio"]]}
  output = jax.tree.map(jnp.sin, tree)
  p = gaussian.p_mean_variance(SCHEDULE, output, tree, t)
  alone = [
    gaussian.p_mean_variance(SCHEDULE, jnp.sin(x), x, t)
    for x in jax.tree.leaves(tree)
  ]
  for field in p._fields:
    together = jax.tree.leaves(getattr(p, field))
    for got, one in zip(together, alone, strict=True):
      np.testing.assert_array_equal(got, getattr(one, field))


def test_bfloat16_outputs_are_stepped_in_float32():
  x = jnp.ones((1, 8, 1))
  p = gaussian.p_mean_variance(
    SCHEDULE, x.astype(jnp.bfloat16), x, jnp.array([5])
  )
  assert p.mean.dtype == jnp.float32


def test_channels_that_do_not_fit_learn_sigma_are_an_error():
  x = jnp.ones((1, 8, 1))
  with pytest.raises(ValueError, match="needs 2 channels"):
    gaussian.p_mean_variance(SCHEDULE, x, x, jnp.array([5]), learn_sigma=True)
  with pytest.raises(ValueError, match="allowed are eps, x_start, v"):
    gaussian.p_mean_variance(SCHEDULE, x, x, jnp.array([5]), prediction="w")
