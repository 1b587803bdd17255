"""Conditioning: published numbers, definitions by brute force, promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax.diffusion import make_schedule
from mmdiff_jax.samplers import (
  Condition,
  condition_on_audio,
  make_rng,
  make_sampler,
)
from mmdiff_jax.samplers.nodes import grid
from tests import gaussian_data
from tests.diffusion_golden import (
  GOLDEN,
  NOISE,
  SHAPES,
  X_START,
  X,
  assert_close,
  channels_last,
  generator,
  make_toy,
)
from tests.test_samplers import SAMPLERS, build

SCHEDULE = make_schedule("linear", 1000)
KEY = jax.random.key(1)
OTHER = {"audio": "video", "video": "audio"}
METHODS = {
  "replacement": {},
  "gradient": {"scale": 0.05},
  "resampling": {"resample_repeats": 2, "resample_jump": 2},
}


@pytest.mark.parametrize("scale", [0.0, 150.0])
@pytest.mark.parametrize("given", ["video", "audio"])
def test_conditional_ddpm_equals_the_published_one(given, scale):
  target = OTHER[given]
  rng = generator(f"pub/cond/{given}/{scale}")
  steps = [
    {m: rng.standard_normal(SHAPES[m]).astype(np.float32) for m in SHAPES}
    for _ in range(10)
  ]
  noise = {
    m: jnp.stack([channels_last(m, step[m]) for step in steps]) for m in SHAPES
  }
  # Published: mean over elements and batch (2); ours: sum over elements.
  options = {"method": "gradient", "scale": scale / (2 * X[given][0].size)}
  condition = Condition(
    {given: X_START[given]},
    noise={given: NOISE[given]},
    **(options if scale else {}),
  )
  sampler = make_sampler("ddpm", steps=10, keep_trajectory=True)
  x, nfe, trajectory = sampler(
    make_toy(),
    SCHEDULE,
    NOISE,
    KEY,
    condition,
    noise_fn=lambda i: {m: noise[m][i] for m in noise},
  )
  prefix = f"conditional/{given}_to_{target}/scale{scale}"
  assert nfe == 10
  for value, name in ((trajectory[target][0], "first"), (x[target], "final")):
    expected = channels_last(target, GOLDEN[f"{prefix}/{name}_target"])
    assert_close({target: value}, {target: expected}, 1e-6)
  np.testing.assert_array_equal(x[given], X_START[given])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", SAMPLERS)
def test_every_solver_keeps_what_is_known_bit_for_bit(kind, method):
  mask = np.random.default_rng(0).random((1, 4, 8, 8, 1)) < 0.4
  condition = Condition(
    {"video": X_START["video"], "audio": X_START["audio"]},
    {"video": mask, "audio": (np.arange(64) < 20)[None, :, None]},
    method=method,
    noise=NOISE,
    **METHODS[method],
  )
  known = {m: np.broadcast_to(condition.mask[m], X[m].shape) for m in X}
  x, nfe = jax.jit(
    lambda condition: build(kind)(make_toy(), SCHEDULE, X, KEY, condition)
  )(condition)
  free, free_nfe = _unconditional(kind)
  for m in X:
    np.testing.assert_array_equal(x[m][known[m]], X_START[m][known[m]])
    assert np.isfinite(x[m]).all()
  # The rest follows what is known, if only through the toy's means.
  assert any(np.abs(x[m] - free[m])[~known[m]].max() > 1e-3 for m in X)
  if method == "resampling":
    assert nfe > free_nfe
  elif "adaptive" not in kind:
    assert nfe == free_nfe


@functools.cache
def _unconditional(kind):
  return jax.jit(lambda x: build(kind)(make_toy(), SCHEDULE, x, KEY))(X)


# --- the gradient method ------------------------------------------------------


def _reference_second_order_step(denoise, s, middle, t, x):
  """SPEC's singlestep of order 2 for ++, written out."""
  h = t.lambda_ - s.lambda_
  r1 = (middle.lambda_ - s.lambda_) / h
  x_start = lambda x, n, eps: jax.tree.map(  # noqa: E731
    lambda a, e: (a - n.sigma * e) / n.alpha, x, eps
  )
  m0 = x_start(x, s, denoise(x, s))
  x1 = jax.tree.map(
    lambda a, m: (
      middle.sigma / s.sigma * a - middle.alpha * np.expm1(-r1 * h) * m
    ),
    x,
    m0,
  )
  x1 = denoise.replace(x1, middle)
  m1 = x_start(x1, middle, denoise(x1, middle))
  return jax.tree.map(
    lambda a, m0, m1: (
      t.sigma / s.sigma * a
      - t.alpha * np.expm1(-h) * (m0 + (m1 - m0) / (2 * r1))
    ),
    x,
    m0,
    m1,
  )


