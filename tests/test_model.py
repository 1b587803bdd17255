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


@pytest.mark.parametrize(
  ("arguments", "options", "message"),
  [
    ((0,), {}, "count=0: give a whole number of samples, from 1."),
    ((2.5,), {}, "count=2.5: give a whole number"),
    (("3",), {}, "count='3': give a whole number"),
    ((True,), {}, "count=True: give a whole number"),
    ((10**20,), {}, "count=100000000000000000000: give a whole number"),
    ((1,), {"seed": -1}, "seed=-1: give a whole number from 0 to 4294967295"),
    ((1,), {"seed": 10**20}, "seed=100000000000000000000: give a whole"),
    ((1,), {"seed": 1.0}, "seed=1.0: give a whole number"),
    ((1,), {"condition": "audio"}, "condition='audio': give a Condition, such"),
    ((1,), {"inputs": [3]}, "inputs=[3]: give values by name"),
    ((1,), {"cfg_scale": "2"}, "cfg_scale='2': give a number."),
    ((1,), {"steps": "5"}, "steps='5': give a whole number."),
    ((1,), {"steps": 2.5}, "steps=2.5: give a whole number."),
    ((1,), {"order": True}, "order=True: give a whole number."),
    ((1, "ddim"), {"eta": "1"}, "eta='1': give a number."),
    ((1, "ddim"), {"steps": 2.5}, "steps=2.5: give a whole number or a text."),
    ((1,), {"clip_denoised": 1}, "clip_denoised=1: give True or False."),
    ((1, "dim"), {}, "unknown sampler 'dim'; allowed are ddpm, ddim, dpm_solv"),
  ],
)
def test_arguments_of_another_kind_are_refused(
  model, arguments, options, message
):
  with pytest.raises(ValueError, match=re.escape(message)):
    model.sample(*arguments, **options)


def test_numbers_of_numpy_are_numbers(model):
  steps, seed = np.int64(2), np.uint32(7)
  x = model.sample(
    np.int32(1), "ddim", steps=steps, seed=seed, eta=np.float32(0)
  )
  y = model.sample(1, "ddim", steps=2, seed=7, eta=0)
  np.testing.assert_array_equal(x["video"], y["video"])


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
