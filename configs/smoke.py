"""A tiny joint model on synthetic clips: minutes on a laptop, not a result.

python main.py train --config=configs/smoke.py --workdir=runs/smoke
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
  """Returns the default configuration, cut down to a few seconds a step."""
  config = default.get_config()
  config.data.source = "synthetic"
  config.data.frames = 8
  config.data.height = config.data.width = 16
  config.data.sample_rate = 2000
  config.data.synthetic_clips = 64
  config.data.num_threads = 2
  config.data.flip_probability = 0.0

  config.model.model_channels = 32
  config.model.channel_mult = (1, 2)
  config.model.num_res_blocks = 1
  config.model.num_head_channels = 32
  config.model.video_attention_resolutions = (2,)
  config.model.cross_attention_resolutions = (2,)
  config.model.cross_attention_windows = (2,)
  config.model.dropout = 0.0
  config.model.dtype = "float32"

  # A short run learns the clip sooner than the noise: at high noise levels
  # small errors of eps are large errors of the clip.
  config.diffusion.prediction = "x_start"

  config.train.num_steps = 30
  config.train.batch_size = 4
  config.train.learning_rate = 1e-3
  config.train.ema_decay = 0.9
  config.train.log_every = 10
  config.train.checkpoint_every = 50
  config.train.preview_every = 30
  config.train.preview_samples = 2
  config.train.preview_steps = 5

  config.sample.sampler = "ddim"
  config.sample.steps = 10
  config.sample.batch_size = 2
  return config
