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
  """Returns a one-million-parameter joint model on synthetic clips."""
  config = default.get_config()
  config.data.source = "synthetic"
  config.data.height = config.data.width = 16
  config.data.sample_rate = 2000
  config.data.synthetic_clips = 100_000

  config.model.model_channels = 32
  config.model.channel_mult = (1, 1, 2)
  config.model.num_res_blocks = 1
  config.model.num_head_channels = 32
  config.model.video_attention_resolutions = (4,)
  config.model.cross_attention_resolutions = (2, 4)
  config.model.cross_attention_windows = (1, 4)
  config.model.dropout = 0.0
  config.model.dtype = "float32"

  # A short run learns the clip sooner than the noise.
  config.diffusion.prediction = "x_start"

  config.train.num_steps = 6000
  config.train.batch_size = 16
  config.train.learning_rate = 1e-3
  config.train.warmup_steps = 100
  config.train.anneal = "cosine"
  config.train.gradient_clip = 1.0
  config.train.ema_decay = 0.998
  config.train.checkpoint_every = 250
  config.train.preview_every = 1000
  config.train.keep_every = 0

  config.sample.sampler = "ddim"
  config.sample.steps = 100
  config.sample.batch_size = 32
  return config
