"""A tiny super-resolution model, with weights that do something."""

import jax
import numpy as np

from configs import superres
from mmdiff_jax import checkpoint
from mmdiff_jax.task import make_task


def make_tiny_sr_config():
  """One level, 4 x 4 -> 16 x 16 pixels, float32, two DDIM steps."""
  config = superres.get_config()
  config.data.update(
    source="synthetic", height=16, width=16, synthetic_clips=8, num_threads=1
  )
  config.model.update(
    model_channels=32,
    channel_mult=(1,),
    num_res_blocks=1,
    attention_resolutions=(),
    dropout=0.0,
    dtype="float32",
    remat="none",
  )
  config.sample.steps = 2
  config.train.update(
    num_steps=2,
    batch_size=2,
    log_every=1,
    checkpoint_every=2,
    preview_every=2,
    preview_samples=3,
    preview_steps=2,
  )
  return config


def random_params(config):
  """Parameters without zero-initialised layers; nothing is compiled."""
  rng = np.random.default_rng(0)
  abstract = jax.eval_shape(make_task(config).init, jax.random.key(0))

  def leaf(path, x):
    if path[-1].key == "scale":
      return np.ones(x.shape, x.dtype)
    # Kernels are scaled by their inputs, biases are small.
    fan_in = np.prod(x.shape[:-1]) if x.ndim > 1 else 100
    return rng.normal(0.0, fan_in**-0.5, x.shape).astype(x.dtype)

  return jax.tree_util.tree_map_with_path(leaf, abstract)


def save_random(config, workdir):
  """Writes a checkpoint of random parameters; returns its path as text."""
  checkpoint.save_params(workdir, random_params(config), config)
  return str(workdir)
