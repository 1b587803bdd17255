"""A tiny super-resolution model, with weights that do something."""

import jax

from configs import superres
from mmdiff_jax import denoiser
from mmdiff_jax.training import checkpoint


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
  """Parameters without zero-initialised layers."""
  params = jax.jit(denoiser.make_init_params(config))(jax.random.key(0))
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  return tree.unflatten(
    leaf + 0.03 * jax.random.normal(key, leaf.shape)
    for key, leaf in zip(keys, leaves, strict=True)
  )


def save_random(config, workdir):
  """Writes a checkpoint of random parameters; returns its path as text."""
  checkpoint.save_params(workdir, random_params(config), config)
  return str(workdir)
