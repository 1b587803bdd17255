"""No draw of a training step shares its key with another.

JAX's own checker reads the program for keys that are used twice; what it
cannot see is compared by value.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from mmdiff_jax import models
from mmdiff_jax.devices.mesh import make_mesh
from mmdiff_jax.diffusion import create_timestep_sampler
from mmdiff_jax.task import make_task
from mmdiff_jax.training.optimizer import create_optimizer
from mmdiff_jax.training.state import state_initializer
from mmdiff_jax.training.step import draw_noise, make_gradients, make_train_step
from tests.conftest import make_tiny_config


class Noisy(nn.Module):
  """Uses every random stream that a network is given."""

  @nn.compact
  def __call__(self, x, mood, train):
    scale = self.param("scale", nn.initializers.ones, (1,))
    keep = nn.Dropout(0.5, deterministic=not train)
    roll = jax.random.normal(self.make_rng("window"), ())
    return {
      k: scale * keep(v) + roll + mood.mean(1).reshape(-1, *(1,) * (v.ndim - 1))
      for k, v in x.items()
    }


class NoisyNetwork(models.Network):
  """Two small streams, and a mood that may be withheld."""

  module_cls = Noisy
  null = {"mood": 0.0}
  levels = "frame"

  def declare(self, config):
    del config
    return {
      "video": models.Leaf((2, 2, 2, 3), jnp.uint8),
      "audio": models.Leaf((8, 1), jnp.float32),
    }, {"mood": models.Leaf((2,), jnp.float32)}

  def smallest(self):
    return self.declare(None)

  def init(self, rng, x, inputs):
    return {"params": {"scale": jnp.ones(1)}}

  def __call__(self, module, x, t, inputs, train):
    return module(x, inputs["mood"], train)


models.register("noisy", NoisyNetwork)


@pytest.mark.parametrize(
  ("microbatches", "timesteps", "levels"),
  [(1, "loss_second_moment", "shared"), (2, "uniform", "mixed")],
)
def test_no_key_of_a_training_step_is_used_twice(
  microbatches, timesteps, levels
):
  config = make_tiny_config()
  config.model = ConfigDict({"name": "noisy"})
  config.train.update(
    cond_dropout=0.5, microbatches=microbatches, levels=levels
  )
  task, mesh = make_task(config), make_mesh()
  optimizer = create_optimizer(config.train)
  sampler = create_timestep_sampler(timesteps, task.process)
  init = state_initializer(task.init, optimizer, sampler.init)
  step = make_train_step(
    task, config, optimizer, sampler, mesh, jax.random.key(1)
  )
  batch = {
    name: np.zeros((4, *leaf.shape), leaf.dtype)
    for name, leaf in (task.x | task.inputs).items()
  }
  state = init(jax.random.key(0))
  with jax.debug_key_reuse(True):
    jax.jit(step)(state, batch)


def test_noise_of_one_stream_tells_nothing_of_the_others():
  like = {name: jnp.zeros((64, 64)) for name in ("video", "audio")}
  noise = draw_noise(jax.random.key(0), like, make_mesh())
  video, audio = (np.ravel(noise[name]) for name in ("video", "audio"))
  # Within four standard errors of 4096 independent draws.
  assert abs(np.corrcoef(video, audio)[0, 1]) < 4 / 64
  for x in (video, audio):
    assert abs(x.mean()) < 4 / 64 and abs(x.std() - 1) < 4 / 64 / np.sqrt(2)


def test_micro_batches_draw_for_themselves_and_keep_the_samples_order():
  def loss_fn(params, x, rng):
    return params * x.mean(), {"x": x, "drawn": jax.random.uniform(rng, (2,))}

  gradients = jax.jit(make_gradients(loss_fn, 4, make_mesh()))
  x = jnp.arange(8.0)
  (loss, terms), grads = gradients(jnp.float32(3.0), (x,), jax.random.key(0))
  assert len(set(np.asarray(terms["drawn"]).tolist())) == 8
  np.testing.assert_array_equal(terms["x"], x)
  # The mean over all samples, as if they were one batch.
  assert (float(loss), float(grads)) == (3 * 3.5, 3.5)