class _Denoise:
  """The toy at nodes, with audio replaced by the noised condition."""

  def __call__(self, x, node):
    return make_toy()(x, jnp.full(2, node.t), None)

  def known(self, node):
    return node.alpha * X_START["audio"] + node.sigma * NOISE["audio"]

  def replace(self, x, node):
    return x | {"audio": self.known(node)}


@pytest.mark.parametrize("last", [False, True])
def test_gradient_goes_through_every_network_call_of_a_step(last):
  # Two singlesteps of order 2, by hand: correction after the first, none
  # after the last.
  scale, denoise = 0.7, _Denoise()
  nodes = grid(SCHEDULE, 4, "logSNR")
  s, middle, t, middle2, end = nodes

  def misfit(video):
    x = _reference_second_order_step(
      denoise, s, middle, t, denoise.replace(X | {"video": video}, s)
    )
    return jnp.sum((x["audio"] - denoise.known(t)) ** 2), x

  gradient, x = jax.grad(misfit, has_aux=True)(X["video"])
  assert np.abs(gradient).max() > 1e-4
  x = x | {"video": x["video"] - scale * s.alpha * gradient}
  condition = Condition(
    {"audio": X_START["audio"]},
    method="gradient",
    scale=scale,
    noise={"audio": NOISE["audio"]},
  )
  sampler = make_sampler("dpm_solver++", order=2, steps=4, keep_trajectory=True)
  final, _, trajectory = sampler(make_toy(), SCHEDULE, X, KEY, condition)
  if not last:
    got = {"video": trajectory["video"][0]}
    assert_close(got, {"video": x["video"]}, 2e-5)
  else:
    x = _reference_second_order_step(
      denoise, t, middle2, end, denoise.replace(x, t)
    )
    assert_close({"video": final["video"]}, {"video": x["video"]}, 5e-5)


@pytest.mark.parametrize("kind", ["ddpm", "singlestep-3", "adaptive-3++"])
def test_the_gradients_scale_is_independent_of_the_batch(kind):
  def run(batch):
    pick = lambda tree: {m: v[batch] for m, v in tree.items()}  # noqa: E731
    condition = condition_on_audio(
      X_START["audio"][batch], method="gradient", scale=0.3
    )
    rng = make_rng(KEY, jnp.array(batch))
    return build(kind)(make_toy(), SCHEDULE, pick(X), rng, condition)[0]

  both, one = run([0, 1]), run([1])
  assert_close({m: v[1:] for m, v in both.items()}, one, 2e-5)


def test_a_vanishing_scale_is_replacement():
  tiny = {"method": "gradient", "scale": 1e-9}
  for kind in ("ddpm", "singlestep-3"):
    plain = condition_on_audio(X_START["audio"])
    least = condition_on_audio(X_START["audio"], **tiny)
    a, _ = build(kind)(make_toy(), SCHEDULE, X, KEY, plain)
    b, _ = build(kind)(make_toy(), SCHEDULE, X, KEY, least)
    assert_close(a, b, 1e-5)


def test_gradients_are_float32_where_bfloat16_would_lose_them():
  exact = lambda x, t, rng: jax.tree.map(lambda v: 0.5 * v, x)  # noqa: E731

  def network(x, t, rng, dtype):
    """Audio answers to the video's mean, in `dtype` within the network."""
    half = jax.tree.map(lambda v: v.astype(dtype), x)
    mean = jnp.mean(half["video"], axis=(1, 2, 3, 4), dtype=jnp.float32)
    audio = half["audio"] * dtype(0.5) + mean[:, None, None].astype(dtype)
    return exact(half, t, rng) | {"audio": audio}

  def corrections(dtype, scale):
    run = {}
    for s in (1e-30, scale):
      condition = condition_on_audio(
        X_START["audio"], method="gradient", scale=s
      )
      sampler = make_sampler("ddim", steps=5, keep_trajectory=True)
      *_, trajectory = sampler(
        functools.partial(network, dtype=dtype),
        make_schedule("cosine", 1000),
        X,
        KEY,
        condition,
      )
      run[s] = np.asarray(trajectory["video"][0])
    return run[1e-30], run[scale]

  scale = 1e-2
  before, after = corrections(jnp.bfloat16, scale)
  reference = np.subtract(*corrections(jnp.float32, scale)[::-1])
  assert after.dtype == np.float32
  # The correction is right to the network's own precision ...
  np.testing.assert_allclose(
    after - before, reference, rtol=0.05, atol=0.05 * np.abs(reference).max()
  )
  # ... though x in bfloat16 would mostly not have moved at all.
  lost = before.astype(jnp.bfloat16) == after.astype(jnp.bfloat16)
  assert (after != before).mean() > 0.9
  assert lost.mean() > 0.5


