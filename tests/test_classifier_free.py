"""Classifier-free guidance: the closed form for Gaussian classes, its parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax.diffusion import make_schedule
from mmdiff_jax.samplers import Condition, classifier_free, make_sampler
from mmdiff_jax.samplers.guidance import noise_interval
from tests import gaussian_data

SCHEDULE = make_schedule("linear", 1000)
KEY = jax.random.key(2)
ALL_MEAN, CLASS_MEANS = 0.1, np.array([[0.5], [-0.4], [0.2]])
START = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)

SAMPLERS = {
  "ddim": {"name": "ddim", "steps": 250, "clip_denoised": False},
  "multistep": {
    "name": "dpm_solver++",
    "method": "multistep",
    "order": 2,
    "steps": 60,
  },
  "singlestep": {"name": "dpm_solver", "steps": 60},
  "adaptive": {"name": "dpm_solver++", "method": "adaptive"},
}


def in_pairs(conditioned, unconditioned):
  return np.stack([conditioned, unconditioned], 1).reshape(-1, 1)


def guided_denoiser(scale):
  means = in_pairs(CLASS_MEANS, np.full_like(CLASS_MEANS, ALL_MEAN))
  twice = gaussian_data.make_denoiser(SCHEDULE, mean=jnp.asarray(means))
  return classifier_free(twice, scale)


def run(sampler, denoise_fn, condition=None):
  sample = make_sampler(**SAMPLERS[sampler])
  x, _ = jax.jit(lambda x: sample(denoise_fn, SCHEDULE, x, KEY, condition))(
    {"x": START}
  )
  return x["x"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_guided_gaussian_classes_are_gaussians_with_a_moved_mean(sampler):
  # Of equal spread, eps_c - eps_u is proportional to mean_u - mean_c alone.
  mean = ALL_MEAN + 3 * (CLASS_MEANS - ALL_MEAN)
  expected = gaussian_data.flow(SCHEDULE, START, mean=mean)
  got = run(sampler, guided_denoiser(3.0))
  np.testing.assert_allclose(got, expected, atol=0.03)
  other = gaussian_data.flow(SCHEDULE, START, mean=mean + 0.1)
  assert np.abs(got - other).min() > 0.05


def test_scale_1_is_the_conditioned_and_0_the_unconditioned_network():
  x, t = {"x": jnp.asarray(START)}, jnp.array([5, 700, 30])
  for scale, mean in ((1.0, CLASS_MEANS), (0.0, ALL_MEAN)):
    alone = gaussian_data.make_denoiser(SCHEDULE, mean=mean)(x, t, KEY)
    guided = guided_denoiser(scale)(x, t, KEY)
    np.testing.assert_allclose(guided["x"], alone["x"], atol=1e-6)


def test_the_gradient_method_goes_through_a_guided_network():
  condition = Condition(
    {"x": np.full((1, 4), 0.3, np.float32)},
    {"x": np.array([[True, False, False, False]])},
    method="gradient",
    scale=0.3,
  )
  alone = gaussian_data.make_denoiser(SCHEDULE, mean=CLASS_MEANS)
  np.testing.assert_allclose(
    run("multistep", guided_denoiser(1.0), condition),
    run("multistep", alone, condition),
    atol=2e-3,
  )


# --- Limited to an interval of noise levels. ---

# What sigma / alpha is at the entries: high noise first.
LEVELS = SCHEDULE.sigma / SCHEDULE.alpha
INTERVAL = (0.5, 4.0)


def limited_denoiser(scale, interval=INTERVAL):
  means = in_pairs(CLASS_MEANS, np.full_like(CLASS_MEANS, ALL_MEAN))
  return classifier_free(
    gaussian_data.make_denoiser(SCHEDULE, mean=jnp.asarray(means)),
    scale,
    inside=noise_interval(SCHEDULE, interval),
    alone=gaussian_data.make_denoiser(SCHEDULE, mean=jnp.asarray(CLASS_MEANS)),
  )


@pytest.mark.parametrize("sampler", ["ddim", "multistep", "adaptive"])
def test_limited_guidance_moves_the_mean_inside_the_interval_alone(sampler):
  # The flow of the class, then of the moved mean, then of the class again.
  moved = ALL_MEAN + 3 * (CLASS_MEANS - ALL_MEAN)
  last, first = (np.flatnonzero(LEVELS <= bound)[-1] for bound in INTERVAL)
  x = gaussian_data.flow(SCHEDULE, START, end=first, mean=CLASS_MEANS)
  x = gaussian_data.flow(SCHEDULE, x, first, last, mean=moved)
  expected = gaussian_data.flow(SCHEDULE, x, last, mean=CLASS_MEANS)
  got = run(sampler, limited_denoiser(3.0))
  np.testing.assert_allclose(got, expected, atol=0.05)
  for mean in (CLASS_MEANS, moved):
    throughout = gaussian_data.flow(SCHEDULE, START, mean=mean)
    assert np.abs(expected - throughout).max() > 0.15


def test_samples_of_a_batch_are_guided_at_their_own_level():
  x, t = {"x": jnp.asarray(START)}, jnp.array([5, 400, 999])
  guided = guided_denoiser(3.0)(x, t, KEY)["x"]
  alone = gaussian_data.make_denoiser(SCHEDULE, mean=CLASS_MEANS)(x, t, KEY)
  got = limited_denoiser(3.0)(x, t, KEY)["x"]
  np.testing.assert_allclose(got[1], guided[1], rtol=1e-6)
  np.testing.assert_allclose(got[::2], alone["x"][::2], rtol=1e-6)
  assert np.abs(guided - alone["x"]).min() > 1e-3


def test_a_stream_is_guided_at_the_level_of_its_own_noisiest_frame():
  x = {"video": jnp.ones((2, 2, 1, 1, 3)), "audio": jnp.ones((2, 4, 1))}
  t = {"video": jnp.array([999, 0]), "audio": jnp.array([[0, 400], [0, 10]])}

  def twice(x, t, rng):
    label = jnp.array([2.0, -1.0, 2.0, -1.0])
    return jax.tree.map(
      lambda v: v * label.reshape(-1, *(1,) * (v.ndim - 1)), x
    )

  inside = noise_interval(SCHEDULE, INTERVAL)
  alone = lambda x, t, rng: jax.tree.map(lambda v: 2 * v, x)  # noqa: E731
  out = classifier_free(twice, 4.0, inside=inside, alone=alone)(x, t, KEY)
  # -1 + 4 (2 + 1) where it is guided, 2 elsewhere.
  np.testing.assert_allclose(out["video"], 2)
  np.testing.assert_allclose(out["audio"][0], 11)
  np.testing.assert_allclose(out["audio"][1], 2)


def test_a_call_outside_of_the_interval_costs_half():
  sizes = []

  def counted(x, t, rng):
    jax.debug.callback(lambda: sizes.append(len(t)))
    return x

  limited = classifier_free(
    counted, 3.0, inside=noise_interval(SCHEDULE, INTERVAL), alone=counted
  )
  for step in (999, 400, 0):
    limited({"x": jnp.asarray(START)}, jnp.full(3, step), KEY)
  jax.effects_barrier()
  assert sizes == [3, 6, 3]


@pytest.mark.parametrize("interval", [(2, 1), (-1.0, 1.0), (1.0,), (1, 1)])
def test_an_interval_that_is_none_is_an_error(interval):
  with pytest.raises(ValueError, match="0 <= low < high"):
    noise_interval(SCHEDULE, interval)


# --- Its parts. ---


def test_one_call_sees_every_sample_twice_as_neighbours():
  seen = []

  def twice(x, t, rng):
    seen.append((x["x"], t))
    weight = jnp.array([2.0, -1.0, 2.0, -1.0, 2.0, -1.0])[:, None]
    return {"x": weight * x["x"]}

  t = jnp.array([5, 700, 30])
  output = classifier_free(twice, 4.0)({"x": jnp.asarray(START)}, t, KEY)
  ((x_seen, t_seen),) = seen
  np.testing.assert_array_equal(x_seen, START[[0, 0, 1, 1, 2, 2]])
  np.testing.assert_array_equal(t_seen, [5, 5, 700, 700, 30, 30])
  # -x + 4 (2x + x).
  np.testing.assert_allclose(output["x"], 11 * START, rtol=1e-6)


def test_a_learned_variance_is_the_conditioned_one():
  x = {"image": jnp.ones((2, 3, 3, 2)), "sound": jnp.ones((2, 5, 1))}

  def twice(x, t, rng):
    def leaf(v):
      label = jnp.arange(4.0).reshape(-1, *(1,) * (v.ndim - 1))
      return jnp.concatenate([label * v, 10 + label * v], axis=-1)

    return jax.tree.map(leaf, x)

  guided = classifier_free(twice, 3.0, learn_sigma=True)
  output = guided(x, jnp.zeros(2, jnp.int32), KEY)
  for name, channels in (("image", 2), ("sound", 1)):
    assert output[name].shape == (*x[name].shape[:-1], 2 * channels)
    mean, variance = jnp.split(output[name], 2, axis=-1)
    for sample, (m, v) in enumerate([(1 + 3 * (0 - 1), 10), (3 - 3, 12)]):
      np.testing.assert_allclose(mean[sample], m)
      np.testing.assert_allclose(variance[sample], v)


def test_bfloat16_outputs_are_guided_in_float32():
  def twice(x, t, rng):
    return {"x": jnp.asarray(x["x"] + 1, jnp.bfloat16)}

  guided = classifier_free(twice, 7.5)
  out = guided({"x": jnp.asarray(START)}, jnp.zeros(3, jnp.int32), KEY)
  assert out["x"].dtype == jnp.float32


def test_a_scale_that_is_no_number_is_an_error():
  with pytest.raises(ValueError, match="give a finite number"):
    classifier_free(lambda x, t, rng: x, float("nan"))
