"""DPM-Solver(++): published numbers, identities, the treatment of x_start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax.diffusion import gaussian, make_schedule
from mmdiff_jax.samplers import make_sampler
from mmdiff_jax.samplers.dpm_options import threshold_dynamically
from mmdiff_jax.samplers.nodes import grid, traced_node
from tests import gaussian_data
from tests.diffusion_golden import NFE, X, assert_close, golden, make_toy

SCHEDULE = make_schedule("linear", 1000)
KEY = jax.random.key(0)


@pytest.mark.parametrize("name", NFE)
def test_samples_equal_the_published_ones(name):
  family, method, order, steps, grid = name.split("/")
  sampler = make_sampler(
    family,
    method=method,
    order=int(order.removeprefix("order")),
    steps=int(steps.removeprefix("steps")),
    grid=grid,
  )
  x, nfe = sampler(make_toy(), SCHEDULE, X, KEY)
  assert nfe == NFE[name]
  assert_close(x, golden(f"dpm/{name}"), 1e-4)


def _nodes_on_table(schedule):
  return make_sampler(
    "dpm_solver++",
    order=1,
    method="multistep",
    grid="time_uniform",
    steps=schedule.num_timesteps - 1,
  )


def test_ddim_is_dpm_solver_plus_plus_of_order_1():
  # With one cell per table entry both visit the same points; DDIM goes on
  # from the last one to clean data, which is one x_start prediction.
  schedule = make_schedule("linear", 1000, "20")
  denoise_fn = make_toy()
  x, nfe = _nodes_on_table(schedule)(denoise_fn, schedule, X, KEY)
  ddim = make_sampler("ddim", clip_denoised=False, keep_trajectory=True)
  _, _, trajectory = ddim(denoise_fn, schedule, X, KEY)
  assert nfe == 19
  assert_close(x, {m: v[-2] for m, v in trajectory.items()}, 1e-5)


@pytest.mark.parametrize("name", ["dpm_solver", "dpm_solver++"])
@pytest.mark.parametrize("method", ["singlestep", "multistep", "sde"])
def test_the_final_denoising_returns_x_start_of_one_more_call(name, method):
  if method == "sde" and name == "dpm_solver":
    pytest.skip("sde belongs to dpm_solver++")
  options = {"name": name, "method": method, "steps": 5}
  x, nfe = make_sampler(**options)(make_toy(), SCHEDULE, X, KEY)
  final, final_nfe = make_sampler(denoise_final=True, **options)(
    make_toy(), SCHEDULE, X, KEY
  )
  t = jnp.zeros(2, jnp.int32)
  eps = make_toy()(x, t, None)
  expected = gaussian.predict_xstart(SCHEDULE, eps, x, t, "eps")
  assert final_nfe == nfe + 1
  assert_close(final, expected, 1e-5)


def test_dynamic_thresholding_by_hand():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, 40, 3)).astype(np.float32)
  x[1] *= 0.1
  expected = []
  for sample in x:
    s = max(1.0, np.quantile(np.abs(sample), 0.995))
    expected.append(np.clip(sample, -s, s) / s)
  assert np.abs(x[0]).max() > 1.5
  np.testing.assert_allclose(threshold_dynamically(x), expected, rtol=1e-5)


def test_dynamic_thresholding_of_repeated_and_of_single_values():
  x = np.array([[1.0, 3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 2.0]], np.float32)
  s = np.maximum(1, np.quantile(x, 0.995, axis=1, keepdims=True))
  expected = np.clip(x, -s, s) / s
  np.testing.assert_allclose(threshold_dynamically(x), expected, rtol=1e-6)
  np.testing.assert_array_equal(threshold_dynamically(x[:, -1:]), [[1], [1]])


def test_dynamic_thresholding_acts_per_sample_and_modality():
  def denoise_fn(x, t, rng):
    return {"a": 5.0 + 0 * x["a"], "b": 0.5 + 0 * x["b"]}

  x_init = {"a": jnp.ones((2, 4)), "b": jnp.ones((2, 4))}
  options = {
    "name": "dpm_solver++",
    "steps": 3,
    "prediction": "x_start",
    "denoise_final": True,
  }
  plain, _ = make_sampler(**options)(denoise_fn, SCHEDULE, x_init, KEY)
  x, _ = make_sampler(dynamic_thresholding=True, **options)(
    denoise_fn, SCHEDULE, x_init, KEY
  )
  assert_close(plain, {"a": np.full((2, 4), 5.0)}, 1e-5)
  assert_close(x, {m: np.full((2, 4), v) for m, v in (("a", 1), ("b", 0.5))}, 0)


@pytest.mark.parametrize("name", ["dpm_solver", "dpm_solver++"])
def test_clipping_keeps_x_start_in_range_when_asked(name):
  options = {"name": name, "steps": 4, "denoise_final": True}
  free, _ = make_sampler(**options)(make_toy(), SCHEDULE, X, KEY)
  x, _ = make_sampler(clip_denoised=True, **options)(
    make_toy(), SCHEDULE, X, KEY
  )
  assert max(np.abs(v).max() for v in free.values()) > 1.1
  assert max(np.abs(v).max() for v in x.values()) <= 1 + 1e-4


def test_the_network_is_called_with_original_steps_of_a_respaced_table():
  seen = []
  schedule = make_schedule("linear", 1000, "ddim25")

  def denoise_fn(x, t, rng):
    jax.debug.callback(lambda t: seen.append(int(t[0])), t)
    return x

  sampler = make_sampler(
    "dpm_solver", steps=24, grid="time_uniform", method="multistep"
  )
  x, _ = sampler(denoise_fn, schedule, X, KEY)
  jax.block_until_ready(x)
  jax.effects_barrier()
  assert sorted(seen, reverse=True) == schedule.timestep_map[:0:-1].tolist()


@pytest.mark.parametrize("kind", ["logSNR", "time_uniform", "time_quadratic"])
def test_grids_are_uniform_in_their_variable(kind):
  process = make_schedule("cosine", 1000)
  nodes = grid(process, 20, kind)
  lambdas = np.array([node.lambda_ for node in nodes])
  times = process.time_of(lambdas)
  value = {
    "logSNR": lambdas,
    "time_uniform": times,
    "time_quadratic": np.sqrt(times),
  }[kind]
  steps = np.diff(value)
  np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
  np.testing.assert_allclose(times[[0, -1]], [1, 1e-3], rtol=1e-9)
  assert nodes[0].t == 999 and nodes[-1].t == 0
  for node in nodes:
    assert node.alpha**2 + node.sigma**2 == pytest.approx(1)


def test_traced_nodes_equal_those_of_the_host():
  nodes = grid(SCHEDULE, 37, "time_quadratic")
  traced = traced_node(
    SCHEDULE, jnp.array([node.lambda_ for node in nodes], jnp.float32)
  )
  for field in ("alpha", "sigma", "lambda_"):
    expected = [getattr(node, field) for node in nodes]
    np.testing.assert_allclose(getattr(traced, field), expected, rtol=2e-4)
  assert np.abs(traced.t - np.array([n.t for n in nodes])).max() <= 1
  assert traced.t[0] == 999 and traced.t[-1] == 0


# --- adaptive -----------------------------------------------------------------


def _adaptive_error(order, **options):
  schedule = gaussian_data.linear_lambda_schedule(4000, -4, 4)
  start = np.linspace(-2, 2, 5)[:, None]
  with jax.enable_x64(True):
    x, nfe = make_sampler(
      "dpm_solver++", method="adaptive", order=order, **options
    )(
      gaussian_data.make_denoiser(schedule),
      schedule,
      {"x": jnp.asarray(start)},
      KEY,
    )
  return np.abs(
    np.asarray(x["x"]) - gaussian_data.flow(schedule, start)
  ).max(), int(nfe)


@pytest.mark.parametrize("order", [2, 3])
def test_adaptive_error_falls_with_the_tolerance(order):
  loose, loose_nfe = _adaptive_error(order)
  tight, tight_nfe = _adaptive_error(order, atol=1e-4, rtol=1e-3)
  assert loose < 0.1
  assert tight < loose / 3
  assert loose_nfe % order == tight_nfe % order == 0
  assert order * 4 <= loose_nfe < tight_nfe < 500


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("name", ["dpm_solver", "dpm_solver++"])
def test_the_adaptive_default_controls_the_error_of_a_trained_table(
  name, order
):
  """In float32, with whole step indices, over the whole span of lambda."""
  start = np.random.default_rng(0).standard_normal((64, 8))
  exact = gaussian_data.flow(SCHEDULE, start)

  def error(**options):
    sampler = make_sampler(name, method="adaptive", order=order, **options)
    denoise_fn = gaussian_data.make_denoiser(SCHEDULE)
    x, nfe = jax.jit(lambda x: sampler(denoise_fn, SCHEDULE, x, KEY))(
      {"x": jnp.asarray(start, jnp.float32)}
    )
    return np.abs(x["x"] - exact).max(), int(nfe)

  loose, loose_nfe = error(atol=0.0078, rtol=0.05, max_growth=2.0)
  default, default_nfe = error()
  assert loose < 0.15
  assert default < min(0.03, loose / 2)
  assert loose_nfe <= default_nfe <= 56


def test_a_tolerance_alone_also_lifts_the_bound_of_growth():
  def control(**options):
    return make_sampler("dpm_solver", method="adaptive", **options).control

  default = {"atol": 0.002, "rtol": 0.01, "max_growth": 2.0}
  assert control(first_step=0.1) == control(**default, first_step=0.1)
  published = {"atol": 0.0078, "rtol": 0.05, "max_growth": np.inf}
  published["first_step"] = 0.05
  assert control(rtol=0.05) == control(atol=0.0078) == control(**published)
  assert control(max_growth=np.inf, first_step=0.1) == control(
    **default | {"max_growth": np.inf}, first_step=0.1
  )


@pytest.mark.parametrize(
  ("wobble", "options", "shortest", "longest"),
  [
    # The data hardly depend on x: as long as a probe allows.
    (0.0, {}, 0.499, 0.501),
    # They change with every bit of noise: as short as that asks for.
    (40.0, {}, 0.0, 0.3),
    # A stated first step is one, and may be doubled as all others.
    (0.0, {"first_step": 0.05}, 0.099, 0.101),
  ],
)
def test_the_error_of_a_probe_sets_the_first_step(
  wobble, options, shortest, longest
):
  schedule = gaussian_data.linear_lambda_schedule(2000, -1, 4)
  lambdas = schedule.log_snr / 2
  seen = []

  def denoise_fn(x, t, rng):
    jax.debug.callback(lambda t: seen.append(int(t[0])), t, ordered=True)
    return jnp.sin(wobble * x)

  sampler = make_sampler(
    "dpm_solver++",
    method="adaptive",
    order=2,
    prediction="x_start",
    **options,
  )
  x, _ = sampler(denoise_fn, schedule, np.full((1, 1), 0.7, np.float32), KEY)
  jax.block_until_ready(x)
  jax.effects_barrier()
  # A call at the start of a step and one half way.
  steps = 2 * (lambdas[seen[1::2]] - lambdas[seen[::2]])
  assert steps[0] == pytest.approx(0.05, abs=0.01)
  assert shortest - 0.01 < steps[1] < longest + 0.01


def _published_adaptive(schedule, x, plus_plus, atol, rtol):
  """The method of order 2 for one sample of Gaussian data, written out."""
  ab = schedule.alphas_cumprod
  lambdas = np.log(ab / (1 - ab)) / 2
  mean, variance = gaussian_data.MEAN, gaussian_data.STD**2
  calls = 0

  def scales(lambda_):
    return 1 / np.sqrt(1 + np.exp(-2 * lambda_)), 1 / np.sqrt(
      1 + np.exp(2 * lambda_)
    )

  def predict(x, lambda_):
    nonlocal calls
    calls += 1
    alpha, sigma = scales(lambda_)
    # Log alpha is linear between entries; the network sees the one below.
    position = np.interp(-np.log(alpha), -np.log(ab) / 2, np.arange(ab.size))
    a = ab[int(position + 1e-3)]
    eps = np.sqrt(1 - a) * (x - np.sqrt(a) * mean) / (a * variance + 1 - a)
    return (x - sigma * eps) / alpha if plus_plus else eps

  def update(x, m, start, end):
    (alpha_s, sigma_s), (alpha, sigma) = scales(start), scales(end)
    if plus_plus:
      return sigma / sigma_s * x - alpha * np.expm1(start - end) * m
    return alpha / alpha_s * x - sigma * np.expm1(end - start) * m

  lambda_, end, h, x_prev = lambdas[-1], lambdas[0], 0.05, x
  while end - lambda_ > 1e-9:
    m0 = predict(x, lambda_)
    m1 = predict(update(x, m0, lambda_, lambda_ + h / 2), lambda_ + h / 2)
    low = update(x, m0, lambda_, lambda_ + h)
    # m0 + (m1 - m0) / (2 r1), r1 = 1/2.
    high = update(x, m1, lambda_, lambda_ + h)
    scale = np.maximum(atol, rtol * np.maximum(np.abs(low), np.abs(x_prev)))
    error = np.sqrt(np.mean(((high - low) / scale) ** 2))
    if error <= 1:
      x, x_prev, lambda_ = high, low, lambda_ + h
    h = min(0.9 * h / np.sqrt(error), end - lambda_)
  return x, calls


@pytest.mark.parametrize(
  ("options", "atol", "rtol"),
  [
    ({"atol": 0.0078, "rtol": 0.05}, 0.0078, 0.05),
    ({"rtol": 0.05}, 0.0078, 0.05),
    ({"atol": 1e-3}, 1e-3, 0.05),
  ],
)
@pytest.mark.parametrize("name", ["dpm_solver", "dpm_solver++"])
def test_a_given_tolerance_selects_the_published_method(
  name, options, atol, rtol
):
  start = np.random.default_rng(1).standard_normal((1, 4))
  expected, calls = _published_adaptive(
    SCHEDULE, start[0], name == "dpm_solver++", atol, rtol
  )
  with jax.enable_x64(True):
    x, nfe = make_sampler(name, method="adaptive", order=2, **options)(
      gaussian_data.make_denoiser(SCHEDULE),
      SCHEDULE,
      {"x": jnp.asarray(start)},
      KEY,
    )
  assert nfe == calls
  np.testing.assert_allclose(x["x"][0], expected, atol=1e-6)


def test_each_sample_of_an_adaptive_run_keeps_its_own_step():
  # One sample is easy (a constant x_start), the other is not: alone, each
  # needs its own number of calls, and together they get the same results.
  def denoise_fn(x, t, rng):
    hard = x["hard"]
    wave = jnp.sin(8 * x["x"]) * hard
    return {"x": 0.3 + 0.5 * wave, "hard": hard}

  x_init = {
    "x": jnp.array([[0.5], [0.7]]),
    "hard": jnp.array([[0.0], [1.0]]),
  }
  sampler = make_sampler(
    "dpm_solver++", method="adaptive", order=2, prediction="x_start"
  )
  both, nfe = sampler(denoise_fn, SCHEDULE, x_init, KEY)
  alone = [
    sampler(
      denoise_fn, SCHEDULE, {m: v[i : i + 1] for m, v in x_init.items()}, KEY
    )
    for i in range(2)
  ]
  assert alone[0][1] < alone[1][1] == nfe
  for i, (x, _) in enumerate(alone):
    np.testing.assert_allclose(both["x"][i], x["x"][0], atol=1e-5)


def test_a_network_that_fails_gives_nan_and_an_end():
  def denoise_fn(x, t, rng):
    bad = jnp.array([1.0, jnp.nan]).reshape(2, 1)
    return jax.tree.map(lambda v: v * bad, x)

  x, _ = make_sampler("dpm_solver", method="adaptive")(
    denoise_fn, SCHEDULE, {"x": jnp.ones((2, 3))}, KEY
  )
  assert np.isfinite(x["x"][0]).all()
  assert np.isnan(x["x"][1]).all()