def test_guidance_lowers_the_misfit_of_correlated_gaussian_data():
  # Video and audio are the same number, which the exact joint denoiser
  # knows: replacement alone transports c to u, the gradient does it better.
  schedule = make_schedule("linear", 1000)
  ab = jnp.asarray(schedule.alphas_cumprod, jnp.float32)
  covariance = jnp.array([[1.0, 0.9], [0.9, 1.0]])

  def denoise_fn(x, t, rng):
    a = ab[t][:, None, None]
    pair = jnp.stack([x["video"], x["audio"]], axis=-1)
    marginal = a * covariance + (1 - a) * jnp.eye(2)
    eps = jnp.sqrt(1 - a) * jnp.einsum(
      "bij,b...j->b...i", jnp.linalg.inv(marginal), pair
    )
    return {"video": eps[..., 0], "audio": eps[..., 1]}

  count = 2000
  rng = np.random.default_rng(0)
  x_init = {
    m: rng.standard_normal((count, 1)).astype(np.float32) for m in SHAPES
  }
  audio = rng.standard_normal((count, 1)).astype(np.float32)

  def slope(**options):
    sampler = make_sampler("ddpm", steps=100, clip_denoised=False)
    x, _ = sampler(
      denoise_fn, schedule, x_init, KEY, Condition({"audio": audio}, **options)
    )
    return float(np.mean(x["video"] * audio) / np.mean(audio**2))

  # E[u | c] = 0.9 c; replacement with fixed noise undershoots.
  replacement = slope()
  resampling = slope(method="resampling", resample_repeats=6, resample_jump=2)
  gradient = slope(method="gradient", scale=0.05)
  assert 0.2 < replacement < 0.85
  assert abs(resampling - 0.9) < abs(replacement - 0.9)
  assert abs(gradient - 0.9) < abs(replacement - 0.9)


# --- resampling ---------------------------------------------------------------


def test_resampling_repeats_every_stretch():
  condition = condition_on_audio(
    X_START["audio"],
    method="resampling",
    resample_repeats=3,
    resample_jump=2,
  )
  for kind, calls in (("ddpm", 18), ("singlestep-3", 21), ("fixed-3++", 19)):
    _, nfe = build(kind)(make_toy(), SCHEDULE, X, KEY, condition)
    assert nfe == calls, kind


@pytest.mark.parametrize("kind", ["ddim", "multistep-3", "adaptive-2"])
def test_resampling_noises_back_to_the_right_level(kind):
  # Unconditioned Gaussian data stay Gaussian data, however often the
  # trajectory is run back and forth.
  schedule = gaussian_data.linear_lambda_schedule(600, -4, 4)
  denoise_fn = gaussian_data.make_denoiser(schedule)
  condition = Condition(
    {"known": jnp.zeros((1, 1))},
    method="resampling",
    resample_repeats=3,
    resample_jump=3,
  )
  rng = np.random.default_rng(0)
  x_init = {
    "x": rng.standard_normal((2000, 4)).astype(np.float32),
    "known": np.zeros((2000, 1), np.float32),
  }
  options = {
    "ddim": {"steps": "150", "clip_denoised": False},
    "multistep-3": {"steps": 30},
    "adaptive-2": {"rtol": 0.01, "atol": 0.001, "first_step": 0.1},
  }[kind]
  x, _ = build(kind, **options)(denoise_fn, schedule, x_init, KEY, condition)
  assert float(x["x"].mean()) == pytest.approx(gaussian_data.MEAN, abs=0.02)
  assert float(x["x"].std()) == pytest.approx(gaussian_data.STD, abs=0.02)


# --- what can be known --------------------------------------------------------
