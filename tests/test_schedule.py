"""Tables and respacing against published numbers and first principles."""

import numpy as np
import pytest

from mmdiff_jax.diffusion import Schedule, make_schedule
from mmdiff_jax.diffusion.respacing import respaced_indices
from tests.diffusion_golden import GOLDEN

TABLES = (
  "betas",
  "alphas_cumprod",
  "posterior_variance",
  "posterior_log_variance_clipped",
  "posterior_mean_coef1",
  "posterior_mean_coef2",
)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [50, 1000])
def test_tables_equal_the_published_ones(name, steps):
  schedule = make_schedule(name, steps)
  for table in TABLES:
    expected = GOLDEN[f"sched/{name}{steps}/{table}"]
    actual = getattr(schedule, table)
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
  ("steps", "spec"),
  [
    (1000, "ddim25"),
    (1000, "ddim50"),
    (300, "10,15,20"),
    (1000, "250"),
    (1000, "100"),
  ],
)
def test_respacing_equals_the_published_one(steps, spec):
  schedule = make_schedule("linear", steps, spec)
  prefix = f"respace/{steps}/{spec}"
  np.testing.assert_array_equal(
    schedule.timestep_map, GOLDEN[f"{prefix}/timestep_map"]
  )
  np.testing.assert_allclose(
    schedule.betas, GOLDEN[f"{prefix}/betas"], rtol=1e-12, atol=1e-12
  )


def test_respaced_schedule_keeps_the_signal_at_the_kept_steps():
  full = make_schedule("cosine", 1000)
  short = full.respace("7,9")
  np.testing.assert_allclose(
    short.alphas_cumprod, full.alphas_cumprod[short.timestep_map], rtol=1e-9
  )


def test_respacing_twice_still_names_original_steps():
  twice = make_schedule("linear", 1000, "250").respace("ddim50")
  once = make_schedule("linear", 1000, "250")
  np.testing.assert_array_equal(twice.timestep_map, once.timestep_map[::5])


def test_respacing_to_its_own_length_changes_nothing():
  schedule = make_schedule("linear", 1000, "ddim25")
  for spec in ("ddim25", "25", ""):
    again = schedule.respace(spec)
    np.testing.assert_array_equal(again.timestep_map, schedule.timestep_map)
    np.testing.assert_allclose(again.betas, schedule.betas, rtol=1e-9)


def test_previous_signal_before_the_first_step_is_one():
  schedule = make_schedule("linear", 100)
  assert schedule.alphas_cumprod_prev[0] == 1.0
  assert schedule.posterior_variance[0] == 0.0
  assert schedule.posterior_mean_coef1[0] == pytest.approx(1.0)


def test_one_step_has_finite_tables():
  schedule = make_schedule("linear", 1000, "1")
  assert np.isfinite(schedule.posterior_log_variance_clipped).all()
  assert schedule.fixed_large_variance[0] > 0


@pytest.mark.parametrize(
  ("call", "match"),
  [
    (lambda: make_schedule("sigmoid"), "allowed are linear, cosine"),
    (lambda: make_schedule("linear", 10), "more than 20 steps"),
    (lambda: make_schedule("linear", 0), "at least 1"),
    (lambda: Schedule([0.1, 1.5]), "strictly between 0 and 1"),
    (lambda: Schedule([0.1, np.nan]), "strictly between 0 and 1"),
    (lambda: Schedule([[0.1]]), "non-empty vector"),
    (lambda: Schedule([0.1, 0.2], [3]), "one original step"),
    (lambda: respaced_indices(1000, "ddim499"), "exactly 499"),
    (lambda: respaced_indices(1000, "dim25"), "not understood"),
    (lambda: respaced_indices(1000, "10,0"), "not understood"),
    (lambda: respaced_indices(1000, "ddim5,5"), "not understood"),
    (lambda: respaced_indices(100, "101"), "at most 100"),
  ],
)
def test_a_wrong_schedule_is_a_clear_error(call, match):
  with pytest.raises(ValueError, match=match):
    call()


def test_tables_cannot_be_changed_by_accident():
  with pytest.raises(ValueError):
    make_schedule("linear", 50).betas[0] = 0.5
