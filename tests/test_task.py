"""A network and an input of one's own go through the public functions.

Nothing here touches a file of the package: the network is registered, trained,
resumed and sampled as it is.
"""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import default
from mmdiff_jax import models
from mmdiff_jax.av import AVSpec
from mmdiff_jax.sampling import generate
from mmdiff_jax.task import make_task
from mmdiff_jax.training import loop, metrics
from tests.conftest import make_tiny_config


class Toy(nn.Module):
  """Adds a learned image of the mood to both streams."""

  features: int = 4

  @nn.compact
  def __call__(self, x, t, mood):
    h = nn.tanh(nn.Dense(self.features)(mood) + t[:, None] / 1000)
    return {
      name: value
      + nn.Dense(value.shape[-1], name=name)(h).reshape(
        -1, *(1,) * (value.ndim - 2), value.shape[-1]
      )
      for name, value in x.items()
    }


class ToyNetwork(models.Network):
  """A network of two streams that is given a mood [2]."""

  module_cls = Toy
  null = {"mood": 0.0}

  def declare(self, config):
    spec = AVSpec.from_config(config.data)
    return {
      "video": models.Leaf(spec.video_shape, jnp.uint8),
      "audio": models.Leaf(spec.audio_shape, jnp.float32),
    }, {"mood": models.Leaf((2,), jnp.float32)}

  def smallest(self):
    return self.declare(make_tiny_config())

  def __call__(self, module, x, t, inputs, train):
    return module(x, t, inputs["mood"])


@pytest.fixture(scope="module", autouse=True)
def registered():
  models.register("moody", ToyNetwork)


@pytest.fixture
def config():
  config = make_tiny_config()
  config.model = ConfigDict({"name": "moody", "features": 8})
  config.train.cond_dropout = 0.2
  config.train.eval_every = 2
  config.train.eval_batches = 1
  config.sample.steps = 2
  return config


class Loader:
  """Batches that depend on their number alone."""

  def __init__(self, spec, size):
    self.spec, self.size, self.number = spec, size, 0

  def __iter__(self):
    return self

  def __next__(self):
    rng = np.random.default_rng(self.number)
    self.number += 1
    return {
      "video": rng.integers(
        0, 256, (self.size, *self.spec.video_shape), np.uint8
      ),
      "audio": rng.uniform(-1, 1, (self.size, *self.spec.audio_shape)).astype(
        np.float32
      ),
      "mood": rng.normal(size=(self.size, 2)).astype(np.float32),
    }

  def get_state(self):
    return {"number": self.number}

  def set_state(self, state):
    self.number = state["number"]

  def close(self):
    pass


def train(config, workdir):
  spec = AVSpec.from_config(config.data)
  held_out = [next(Loader(spec, config.train.batch_size))]
  loader = Loader(spec, config.train.batch_size)
  return loop.train(config, workdir, loader=loader, held_out=held_out)


def test_it_is_trained_resumed_and_sampled(config, tmp_path):
  whole = train(config, tmp_path / "whole")
  config.train.num_steps = 2
  train(config, tmp_path / "parts")
  config.train.num_steps = 4
  parts = train(config, tmp_path / "parts")
  jax.tree.map(np.testing.assert_array_equal, whole, parts)

  log = metrics.read_jsonl(tmp_path / "whole" / "metrics.jsonl")
  assert {"heldout_loss", "heldout_video_mse", "heldout_audio_mse_q4"} <= set(
    log[1]
  )

  def sample(name, **options):
    generate.sample(
      config,
      checkpoint_path=str(tmp_path / "whole"),
      output=str(tmp_path / name),
      num_samples=1,
      seed=0,
      formats=("wav",),
      **options,
    )
    return (tmp_path / name / "sample_000000.wav").read_bytes()

  plain = sample("plain")
  given = sample("given", inputs={"mood": [3.0, -2.0]})
  config.sample.cfg_scale = 4.0
  guided = sample("guided", inputs={"mood": [3.0, -2.0]})
  assert len({plain, given, guided}) == 3
  config.sample.cfg_interval = (0.0, 1e9)
  assert sample("everywhere", inputs={"mood": [3.0, -2.0]}) == guided
  config.sample.cfg_interval = (1e8, 1e9)
  assert sample("nowhere", inputs={"mood": [3.0, -2.0]}) == given
  settings = json.loads((tmp_path / "given/samples.json").read_text())
  assert settings["settings"]["inputs"] == {"mood": [3.0, -2.0]}
  with pytest.raises(ValueError, match="cfg_scale=4.0 has no effect"):
    sample("nothing")
  config.sample.cfg_scale = None
  with pytest.raises(ValueError, match="no effect without .*cfg_scale"):
    sample("unguided", inputs={"mood": [3.0, -2.0]})
  config.sample.cfg_interval = None
  with pytest.raises(ValueError, match="no input 'label'; its inputs: mood"):
    sample("unknown", inputs={"label": 1})


