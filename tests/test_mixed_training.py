"""Training with mixed noise levels: what enters, what is told, what counts."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax import models
from mmdiff_jax.devices.mesh import make_mesh
from mmdiff_jax.diffusion import create_timestep_sampler
from mmdiff_jax.diffusion.level_mix import Levels
from mmdiff_jax.task import make_task
from mmdiff_jax.training import metrics
from mmdiff_jax.training.optimizer import create_optimizer
from mmdiff_jax.training.state import state_initializer
from mmdiff_jax.training.step import make_loss_fn, make_train_step
from tests.conftest import make_tiny_config
from tests.sr_fixtures import make_tiny_sr_config

FRAMES, LENGTH = 4, 8


class Echo(nn.Module):
  """Predicts what it is called with, times one number per stream."""

  @nn.compact
  def __call__(self, x, t):
    del t
    ones = nn.initializers.ones
    return {k: self.param(k, ones, ()) * value for k, value in x.items()}


class EchoNetwork(models.Network):
  module_cls = Echo
  levels = "frame"

  def declare(self, config):
    del config
    return {
      "video": models.Leaf((FRAMES, 2, 2, 3), jnp.float32),
      "audio": models.Leaf((LENGTH, 1), jnp.float32),
    }, {}

  def smallest(self):
    return self.declare(None)

  def __call__(self, module, x, t, inputs, train):
    del inputs, train
    return module(x, t)


def make_config(**shares):
  config = make_tiny_config()
  config.train.levels = "mixed"
  for name in config.train.level_shares:
    config.train.level_shares[name] = shares.get(name, 0.0)
  config.train.learning_rate = 0.01
  config.data.frames = FRAMES
  config.diffusion.prediction = "x_start"
  return config


def make_echo_task(config):
  task = dataclasses.replace(make_task(config), network=EchoNetwork(Echo()))
  return dataclasses.replace(task, x=task.network.declare(config)[0])


def make_batch(size=6):
  rng = np.random.default_rng(0)
  return {
    "video": rng.uniform(-1, 1, (size, FRAMES, 2, 2, 3)).astype(np.float32),
    "audio": rng.uniform(-1, 1, (size, LENGTH, 1)).astype(np.float32),
  }


def test_what_is_clean_enters_as_it_is_and_has_no_loss():
  task = make_echo_task(make_config(joint=1, clean_frames=1))
  x, noise = make_batch(2), make_batch(3)
  noise = {name: value[1:] for name, value in noise.items()}
  clean = {
    "video": np.array([[1, 1, 0, 0], [0, 0, 0, 0]], bool),
    "audio": np.array([[1, 0, 0, 0], [1, 1, 1, 1]], bool),
  }
  t = {"video": np.array([900, 10]), "audio": np.array([400, 20])}
  loss_fn = make_loss_fn(task, "mse")
  params = {"video": jnp.ones(()), "audio": jnp.ones(())}
  loss, terms = loss_fn(
    params, x, {}, noise, Levels(t, clean), jnp.ones(2), jax.random.key(0)
  )
  for name, per_frame in (("video", 1), ("audio", LENGTH // FRAMES)):
    ab = task.process.alphas_cumprod[t[name]]
    ab = ab.reshape(2, *(1,) * (x[name].ndim - 1))
    x_t = np.sqrt(ab) * x[name] + np.sqrt(1 - ab) * noise[name]
    known = np.repeat(clean[name], per_frame, 1)
    error = np.where(
      known.reshape(*known.shape, *(1,) * (x_t.ndim - 2)), 0, x_t - x[name]
    )
    expected = (error**2).mean(tuple(range(1, error.ndim)))
    np.testing.assert_allclose(terms[f"{name}_mse"], expected, rtol=1e-4)
  assert terms["audio_mse"][1] == 0
  np.testing.assert_allclose(
    loss, terms["video_mse"].mean() + terms["audio_mse"].mean(), rtol=1e-6
  )


@pytest.mark.parametrize(
  ("shares", "kind", "shape"),
  [
    ({"joint": 1, "clean_audio": 1}, "stream", (6,)),
    ({"joint": 1, "clean_frames": 1}, "frame", (6, FRAMES)),
  ],
)
def test_the_network_is_told_levels_as_fine_as_the_shares_need(
  shares, kind, shape
):
  config = make_config(**shares)
  assert make_echo_task(config).levels == kind
  clean = jnp.zeros((6, FRAMES), bool).at[2:].set(True)
  t = jnp.arange(100, 106)
  levels = Levels({"video": t, "audio": t}, {"video": clean, "audio": ~clean})
  told = levels.told(kind)
  assert told["video"].shape == told["audio"].shape == shape
  first = {k: np.asarray(v).reshape(6, -1)[:, 0] for k, v in told.items()}
  assert first["video"].tolist() == [100, 101, 0, 0, 0, 0]
  assert first["audio"].tolist() == [0, 0, 102, 103, 104, 105]


def run_step(config, size=6):
  task = make_echo_task(config)
  timesteps = create_timestep_sampler(
    config.diffusion.timestep_sampler, task.process
  )
  optimizer = create_optimizer(config.train)
  init = state_initializer(task.init, optimizer, timesteps.init)
  step = make_train_step(
    task, config, optimizer, timesteps, make_mesh(), jax.random.key(1)
  )
  return jax.jit(step)(init(jax.random.key(0)), make_batch(size))


def test_a_stream_that_is_always_clean_is_not_trained():
  state, out = run_step(make_config(clean_audio=1))
  assert float(state.params["audio"]) == 1
  assert float(state.params["video"]) < 1
  values = metrics.compute(out["averages"])
  assert "audio_mse" not in values  # There was nothing to average.
  assert values["video_mse"] == pytest.approx(values["loss"], rel=1e-5)


def test_a_half_clean_set_averages_over_what_was_noised():
  _, out = run_step(make_config(clean_audio=1, clean_video=1))
  values = metrics.compute(out["averages"])
  # Three samples each, whose losses are averaged alone.
  assert values["loss"] == pytest.approx(
    (values["video_mse"] + values["audio_mse"]) / 2, rel=1e-5
  )
  assert any(name.startswith("video_mse_q") for name in values)
  assert "loss_q1" not in values


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"levels": "mixt"}, "levels='mixt' is unknown; allowed are shared, mix"),
    ({"level_shares": {"joint": -1.0}}, "level_shares.joint=-1.0 must be"),
  ],
)
def test_senseless_levels_are_errors(change, message):
  config = make_config(joint=1)
  config.train.update(change)
  with pytest.raises(ValueError, match=message):
    make_task(config)


def test_mixed_levels_need_two_streams():
  config = make_tiny_sr_config()
  config.train.levels = "mixed"
  with pytest.raises(ValueError, match="needs a network of video and audio"):
    make_task(config)


def test_mixed_levels_draw_their_steps_uniformly():
  config = make_config(joint=1)
  config.diffusion.timestep_sampler = "loss_second_moment"
  with pytest.raises(ValueError, match="'loss_second_moment' weighs one"):
    run_step(config)
