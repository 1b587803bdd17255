"""Losses against published numbers; the samplers of training steps."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax.diffusion import (
  create_timestep_sampler,
  gaussian,
  make_process,
  make_schedule,
  training_losses,
)
from mmdiff_jax.diffusion.losses import discretized_gaussian_log_likelihood
from tests.diffusion_golden import GOLDEN, NOISE, X_START, make_toy

SCHEDULE = make_schedule("linear", 1000)
FIVE_STEPS = make_schedule("cosine", 5)


@pytest.mark.parametrize("t", [(0, 0), (7, 650)])
@pytest.mark.parametrize("rescaled", [0, 1])
@pytest.mark.parametrize("variance", ["fixed_large", "learned_range"])
def test_losses_equal_the_published_ones(variance, rescaled, t):
  learn_sigma = variance == "learned_range"
  loss = ("rescaled_" if rescaled else "") + "mse_vb" if learn_sigma else "mse"
  terms = training_losses(
    make_toy(learn_sigma),
    SCHEDULE,
    X_START,
    jnp.array(t),
    NOISE,
    loss=loss,
    learn_sigma=learn_sigma,
  )
  prefix = f"loss/{variance}/rescaled{rescaled}/{t[0]}_{t[1]}"
  got = {"loss": terms["loss"]}
  for name in ("mse", "vb") if learn_sigma else ("mse",):
    got |= {f"{name}_{m}": value for m, value in terms[name].items()}
  expected = {k: v for k, v in GOLDEN.items() if k.startswith(prefix + "/")}
  assert {f"{prefix}/{k}" for k in got} == set(expected)
  for name, value in got.items():
    np.testing.assert_allclose(value, expected[f"{prefix}/{name}"], rtol=1e-5)


def test_rescaling_multiplies_the_bound_by_t_over_1000():
  schedule = make_schedule("linear", 1000, "250")
  toy = make_toy(True)
  args = (toy, schedule, X_START, jnp.array([3, 200]), NOISE)
  plain = training_losses(*args, loss="mse_vb", learn_sigma=True)
  rescaled = training_losses(*args, loss="rescaled_mse_vb", learn_sigma=True)
  for m in NOISE:
    np.testing.assert_allclose(
      rescaled["vb"][m], 0.25 * plain["vb"][m], rtol=1e-6
    )


def test_the_bound_does_not_move_the_prediction():
  def bound(scale):
    def denoise_fn(x, t, rng):
      return {
        m: jnp.concatenate([scale[0] * v, scale[1] * v], -1)
        for m, v in x.items()
      }

    terms = training_losses(
      denoise_fn,
      SCHEDULE,
      X_START,
      jnp.array([0, 400]),
      NOISE,
      loss="mse_vb",
      learn_sigma=True,
    )
    return sum(jnp.sum(v) for v in terms["vb"].values())

  gradient = jax.jit(jax.grad(bound))(jnp.array([0.5, 0.5]))
  assert gradient[0] == 0.0
  assert gradient[1] != 0.0


def test_the_network_sees_original_steps_and_the_rng():
  seen = {}

  def denoise_fn(x, t, rng):
    seen.update(t=t, rng=rng)
    return x

  schedule = make_schedule("linear", 1000, "ddim25")
  training_losses(
    denoise_fn, schedule, X_START, jnp.array([0, 24]), NOISE, rng="key"
  )
  np.testing.assert_array_equal(seen["t"], schedule.timestep_map[[0, 24]])
  assert seen["rng"] == "key"


@pytest.mark.parametrize("learn_sigma", [False, True])
def test_weights_of_modalities_count_in_every_term(learn_sigma):
  weights = {"video": 2.0, "audio": 0.25}
  terms = training_losses(
    make_toy(learn_sigma),
    SCHEDULE,
    X_START,
    jnp.array([7, 650]),
    NOISE,
    loss="mse_vb" if learn_sigma else "mse",
    learn_sigma=learn_sigma,
    weights=weights,
  )
  variance = "learned_range" if learn_sigma else "fixed_large"
  published = {
    m: GOLDEN[f"loss/{variance}/rescaled0/7_650/mse_{m}"]
    + (GOLDEN[f"loss/{variance}/rescaled0/7_650/vb_{m}"] if learn_sigma else 0)
    for m in weights
  }
  expected = 2.0 * published["video"] + 0.25 * published["audio"]
  np.testing.assert_allclose(terms["loss"], expected, rtol=1e-5)


def test_predicting_x_start_is_compared_with_x_start():
  terms = training_losses(
    lambda x, t, rng: X_START,
    SCHEDULE,
    X_START,
    jnp.array([7, 650]),
    NOISE,
    prediction="x_start",
  )
  np.testing.assert_array_equal(terms["loss"], [0.0, 0.0])


@pytest.mark.parametrize(
  ("prediction", "target"),
  [
    ("eps", lambda x, noise, s: noise),
    ("x_start", lambda x, noise, s: x),
    ("v", lambda x, noise, s: (1 - s) * noise - s * x),
    ("velocity", lambda x, noise, s: noise - x),
  ],
)
def test_a_network_that_returns_the_target_has_no_loss(prediction, target):
  # The first half, which keeps some signal: eps is refused without any.
  process = make_process("flow").keep(np.arange(501))
  s = (process.timestep_map[[7, 500]] + 1) / 1000
  expected = {
    m: target(x, NOISE[m], s.reshape(-1, *(1,) * (x.ndim - 1)))
    for m, x in X_START.items()
  }
  terms = training_losses(
    lambda x, t, rng: jax.tree.map(jnp.asarray, expected),
    process,
    X_START,
    jnp.array([7, 500]),
    NOISE,
    prediction=prediction,
  )
  np.testing.assert_allclose(terms["loss"], [0.0, 0.0], atol=1e-12)


def test_every_stream_may_have_its_own_step():
  toy, times = make_toy(True), {"video": [7, 650], "audio": [0, 30]}
  options = {"loss": "mse_vb", "learn_sigma": True}

  def losses(t, denoise_fn):
    return training_losses(denoise_fn, SCHEDULE, X_START, t, NOISE, **options)

  # The toy's streams see each other: here each sees its own step's world.
  def apart(x, t, rng):
    del rng
    worlds = {
      m: gaussian.q_sample(SCHEDULE, X_START, jnp.array(times[m]), NOISE)
      for m in times
    }
    assert {m: v.tolist() for m, v in t.items()} == times
    return {m: toy(worlds[m], t[m], None)[m] for m in times}

  t = {m: jnp.array(v) for m, v in times.items()}
  both = losses(t, apart)
  for m, own in t.items():
    shared = losses(own, toy)
    for term in ("mse", "vb"):
      np.testing.assert_allclose(both[term][m], shared[term][m], rtol=1e-6)


def elementwise(x, t, rng):
  """A denoiser of two outputs whose every element sees its own input only."""
  del t, rng
  return {
    m: jnp.concatenate([0.5 * v - 0.1, jnp.sin(3 * v)], -1)
    for m, v in x.items()
  }


def test_losses_of_what_is_known_and_of_the_rest_add_up_to_all():
  t, seen = jnp.array([0, 400]), []

  def losses(clean):
    def denoise_fn(x, t, rng):
      seen.append(x)
      return elementwise(x, t, rng)

    return training_losses(
      denoise_fn,
      SCHEDULE,
      X_START,
      t,
      NOISE,
      loss="mse_vb",
      learn_sigma=True,
      clean=clean,
    )

  # The first half of the first sample, and the second of the second.
  known = {}
  for m, x in X_START.items():
    half = np.arange(x.shape[1]) < x.shape[1] // 2
    mask = np.stack([half, ~half])
    known[m] = mask.reshape(*mask.shape, *(1,) * (x.ndim - 2))
  rest = {m: ~k for m, k in known.items()}
  everything, *parts = losses(None), losses(known), losses(rest)
  for name, where in known.items():
    for term in ("mse", "vb"):
      first, second = (part[term][name] for part in parts)
      assert (first > 0).all() and (second > 0).all()
      np.testing.assert_allclose(
        first + second, everything[term][name], rtol=1e-5
      )
    # What is known enters as it is, the rest as without.
    np.testing.assert_array_equal(
      seen[1][name], jnp.where(where, X_START[name], seen[0][name])
    )


def test_the_bound_is_the_same_however_the_answer_is_put():
  t = jnp.array([0, 400])
  x_t = gaussian.q_sample(SCHEDULE, X_START, t, NOISE)
  scale = np.sqrt(SCHEDULE.alphas_cumprod[t])
  sigma = np.sqrt(1 - SCHEDULE.alphas_cumprod[t])

  def bound(prediction):
    def denoise_fn(x, t, rng):
      eps = elementwise(x, t, rng)
      if prediction == "eps":
        return eps
      out = {}
      for m, value in eps.items():
        mean, variance = jnp.split(value, 2, -1)
        a, s = (y.reshape(-1, *(1,) * (mean.ndim - 1)) for y in (scale, sigma))
        out[m] = jnp.concatenate([(x_t[m] - s * mean) / a, variance], -1)
      return out

    return training_losses(
      denoise_fn,
      SCHEDULE,
      X_START,
      t,
      NOISE,
      loss="mse_vb",
      learn_sigma=True,
      prediction=prediction,
    )["vb"]

  for m, expected in bound("eps").items():
    np.testing.assert_allclose(bound("x_start")[m], expected, rtol=1e-3)


@pytest.mark.parametrize("mean", [-0.2, 0.2])
def test_bin_probabilities_sum_to_one(mean):
  values = jnp.arange(256) / 127.5 - 1
  log_p = discretized_gaussian_log_likelihood(values, mean, jnp.log(0.3))
  assert float(jnp.sum(jnp.exp(log_p))) == pytest.approx(1.0, abs=1e-3)


def test_a_bin_that_is_all_but_impossible_has_a_floor():
  log_p = discretized_gaussian_log_likelihood(
    jnp.array([0.0, 1.0, -1.0]), jnp.array([1.0, -1.0, 1.0]), jnp.log(0.01)
  )
  np.testing.assert_allclose(log_p, np.log(1e-12), rtol=1e-6)


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"loss": "l1"}, "allowed are mse"),
    ({"loss": "mse_vb"}, "allowed are mse"),
    ({"loss": "mse", "learn_sigma": True}, "allowed are mse_vb, rescaled"),
    ({"prediction": "w"}, "allowed are eps, x_start, v, velo"),
    ({"weights": {"video": 1.0}}, "one weight per modality"),
  ],
)
def test_a_wrong_loss_is_a_clear_error(options, match):
  with pytest.raises(ValueError, match=match):
    training_losses(
      make_toy(options.get("learn_sigma", False)),
      SCHEDULE,
      X_START,
      jnp.array([1, 2]),
      NOISE,
      **options,
    )


def test_uniform_sampler_visits_every_step_with_weight_one():
  sampler = create_timestep_sampler("uniform", FIVE_STEPS)
  t, weights = sampler.sample(sampler.init(), jax.random.key(0), 500)
  assert (t.dtype, weights.dtype) == (jnp.int32, jnp.float32)
  assert set(t.tolist()) == set(range(5))
  np.testing.assert_array_equal(weights, 1.0)


def _history_by_hand(batches, num_timesteps=5, length=10):
  history = collections.defaultdict(lambda: collections.deque(maxlen=length))
  for t, losses in batches:
    for step, loss in zip(t, losses, strict=True):
      history[step].append(loss)
  return [list(history[step]) for step in range(num_timesteps)]


def test_second_moment_sampler_follows_the_last_ten_losses():
  sampler = create_timestep_sampler("loss_second_moment", FIVE_STEPS)
  update = jax.jit(sampler.update)
  rng = np.random.default_rng(0)
  batches = []
  state = sampler.init()
  for _ in range(12):
    # Far more than ten losses of one step may meet in a single batch.
    t = rng.choice(5, 40, p=[0.6, 0.1, 0.1, 0.1, 0.1])
    losses = np.float32(rng.uniform(0.1, 1, 40) * (1 + t))
    batches.append((t, losses))
    state = update(state, jnp.array(t), jnp.array(losses))
  history = _history_by_hand(batches)
  assert min(map(len, history)) == 10
  for step in range(5):
    np.testing.assert_array_equal(
      np.sort(state["history"][step]), np.sort(history[step])
    )
  p = np.sqrt([np.mean(np.square(h)) for h in history])
  p = 0.999 * p / p.sum() + 0.001 / 5
  np.testing.assert_allclose(sampler.probabilities(state), p, rtol=1e-5)
  t, weights = jax.jit(sampler.sample, static_argnums=2)(
    state, jax.random.key(1), 20_000
  )
  np.testing.assert_allclose(weights, 1 / (5 * p[t]), rtol=1e-5)
  np.testing.assert_allclose(np.bincount(t) / 20_000, p, atol=0.015)


def test_second_moment_sampler_is_uniform_until_every_history_is_full():
  sampler = create_timestep_sampler("loss_second_moment", FIVE_STEPS)
  t = jnp.repeat(jnp.arange(5), 10)[:-1]
  state = sampler.update(sampler.init(), t, jnp.arange(49.0))
  np.testing.assert_allclose(sampler.probabilities(state), 0.2)
  state = sampler.update(state, jnp.array([4]), jnp.array([9.0]))
  assert float(sampler.probabilities(state)[0]) < 0.1


def test_unknown_timestep_sampler_is_a_clear_error():
  with pytest.raises(ValueError, match="uniform, loss_second_moment"):
    create_timestep_sampler("importance", FIVE_STEPS)
