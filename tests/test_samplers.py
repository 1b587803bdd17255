"""What every sampler promises, and DDPM and DDIM in particular."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax import samplers
from mmdiff_jax.diffusion import make_process, make_schedule
from mmdiff_jax.samplers import (
  Condition,
  condition_on_audio,
  initial_noise,
  make_rng,
  make_sampler,
)
from tests import gaussian_data
from tests.diffusion_golden import X, assert_close, golden, make_toy

SCHEDULE = make_schedule("linear", 1000)
KEY = jax.random.key(3)

# One of each kind, cheap.
SAMPLERS = {
  "ddpm": {"name": "ddpm", "steps": 6},
  "ddim": {"name": "ddim", "steps": 5},
  "ddim-eta": {"name": "ddim", "steps": "7", "eta": 0.7},
  "singlestep-3": {"name": "dpm_solver", "steps": 7},
  "singlestep-2++": {"name": "dpm_solver++", "steps": 5, "order": 2},
  "fixed-3++": {
    "name": "dpm_solver++",
    "method": "singlestep_fixed",
    "steps": 8,
    "denoise_final": True,
  },
  "multistep-3": {"name": "dpm_solver", "method": "multistep", "steps": 5},
  "multistep-3-start": {
    "name": "dpm_solver++",
    "method": "multistep",
    "steps": 5,
    "singlestep_start": True,
  },
  "sde": {"name": "dpm_solver++", "method": "sde", "steps": 5},
  "adaptive-2": {
    "name": "dpm_solver",
    "method": "adaptive",
    "order": 2,
    "rtol": 0.5,
    "first_step": 1.0,
  },
  "adaptive-3++": {
    "name": "dpm_solver++",
    "method": "adaptive",
    "rtol": 0.5,
    "first_step": 1.0,
    "denoise_final": True,
  },
}
NFE = {
  "ddpm": 6,
  "ddim": 5,
  "ddim-eta": 7,
  "singlestep-3": 7,
  "singlestep-2++": 5,
  "fixed-3++": 7,
  "multistep-3": 5,
  "multistep-3-start": 6,
  "sde": 5,
}


def build(kind, **options):
  return make_sampler(**(SAMPLERS[kind] | options))


def test_ddim_loop_equals_the_published_one():
  sampler = make_sampler("ddim", steps=25)
  x, nfe = sampler(make_toy(), SCHEDULE, X, KEY)
  assert nfe == 25
  assert_close(x, golden("ddim25_loop"), 1e-5)


def test_a_respaced_schedule_is_walked_as_it_is():
  respaced = make_schedule("linear", 1000, "ddim25")
  for steps in (None, 25):
    x, nfe = make_sampler("ddim", steps=steps)(make_toy(), respaced, X, KEY)
    assert nfe == 25
    assert_close(x, golden("ddim25_loop"), 1e-5)


EVERY = [
  (name, method)
  for name in samplers.SAMPLERS
  for method in samplers.sampler_methods(name) or (None,)
]


@pytest.mark.parametrize(
  "condition", [None, "replacement", "gradient", "resampling"]
)
@pytest.mark.parametrize(("name", "method"), EVERY)
def test_every_sampler_takes_every_condition(name, method, condition):
  sampler = make_sampler(name, method=method)
  if "steps" in samplers.sampler_options(name, method):
    sampler = make_sampler(name, method=method, steps=6)
  given = None
  if condition is not None:
    scale = {"scale": 0.1} if condition == "gradient" else {}
    given = condition_on_audio(X["audio"], method=condition, **scale)

  x, nfe = jax.eval_shape(
    lambda x, given: sampler(
      make_toy(), sampler.respace(SCHEDULE), x, KEY, given
    ),
    X,
    given,
  )
  assert nfe.shape == ()
  assert {m: (v.shape, v.dtype) for m, v in x.items()} == {
    m: (v.shape, jnp.float32) for m, v in X.items()
  }


@pytest.mark.parametrize(("name", "method"), EVERY)
def test_the_options_of_a_sampler_are_those_that_it_takes(name, method):
  options = samplers.sampler_options(name, method)
  defaults = {option: value.default for option, value in options.items()}
  given = make_sampler(name, **defaults | {"method": method})
  assert given == make_sampler(name, method=method)
  for option in set(samplers.OPTIONS) - set(options):
    with pytest.raises(ValueError, match=f"'{option}' does not apply"):
      make_sampler(name, **{"method": method, option: "something"})
  for option, (kind, default) in options.items():
    assert option in samplers.OPTIONS
    assert default is None or isinstance(default, kind)


def test_options_have_the_types_of_their_fields():
  ddim = samplers.sampler_options("ddim")
  assert ddim["steps"] == (int | str, None)
  assert ddim["eta"] == (float, 0.0)
  assert (
    samplers.sampler_options("dpm_solver", "adaptive")["rtol"].type is float
  )
  assert samplers.condition_options() == {
    "method": (str, "replacement"),
    "scale": (float, 0.0),
    "resample_repeats": (int, None),
    "resample_jump": (int, None),
  }
  internal = {"plus_plus", "learn_sigma", "prediction", "keep_trajectory"}
  assert not internal & set(samplers.OPTIONS)


@pytest.mark.parametrize("kind", NFE)
def test_nfe_follows_from_the_options(kind):
  assert build(kind).count(SCHEDULE, None)[1] == NFE[kind]


# One loop makes the calls of all planned samplers, another the adaptive ones.
@pytest.mark.parametrize("kind", ["multistep-3-start", "adaptive-3++"])
def test_nfe_is_the_number_of_network_calls(kind):
  calls = collections.Counter()

  def denoise_fn(x, t, rng):
    jax.debug.callback(lambda: calls.update(["network"]))
    return make_toy()(x, t, rng)

  x, nfe = jax.jit(lambda x, rng: build(kind)(denoise_fn, SCHEDULE, x, rng))(
    X, KEY
  )
  jax.block_until_ready(x)
  jax.effects_barrier()
  assert calls["network"] == nfe
  if kind in NFE:
    assert nfe == NFE[kind]
  for m in X:
    assert x[m].shape == X[m].shape and np.isfinite(x[m]).all()


@pytest.mark.parametrize("kind", ["ddpm", "sde", "adaptive-3++"])
def test_a_sample_depends_on_its_own_key_alone(kind):
  # Elementwise, so that no reduction order differs between batch sizes.
  def denoise_fn(x, t, rng):
    shift = jax.random.uniform(rng) + t / 1000
    return jax.tree.map(
      lambda v: 0.9 * v + shift.reshape(-1, *(1,) * (v.ndim - 1)) * 0.1, x
    )

  @jax.jit
  def run(indices):
    rng = make_rng(KEY, indices)
    x = initial_noise(rng, {"a": (3, 2), "b": (5,)}, indices.shape[0])
    condition = Condition(
      {"a": jnp.ones((1, 3, 2))}, {"a": jnp.eye(3, 2)[None]}
    )
    return build(kind)(denoise_fn, SCHEDULE, x, rng, condition)[0]

  batch = run(jnp.array([4, 7, 9]))
  others = [run(jnp.array([7, 1, 2])), run(jnp.array([7]))]
  for m in batch:
    assert not np.allclose(batch[m][0], batch[m][1])
    for other in others:
      np.testing.assert_allclose(batch[m][1], other[m][0], rtol=0, atol=1e-6)


def test_one_key_is_the_batch_counted_from_zero():
  sampler = build("ddpm")
  one, _ = sampler(make_toy(), SCHEDULE, X, KEY)
  two, _ = sampler(make_toy(), SCHEDULE, X, make_rng(KEY, jnp.arange(2)))
  assert_close(one, two, 0)


def test_initial_noise_is_standard_normal_and_not_the_steps_noise():
  noise = initial_noise(KEY, {"video": (40, 50)}, 2)["video"]
  assert abs(float(noise.mean())) < 0.05
  assert abs(float(noise.std()) - 1) < 0.05
  assert abs(np.corrcoef(noise.reshape(2, -1))[0, 1]) < 0.1


def test_the_window_key_changes_with_every_call_and_is_the_same_for_all():
  keys = []

  def denoise_fn(x, t, rng):
    jax.debug.callback(
      lambda k: keys.append(tuple(k.tolist())), jax.random.key_data(rng)
    )
    return x

  for rng in (KEY, make_rng(KEY, jnp.array([5, 6]))):
    x, _ = build("multistep-3")(denoise_fn, SCHEDULE, X, rng)
    jax.block_until_ready(x)
    jax.effects_barrier()
  assert len(keys) == 10
  assert len(set(keys)) == 5
  assert sorted(keys[:5]) == sorted(keys[5:])


@pytest.mark.parametrize("kind", ["singlestep-3", "fixed-3++"])
def test_a_trajectory_holds_x_after_every_step(kind):
  x, nfe, steps = build(kind, keep_trajectory=True)(
    make_toy(), SCHEDULE, X, KEY
  )
  assert nfe == NFE[kind]
  for m in X:
    assert steps[m].shape == (3, *X[m].shape)
    np.testing.assert_array_equal(steps[m][-1], x[m])


@pytest.mark.parametrize("eta", [None, 0.0, 1.0])
@pytest.mark.parametrize("name", ["vp", "flow"])
def test_ancestral_samplers_reproduce_the_variance_of_gaussian_data(name, eta):
  # Linear in every source of noise, so one sample per source gives the
  # variance of the result exactly.
  process = make_process(name).respace("200")
  denoise = gaussian_data.make_denoiser(process, mean=0.0, prediction="v")
  index = {int(t): i for i, t in enumerate(process.timestep_map)}
  lookup = jnp.array([index.get(t, 0) for t in range(1000)])
  options = {} if eta is None else {"eta": eta}
  sampler = make_sampler(
    "ddpm" if eta is None else "ddim",
    clip_denoised=False,
    prediction="v",
    **options,
  )
  sources = jnp.eye(201)
  x, _ = sampler(
    lambda x, t, rng: denoise(x, lookup[t], rng),
    process,
    {"x": sources[0][:, None]},
    KEY,
    noise_fn=lambda step: {"x": sources[step + 1][:, None]},
  )
  std = float(jnp.sqrt(jnp.sum(x["x"] ** 2)))
  # The posterior's variance (eta 1) is too small for Gaussian data, the fixed
  # large one too large; both by O(1/steps).
  assert std == pytest.approx(gaussian_data.STD, rel=0.05)


def test_ddim_with_eta_1_has_the_ancestral_mean():
  quiet = lambda step: jax.tree.map(jnp.zeros_like, X)  # noqa: E731
  ddim, _ = make_sampler("ddim", steps="6", eta=1.0)(
    make_toy(), SCHEDULE, X, KEY, noise_fn=quiet
  )
  ddpm, _ = make_sampler("ddpm", steps=6)(
    make_toy(), SCHEDULE, X, KEY, noise_fn=quiet
  )
  assert_close(ddim, ddpm, 1e-5)


@pytest.mark.parametrize("kind", ["ddim", "singlestep-3"])
def test_a_learned_variance_is_dropped_where_eps_alone_is_needed(kind):
  plain, _ = build(kind)(make_toy(), SCHEDULE, X, KEY)
  learned, _ = build(kind, learn_sigma=True)(make_toy(True), SCHEDULE, X, KEY)
  assert_close(plain, learned, 1e-6)


def test_a_learned_variance_is_used_by_ddpm():
  plain, _ = build("ddpm")(make_toy(), SCHEDULE, X, KEY)
  learned, _ = build("ddpm", learn_sigma=True)(make_toy(True), SCHEDULE, X, KEY)
  assert np.abs(plain["video"] - learned["video"]).max() > 1e-2


def test_bfloat16_networks_are_stepped_in_float32():
  def denoise_fn(x, t, rng):
    return jax.tree.map(lambda v: v.astype(jnp.bfloat16), make_toy()(x, t, rng))

  half = jax.tree.map(lambda v: jnp.asarray(v, jnp.bfloat16), X)
  for kind in ("ddpm", "singlestep-3", "adaptive-2"):
    x, _ = build(kind)(denoise_fn, SCHEDULE, half, KEY)
    assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(x))


def test_the_network_is_compiled_once_whatever_the_order():
  traces = []

  def denoise_fn(x, t, rng):
    traces.append(1)
    return x

  for kind in SAMPLERS:
    traces.clear()
    jax.jit(
      lambda x, kind=kind: build(kind)(denoise_fn, SCHEDULE, x, KEY)
    ).lower(X)
    final = "adaptive" in kind and SAMPLERS[kind].get("denoise_final", False)
    assert len(traces) == 1 + final, kind


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"name": "euler"}, "allowed are ddpm, ddim, dpm_solver"),
    ({"name": "ddpm", "order": 2}, "'order' does not apply to 'ddpm'"),
    ({"name": "ddpm", "eta": 0.5}, "'eta' does not apply to 'ddpm'"),
    ({"name": "ddim", "eta": 2.0}, r"eta must lie in \[0, 1\]"),
    ({"name": "dpm_solver", "eta": 1.0}, "'eta' does not apply"),
    ({"name": "dpm_solver", "method": "sde"}, "allowed are singlestep"),
    ({"name": "dpm_solver", "method": "euler"}, "allowed are singlestep"),
    ({"name": "dpm_solver++", "method": "sde", "order": 3}, "order=2"),
    ({"name": "dpm_solver", "order": 4}, "allowed are 1, 2, 3"),
    ({"name": "dpm_solver", "grid": "karras"}, "allowed are logSNR"),
    ({"name": "dpm_solver", "steps": 0}, "at least 1"),
    ({"name": "dpm_solver", "steps": "ddim25"}, "whole number"),
    (
      {"name": "dpm_solver", "method": "singlestep_fixed", "steps": 2},
      "at least 3",
    ),
    ({"name": "dpm_solver", "dynamic_thresholding": True}, r"dpm_solver\+\+"),
    (
      {
        "name": "dpm_solver++",
        "dynamic_thresholding": True,
        "clip_denoised": True,
      },
      "exclude each other",
    ),
    (
      {"name": "dpm_solver", "prediction": "w"},
      "allowed are eps, x_start, v, velo",
    ),
    (
      {"name": "dpm_solver", "method": "adaptive", "steps": 20},
      "'steps' does not apply",
    ),
    (
      {"name": "dpm_solver", "method": "adaptive", "keep_trajectory": True},
      "'keep_trajectory' does not apply",
    ),
    ({"name": "dpm_solver", "method": "adaptive", "order": 1}, "2 .*and 3"),
    ({"name": "dpm_solver", "method": "adaptive", "rtol": 0.0}, "positive"),
    (
      {"name": "dpm_solver", "method": "adaptive", "max_growth": 1.0},
      "max_growth must exceed 1",
    ),
    (
      {"name": "dpm_solver", "singlestep_start": True},
      "'multistep' of order 3",
    ),
  ],
)
def test_an_option_that_cannot_be_honoured_is_an_error(options, match):
  with pytest.raises(ValueError, match=match):
    make_sampler(**options)


def test_options_that_ask_for_nothing_are_accepted_everywhere():
  nothing = {"eta": 0.0, "dynamic_thresholding": False, "atol": None}
  for kind in ("ddpm", "singlestep-3", "sde", "adaptive-2"):
    assert build(kind, **nothing) == build(kind)


def test_steps_that_the_schedule_cannot_give_are_an_error():
  with pytest.raises(ValueError, match="at most 1000"):
    make_sampler("ddpm", steps=1001)(make_toy(), SCHEDULE, X, KEY)
  with pytest.raises(ValueError, match="no integer stride"):
    make_sampler("ddim", steps="ddim499")(make_toy(), SCHEDULE, X, KEY)
  with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
    make_sampler("ddim", steps=0)
  with pytest.raises(ValueError, match="at least 2 steps"):
    one = make_schedule("linear", 1000, "1")
    make_sampler("dpm_solver")(make_toy(), one, X, KEY)


@pytest.mark.parametrize("steps", [25, 60, 499])
def test_ddim_takes_any_number_of_steps(steps):
  """An integer stride where one fits, else even spacing."""
  respaced = make_sampler("ddim", steps=steps).respace(SCHEDULE)
  kept = respaced.timestep_map
  assert len(kept) == steps
  strides = set(np.diff(kept).tolist())
  assert strides == {40} if steps == 25 else max(strides) - min(strides) == 1


def test_keys_that_do_not_fit_the_batch_are_an_error():
  rng = make_rng(KEY, jnp.arange(3))
  with pytest.raises(ValueError, match="for a batch of 2"):
    build("ddpm")(make_toy(), SCHEDULE, X, rng)


def test_a_condition_on_what_the_sample_lacks_is_an_error():
  with pytest.raises(ValueError, match="allowed are"):
    build("ddpm")(
      lambda x, t, rng: x,
      SCHEDULE,
      {"image": jnp.ones((2, 4, 4, 3))},
      KEY,
      condition_on_audio(jnp.ones((2, 64, 1))),
    )
