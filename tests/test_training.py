"""Optimiser, metrics and train step, on a network of a few parameters."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import default
from mmdiff_jax import models
from mmdiff_jax.devices.mesh import make_mesh
from mmdiff_jax.diffusion import create_timestep_sampler
from mmdiff_jax.task import make_task
from mmdiff_jax.training import divergence, metrics
from mmdiff_jax.training.optimizer import (
  create_optimizer,
  learning_rate_schedule,
)
from mmdiff_jax.training.state import state_initializer
from mmdiff_jax.training.step import (
  group_norms,
  make_loss_fn,
  make_train_step,
)


class Toy(nn.Module):
  """Scales each modality by a learned number, and knows t."""

  @nn.compact
  def __call__(self, video, audio, t, train=False):
    scale = {
      name: self.param(f"{name}_scale", nn.initializers.ones, (1,))
      for name in ("video", "audio")
    }
    shared = self.param("shift", nn.initializers.zeros, (1,))
    when = t.astype(jnp.float32) / 1000
    return (
      scale["video"] * video + shared * when[:, None, None, None, None],
      scale["audio"] * audio + shared * when[:, None, None],
    )


def make_batch(size=8):
  rng = np.random.default_rng(0)
  return {
    "video": rng.integers(0, 256, (size, 2, 4, 4, 3)).astype(np.uint8),
    "audio": rng.uniform(-1, 1, (size, 16, 1)).astype(np.float32),
  }


class ToyNetwork(models.Network):
  """Two small streams."""

  module_cls = Toy

  def declare(self, config):
    del config
    return {
      "video": models.Leaf((2, 4, 4, 3), jnp.uint8),
      "audio": models.Leaf((16, 1), jnp.float32),
    }, {}

  def smallest(self):
    return self.declare(None)

  def __call__(self, module, x, t, inputs, train):
    del inputs
    video, audio = module(x["video"], x["audio"], t, train)
    return {"video": video, "audio": audio}


class UnsureNetwork(ToyNetwork):
  """Learns a variance too: what it returns of it is the mean's half."""

  learn_sigma = True

  def __call__(self, module, x, t, inputs, train):
    out = super().__call__(module, x, t, inputs, train)
    return {k: jnp.concatenate([v, 0.5 * v], -1) for k, v in out.items()}


def toy_task(config, network=ToyNetwork):
  task = dataclasses.replace(make_task(config), network=network(Toy()))
  return dataclasses.replace(task, x=task.network.declare(config)[0])


def build(timestep_sampler="uniform", **train):
  config = default.get_config()
  config.train.update(learning_rate=0.1, ema_decay=0.75, **train)
  task = toy_task(config)
  timesteps = create_timestep_sampler(timestep_sampler, task.process)
  optimizer = create_optimizer(config.train)
  init = state_initializer(task.init, optimizer, timesteps.init)
  step = make_train_step(
    task,
    config,
    optimizer,
    timesteps,
    make_mesh(),
    jax.random.key(1),
  )
  return init(jax.random.key(0)), jax.jit(step), make_batch()


def test_microbatches_change_nothing_but_memory():
  results = []
  for microbatches in (1, 4):
    state, step, batch = build(microbatches=microbatches)
    state, out = step(state, batch)
    results.append((state, metrics.compute(out["averages"])))
  (a, metrics_a), (b, metrics_b) = results
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), a, b)
  assert metrics_a.keys() == metrics_b.keys()
  for name, value in metrics_a.items():
    np.testing.assert_allclose(metrics_b[name], value, rtol=1e-4)


def test_step_is_adam_and_ema_by_hand():
  state, step, batch = build()
  new, _ = step(state, batch)
  # The first step of Adam moves every parameter by the learning rate.
  moved = jax.tree.map(lambda a, b: abs(a - b), new.params, state.params)
  jax.tree.map(lambda m: np.testing.assert_allclose(m, 0.1, rtol=1e-4), moved)
  jax.tree.map(
    lambda e, old, p: np.testing.assert_allclose(
      e, 0.75 * old + 0.25 * p, rtol=1e-6
    ),
    new.ema_params,
    state.params,
    new.params,
  )
  assert int(new.step) == 1


def test_randomness_depends_on_the_step_alone():
  state, step, batch = build()
  _, first = step(state, batch)
  _, again = step(state, batch)
  later = state.replace(step=state.step + 1)
  _, other = step(later, batch)
  first, again, other = (
    metrics.compute(out["averages"]) for out in (first, again, other)
  )
  assert first == again
  assert first["loss"] != other["loss"]


