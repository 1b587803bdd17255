r"""Sounding shapes, 16x16: a world whose truth is known (docs/synthetic.md).

  python main.py train --config=configs/shapes.py --workdir=runs/shapes
  python main.py sample --checkpoint=runs/shapes --output=samples \
    --config=configs/shapes.py --num_samples=64
  python -m benchmarks.sync --samples samples

Small enough for two CPU cores; on a GPU raise data.height, data.width,
data.sample_rate and model.model_channels.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
  """Returns a four-million-parameter joint model on synthetic clips."""
  config = default.get_config()
  config.data.source = "synthetic"
  config.data.height = config.data.width = 16
  config.data.sample_rate = 2000
  config.data.synthetic_clips = 100_000
  config.data.num_threads = 1

  # Only the first level has 32 channels, one to a group of the norms; the
  # others keep what normalising a channel alone takes away.
  config.model.model_channels = 32
  config.model.channel_mult = (1, 2, 3, 3)
  config.model.num_res_blocks = 1
  config.model.num_head_channels = 32
  config.model.video_attention_resolutions = (4, 8)
  # Each frame looks at its own time span: shifted at random, windows tell what
  # is heard but hardly when (docs/synthetic.md).
  config.model.cross_attention_shift = False
  config.model.dropout = 0.0
  config.model.dtype = "float32"

  # A short run learns the clip sooner than the noise; and frames this small
  # are lost in noise early, which the cosine schedule puts off.
  config.diffusion.prediction = "x_start"
  config.diffusion.schedule = "cosine"

  config.train.num_steps = 2000
  config.train.batch_size = 8
  config.train.learning_rate = 1e-3
  config.train.warmup_steps = 100
  config.train.anneal = "cosine"
  config.train.gradient_clip = 1.0
  config.train.ema_decay = 0.995
  config.train.log_every = 25
  config.train.checkpoint_every = 100
  config.train.preview_every = 500
  config.train.keep_every = 0

  config.sample.sampler = "ddim"
  config.sample.steps = 50
  config.sample.batch_size = 8
  return config
