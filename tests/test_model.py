"""A trained model is an object of three members, from Python."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmdiff_jax
from mmdiff_jax.samplers import (
  condition_on_audio,
  initial_noise,
  make_rng,
  make_sampler,
)
from mmdiff_jax.training import loop
from tests.toy import make_toy_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  config = make_toy_config()
  config.train.num_steps = 2
  workdir = tmp_path_factory.mktemp("run")
  loop.train(config, workdir)
  return workdir


@pytest.fixture(scope="module")
def model(run):
  return mmdiff_jax.load(run)


def test_samples_are_those_of_the_sampler_on_its_denoise_fn(model):
  x = model.sample(3, "ddim", steps=4, seed=5)
  rngs = make_rng(jax.random.key(5), jnp.arange(3))
  shapes = {"video": model.spec.video_shape, "audio": model.spec.audio_shape}
  sampler = make_sampler("ddim", steps=4, prediction=model.task.prediction)
  expected, _ = sampler(
    model.denoise_fn(),
    model.task.process,
    initial_noise(rngs, shapes, 3),
    rngs,
  )
  for name, shape in shapes.items():
    assert x[name].shape == (3, *shape)
    np.testing.assert_allclose(x[name], expected[name], atol=1e-5)
  # Sample 1 does not depend on the batch that it is part of.
  two = model.sample(2, "ddim", steps=4, seed=5)
  np.testing.assert_allclose(two["audio"], x["audio"][:2], atol=1e-6)


def test_what_is_known_is_in_the_samples(model):
  audio = jnp.linspace(-1, 1, model.spec.audio_length)[None, :, None]
  x = model.sample(2, steps=3, condition=condition_on_audio(audio))
  np.testing.assert_array_equal(x["audio"], np.repeat(audio, 2, 0))


def test_senseless_requests_are_errors(model, tmp_path):
  with pytest.raises(ValueError, match="stepz: no option of a sampler; .*step"):
    model.sample(1, stepz=3)
  with pytest.raises(ValueError, match="no input .label.; its inputs: none"):
    model.sample(1, steps=2, inputs={"label": 1})
  with pytest.raises(FileNotFoundError, match="No checkpoint"):
    mmdiff_jax.load(tmp_path)


def test_the_readme_snippet_runs(run):
  """As it stands, but for a checkpoint that compiles sooner."""
  root = pathlib.Path(__file__).parents[1]
  (snippet,) = re.findall(
    r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL
  )
  shipped = "mmdiff_jax/assets/shapes/checkpoint"
  assert shipped in snippet and (root / shipped).is_dir()
  names = {}
  exec(snippet.replace(shipped, str(run)), names)
  clips, others, spec = names["clips"], names["others"], names["model"].spec
  assert clips["video"].shape == (2, *spec.video_shape)
  np.testing.assert_array_equal(others["audio"], clips["audio"])
  assert np.abs(others["video"] - clips["video"]).max() > 0.1