def test_modality_losses_and_weights_add_up():
  _, step, batch = build(video_loss_weight=2.0, audio_loss_weight=0.5)
  state, _, _ = build()
  values = metrics.compute(step(state, batch)[1]["averages"])
  total = 2.0 * values["video_mse"] + 0.5 * values["audio_mse"]
  np.testing.assert_allclose(values["loss"], total, rtol=1e-5)


def losses_by_hand(task, params, x, noise, t):
  """Of the toy: by stream, the squared error of each sample."""
  out = {}
  for name, start in x.items():
    shape = (-1, *(1,) * (start.ndim - 1))
    ab = np.asarray(task.process.alphas_cumprod)[t].reshape(shape)
    x_t = np.sqrt(ab) * start + np.sqrt(1 - ab) * noise[name]
    got = params[f"{name}_scale"] * x_t
    got += params["shift"] * t.reshape(shape) / 1000
    target = {"eps": noise[name], "x_start": start}[task.prediction]
    error = np.asarray((got - target) ** 2)
    out[name] = error.reshape(len(error), -1).mean(1)
  return out


PARAMS = {
  "video_scale": np.array([0.7]),
  "audio_scale": np.array([1.3]),
  "shift": np.array([0.4]),
}


@pytest.mark.parametrize("prediction", ["eps", "x_start"])
def test_the_loss_of_a_batch_is_that_of_pencil_and_paper(prediction):
  config = default.get_config()
  config.diffusion.prediction = prediction
  config.train.update(video_loss_weight=2.0, audio_loss_weight=0.5)
  task, rng = toy_task(config), np.random.default_rng(1)
  x, _ = task.split(make_batch(3))
  noise = {k: rng.normal(size=v.shape).astype(np.float32) for k, v in x.items()}
  t, weights = np.array([3, 400, 990]), np.array([1.0, 2.0, 0.5])
  loss, terms = make_loss_fn(task, "mse")(
    PARAMS, x, {}, noise, jnp.array(t), weights, jax.random.key(0)
  )
  hand = losses_by_hand(task, PARAMS, x, noise, t)
  assert terms.keys() == {"loss", "video_mse", "audio_mse"}
  for name, expected in hand.items():
    np.testing.assert_allclose(terms[f"{name}_mse"], expected, rtol=1e-4)
  each = 2.0 * hand["video"] + 0.5 * hand["audio"]
  np.testing.assert_allclose(terms["loss"], each, rtol=1e-4)
  np.testing.assert_allclose(loss, (weights * each).mean(), rtol=1e-4)


def test_a_learned_variance_adds_its_bound_under_a_name_of_its_own():
  config = default.get_config()
  task = toy_task(config, UnsureNetwork)
  x, _ = task.split(make_batch(2))
  t, ones = jnp.array([3, 990]), jnp.ones(2)
  args = (PARAMS, x, {}, jax.tree.map(jnp.ones_like, x), t, ones)
  _, terms = make_loss_fn(task, "mse_vb")(*args, jax.random.key(0))
  assert terms.keys() == {
    "loss", "video_mse", "audio_mse", "video_vb", "audio_vb"
  }  # fmt: skip
  total = sum(value for name, value in terms.items() if name != "loss")
  np.testing.assert_allclose(terms["loss"], total, rtol=1e-5)
  with pytest.raises(ValueError, match="allowed are mse_vb"):
    make_loss_fn(task, "mse")(*args, jax.random.key(0))


def test_norms_are_of_the_group_that_a_parameters_path_names():
  grads = {
    "video_in": {"kernel": jnp.array([[3.0, 0.0], [0.0, 4.0]])},
    "cross": {"audio_out": jnp.array([5.0]), "bias": jnp.array([6.0, -8.0])},
    "audio_in": jnp.array(12.0, jnp.bfloat16),
  }
  norms = group_norms(grads)
  assert {k: float(v) for k, v in norms.items()} == {
    "grad_norm_video": 5.0, "grad_norm_audio": 13.0, "grad_norm_shared": 10.0
  }  # fmt: skip
  assert all(v.dtype == jnp.float32 for v in norms.values())


def test_importance_sampling_remembers_the_losses_of_its_steps():
  state, step, batch = build("loss_second_moment")
  new, out = step(state, batch)
  kept = new.timestep_state["history"][:, 0]
  assert new.timestep_state["counts"].sum() == 8
  assert (kept > 0).sum() == (new.timestep_state["counts"] > 0).sum()
  loss = metrics.compute(out["averages"])["loss"]
  np.testing.assert_allclose(
    new.timestep_state["history"].sum() / 8, loss, rtol=1e-5
  )


