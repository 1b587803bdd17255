"""A run of a toy that takes seconds, for --config."""

from tests.toy import make_toy_config


def get_config():
  """Four steps, a checkpoint after each; samples of two network calls."""
  config = make_toy_config()
  config.train.update(
    checkpoint_every=1, preview_every=2, preview_samples=2, preview_steps=2
  )
  config.sample.update(steps=2, batch_size=2)
  return config
