"""Checkpoints to sample from, and a look at what comes out of it."""

import json
import wave

import jax
import numpy as np
import pytest
from PIL import Image

from mmdiff_jax import checkpoint
from mmdiff_jax.av import AVSpec
from mmdiff_jax.sampling import generate
from mmdiff_jax.task import make_task
from tests.toy import make_toy_config


@pytest.fixture(scope="module")
def config():
  """Two steps of a network that compiles fast."""
  config = make_toy_config()
  config.data.frames = 4
  config.sample.update(sampler="ddim", steps=2, batch_size=2)
  return config


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
  """A checkpoint of it."""
  workdir = tmp_path_factory.mktemp("run")
  params = make_task(config).init(jax.random.key(0))
  checkpoint.save_params(workdir, params, config)
  return str(workdir)


@pytest.fixture(scope="module")
def spec(config):
  """Geometry of its clips."""
  return AVSpec.from_config(config.data)


def sample(config, run, output, num_samples=3, **options):
  options = {"seed": 0, "formats": ("mp4", "wav", "png"), **options}
  return generate.sample(
    config,
    checkpoint_path=run,
    output=str(output),
    num_samples=num_samples,
    **options,
  )


def read_wav(path):
  with wave.open(str(path)) as file:
    data = file.readframes(file.getnframes())
  return np.frombuffer(data, np.int16)


def read_frames(folder):
  return np.stack([np.asarray(Image.open(p)) for p in sorted(folder.iterdir())])


def records(folder):
  return json.loads((folder / "samples.json").read_text())["samples"]