def test_quarters_average_the_losses_of_their_steps():
  t = jnp.array([0, 249, 250, 999])
  losses = jnp.array([1.0, 3.0, 5.0, 7.0])
  quarters = metrics.quarter_averages(losses, t, 1000)
  computed = metrics.compute(quarters)
  assert computed == {"loss_q1": 2.0, "loss_q2": 5.0, "loss_q4": 7.0}


def test_gradient_norms_belong_to_their_modality():
  state, step, batch = build()
  batch = batch | {"audio": np.full_like(batch["audio"], np.nan)}
  _, out = step(state, batch)
  bad = {k for k, v in out["nonfinite"].items() if v != metrics.NEVER}
  assert bad == {
    "loss",
    "audio_mse",
    "grad_norm_audio",
    "grad_norm_shared",
    # The sum of both losses is what is differentiated; the video's own
    # gradient stays finite.
  }


def test_a_skipped_update_changes_nothing_but_the_step_number():
  state, step, batch = build(on_nonfinite="skip", gradient_clip=1.0)
  state, _ = step(state, batch)
  bad = batch | {"audio": np.full_like(batch["audio"], np.nan)}
  kept, out = step(state, bad)
  jax.tree.map(
    np.testing.assert_array_equal, kept, state.replace(step=state.step + 1)
  )
  assert not out["finite"]
  # What is dropped counts in no average and ends no run.
  assert metrics.compute(out["averages"]) == {}
  assert set(map(int, out["nonfinite"].values())) == {metrics.NEVER}
  moved, out = step(kept, batch)
  assert out["finite"]
  assert any(
    (a != b).any()
    for a, b in zip(
      jax.tree.leaves(moved.params), jax.tree.leaves(kept.params), strict=True
    )
  )


def test_skipped_updates_are_counted_and_too_many_in_a_row_end_the_run():
  skipped = divergence.Skipped(limit=3)
  for step, finite in enumerate([True, False, False, True, False, False], 1):
    skipped.add(step, jnp.asarray(finite))
  assert skipped.take() == {"skipped_updates": 4.0}
  assert skipped.take() == {"skipped_updates": 0.0}
  skipped.add(7, jnp.asarray(False))
  with pytest.raises(
    divergence.NonFiniteLossError, match="Step 7: the last 3 updates.*max_skip"
  ):
    skipped.take()


def test_merged_metrics_average_over_both():
  a = {
    "averages": {"x": metrics.average(jnp.array([1.0, 2.0]))},
    "nonfinite": {"x": jnp.int32(metrics.NEVER)},
  }
  b = {
    "averages": {"x": metrics.average(jnp.array([6.0]))},
    "nonfinite": {"x": jnp.int32(7)},
  }
  merged = metrics.merge(a, b)
  assert metrics.compute(merged["averages"]) == {"x": 3.0}
  assert int(merged["nonfinite"]["x"]) == 7
  empty = metrics.empty_like(a)
  assert metrics.compute(metrics.merge(empty, a)["averages"]) == {"x": 1.5}


@pytest.mark.parametrize(
  ("anneal", "expected"),
  [("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)],
)
def test_learning_rate_warms_up_then_anneals(anneal, expected):
  train = default.get_config().train
  train.update(learning_rate=1.0, warmup_steps=4, num_steps=104, anneal=anneal)
  rate = learning_rate_schedule(train)
  np.testing.assert_allclose(
    [rate(i) for i in range(5)], [0.25, 0.5, 0.75, 1.0, 1.0], rtol=1e-6
  )
  np.testing.assert_allclose(rate(54), expected, rtol=1e-6)


def test_unknown_anneal_is_an_error():
  train = default.get_config().train
  train.anneal = "exponential"
  with pytest.raises(ValueError, match="anneal='exponential'.*cosine"):
    create_optimizer(train)


def test_gradients_are_clipped_to_their_global_norm():
  train = default.get_config().train
  train.update(gradient_clip=1.0, learning_rate=1.0)
  optimizer = create_optimizer(train)
  params = {"w": jnp.zeros(2)}
  _, state = optimizer.update(
    {"w": jnp.array([30.0, 40.0])}, optimizer.init(params), params
  )
  mu = optax.tree_utils.tree_get(state, "mu")["w"]
  np.testing.assert_allclose(mu, 0.1 * np.array([0.6, 0.8]), rtol=1e-6)
