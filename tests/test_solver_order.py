"""Fitted orders of convergence on Gaussian data, against the exact flow.

Everything in float64, on a table whose lambda is linear, so that every grid
point is an entry and the only error left is the solver's.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax.samplers import make_sampler
from tests.gaussian_data import (
  STD,
  flow,
  linear_lambda_flow,
  linear_lambda_schedule,
  make_denoiser,
)

FAMILIES = ["dpm_solver", "dpm_solver++"]
START = np.array([[-1.3], [0.4], [1.7]])


# Spans of lambda in which no error changes its sign over the steps fitted.
SINGLESTEP_SPAN, MULTISTEP_SPAN = (-2.0, 2.0), (-1.5, 2.5)


def fitted_order(
  name, steps, method, span=None, table=linear_lambda_schedule, **options
):
  """Slope of log error against log steps."""
  if span is None:
    span = MULTISTEP_SPAN if method == "multistep" else SINGLESTEP_SPAN
  # Twice the finest grid: singlestep_start evaluates between its points.
  assert all(max(steps) % n == 0 for n in steps)
  schedule = table(2 * max(steps), *span)
  exact = flow(schedule, START)
  errors = []
  with jax.enable_x64(True):
    denoise_fn = make_denoiser(
      schedule, prediction=options.get("prediction", "eps")
    )
    for n in steps:
      sampler = make_sampler(name, method=method, steps=n, **options)
      x, _ = sampler(
        denoise_fn, schedule, {"x": jnp.asarray(START)}, jax.random.key(0)
      )
      assert x["x"].dtype == jnp.float64
      errors.append(np.max(np.abs(x["x"] - exact)))
  return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
  "method", ["singlestep", "multistep", "singlestep_fixed"]
)
def test_order_1(name, method):
  assert 0.9 <= fitted_order(name, (20, 40, 80), method, order=1) <= 1.1


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
  "method", ["singlestep", "multistep", "singlestep_fixed"]
)
def test_order_2(name, method):
  assert fitted_order(name, (40, 80, 160), method, order=2) >= 1.85


@pytest.mark.parametrize("name", FAMILIES)
def test_singlestep_2_with_an_odd_number_of_steps(name):
  steps = (15, 45, 135)
  assert fitted_order(name, steps, "singlestep", order=2) >= 1.85


@pytest.mark.parametrize("name", FAMILIES)
def test_singlestep_3_without_a_trailing_first_order_step(name):
  steps = (20, 80, 320)
  assert all(n % 3 == 2 for n in steps)
  assert fitted_order(name, steps, "singlestep", order=3) >= 2.8


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("steps", [(120, 240, 480), (40, 160, 640)])
def test_singlestep_3_with_a_trailing_first_order_step(name, steps):
  order = fitted_order(name, steps, "singlestep", order=3)
  assert 1.85 <= order <= 2.2


@pytest.mark.parametrize("name", FAMILIES)
def test_singlestep_fixed_3(name):
  steps = (96, 192, 384)
  assert fitted_order(name, steps, "singlestep_fixed", order=3) >= 2.8


@pytest.mark.parametrize("name", FAMILIES)
def test_multistep_3_is_held_back_by_its_start(name):
  steps = (160, 320, 640)
  assert 1.85 <= fitted_order(name, steps, "multistep", order=3) <= 2.2


@pytest.mark.parametrize("name", FAMILIES)
def test_multistep_3_reaches_its_order_after_a_singlestep_start(name):
  steps = (160, 320, 640)
  order = fitted_order(name, steps, "multistep", order=3, singlestep_start=True)
  assert order >= 2.8


@pytest.mark.parametrize("prediction", ["eps", "x_start", "v", "velocity"])
@pytest.mark.parametrize(
  ("name", "method", "least"),
  [
    ("dpm_solver", "singlestep_fixed", 2.8),
    ("dpm_solver++", "multistep", 1.85),
  ],
)
def test_orders_of_rectified_flow_by_every_prediction(
  name, method, least, prediction
):
  order = 3 if method == "singlestep_fixed" else 2
  steps = (24, 48, 96) if order == 3 else (40, 80, 160)
  fitted = fitted_order(
    name,
    steps,
    method,
    table=linear_lambda_flow,
    order=order,
    prediction=prediction,
  )
  assert fitted >= least


@pytest.mark.parametrize("table", [linear_lambda_schedule, linear_lambda_flow])
def test_sde_samples_the_right_variance_to_second_order(table):
  # The solver is linear in x_init and in every step's noise: one sample per
  # source of randomness gives the exact variance of the result.
  steps = (80, 160, 320)
  schedule = table(max(steps), *MULTISTEP_SPAN)
  variance = schedule.alpha**2 * STD**2 + schedule.sigma**2
  errors = []
  with jax.enable_x64(True):
    denoise_fn = make_denoiser(schedule, mean=0.0)
    for n in steps:
      sources = jnp.eye(n + 1, dtype=jnp.float64)
      x, nfe = make_sampler("dpm_solver++", method="sde", steps=n)(
        denoise_fn,
        schedule,
        {"x": np.sqrt(variance[-1]) * sources[0][:, None]},
        jax.random.key(0),
        noise_fn=lambda step, s=sources: {"x": s[step + 1][:, None]},
      )
      assert nfe == n
      errors.append(abs(float(jnp.sum(x["x"] ** 2)) - variance[0]))
  assert errors[-1] < 1e-4
  assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] >= 1.8