def test_a_leaf_that_nobody_declared_is_an_error(config):
  task = make_task(config)
  batch = next(Loader(task.spec, 2))
  x, inputs = task.split(batch)
  assert x.keys() == {"video", "audio"} and inputs.keys() == {"mood"}
  with pytest.raises(ValueError, match="holds .*'label'.*inputs .*'mood'"):
    task.split(batch | {"label": np.zeros(2, np.int32)})
  del batch["mood"]
  with pytest.raises(ValueError, match="must hold these"):
    task.split(batch)


def test_what_is_given_is_withheld_from_its_share_of_samples(config):
  task = make_task(config)
  params = task.init(jax.random.key(0))
  x = {name: jnp.zeros((400, *leaf.shape)) for name, leaf in task.x.items()}
  t = jnp.zeros(400, jnp.int32)
  mood = {"mood": jnp.ones((400, 2))}

  def audio(inputs, train):
    denoise = task.denoise_fn(params, inputs, train=train)
    return np.asarray(denoise(x, t, jax.random.key(1))["audio"])[:, 0, 0]

  given, absent = audio(mood, False), audio(None, False)
  assert (given == given[0]).all() and given[0] != absent[0]
  trained = audio(mood, True)
  assert set(trained) == {given[0], absent[0]}
  # Within four standard deviations of the share that is configured.
  assert abs(np.mean(trained == absent[0]) - 0.2) < 4 * 0.4 / 20


def test_guidance_extrapolates_from_absent_to_given(config):
  task = make_task(config)
  params = task.init(jax.random.key(0))
  x = {
    name: jax.random.normal(jax.random.key(2), (3, *leaf.shape))
    for name, leaf in task.x.items()
  }
  t = jnp.array([5, 500, 900])
  mood = {"mood": jax.random.normal(jax.random.key(3), (3, 2))}
  rng = jax.random.key(1)
  given = task.denoise_fn(params, mood)(x, t, rng)
  absent = task.denoise_fn(params)(x, t, rng)
  guided = task.guided_denoise_fn(params, mood, 3.0)(x, t, rng)
  for name in x:
    expected = absent[name] + 3.0 * (given[name] - absent[name])
    np.testing.assert_allclose(guided[name], expected, atol=1e-5)
  with pytest.raises(ValueError, match="can be withheld.*mood"):
    task.guided_denoise_fn(params, {}, 3.0)


def test_a_key_of_another_network_is_named():
  for name, key, message in (
    ("sr_unet", "num_head_channels", "is a key of av_unet, not of sr_unet"),
    ("av_unet", "attention_resolutions", "is a key of sr_unet, not of av_unet"),
    ("av_unet", "model_chanels", "did you mean model_channels"),
  ):
    with pytest.raises(ValueError, match=message):
      models.create_model({"name": name, key: 64})
  with pytest.raises(ValueError, match="'unet' is unknown; allowed are av_"):
    models.create_model({"name": "unet"})


def test_config_model_holds_exactly_the_fields_of_its_network():
  model = default.get_config().model
  assert set(model) == models.fields("av_unet") | {"name"}


@pytest.mark.parametrize(
  ("mood", "message"),
  [
    (np.zeros((4, 2)), r"mood has shape \(4, 2\); the network takes \(2,\)"),
    (1.0, r"mood has shape \(\); the network takes \(2,\)"),
    ("glad", "mood='glad' is not a number or array"),
  ],
)
def test_an_input_of_another_shape_is_not_broadcast(config, mood, message):
  """A value per sample, taken as one for all, would depend on the batch."""
  task = make_task(config)
  with pytest.raises(ValueError, match=message):
    task.repeat_inputs({"mood": mood}, 4)


def test_inputs_of_a_batch_must_have_its_size(config):
  task = make_task(config)
  x = {k: jnp.zeros((3, *leaf.shape)) for k, leaf in task.x.items()}
  denoise = task.denoise_fn({}, {"mood": jnp.zeros((1, 2))})
  with pytest.raises(ValueError, match=r"shape \(1, 2\); for 3 samples"):
    denoise(x, jnp.zeros(3, jnp.int32), jax.random.key(0))
