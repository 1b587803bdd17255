"""Settings and helpers that all tests share."""

import os
import pathlib

# Programs that several tests (and their subprocesses) compile alike are
# compiled once.
os.environ.setdefault(
  "JAX_COMPILATION_CACHE_DIR",
  str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "xla"),
)

import jax
import pytest

from tests.preparation_fixtures import prepared, videos  # noqa: F401

# Half the compile time; the tests are dominated by it.
jax.config.update("jax_disable_most_optimizations", True)


def make_tiny_config():
  """A joint model of one level on two frames: what compiles fastest."""
  from configs import smoke

  config = smoke.get_config()
  config.data.frames = 2
  config.data.height = config.data.width = 16
  config.data.sample_rate = 2000
  config.data.synthetic_clips = 8
  config.model.channel_mult = (1,)
  config.model.video_attention_resolutions = ()
  config.model.cross_attention_resolutions = (1,)
  config.model.cross_attention_windows = (1,)
  config.model.middle_cross_attention = False
  config.train.num_steps = 4
  config.train.batch_size = 2
  config.train.log_every = 2
  config.train.checkpoint_every = 2
  config.train.preview_every = 0
  return config


@pytest.fixture
def tiny_config():
  """See `make_tiny_config`."""
  return make_tiny_config()
