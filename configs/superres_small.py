r"""A small super-resolution model for a CPU: a proof, not a product.

  python main.py prepare --size=256 --clip_frames=1 \
    --input=VIDEOS --output=data/clips256
  python main.py train --config=configs/superres_small.py --workdir=runs/small
  python main.py train --config=configs/superres_small.py \
    --config.train.init_from=runs/small --workdir=runs/small_128 \
    --config.data.height=128 --config.data.width=128 \
    --config.train.batch_size=2 --config.train.learning_rate=3e-4 \
    --config.train.ema_decay=0.95 --config.train.num_steps=150

The first run sees crops of 32x32 pixels, the second ones of 128x128, nearer
to the whole frames that are upsampled later. Measured on 80 real clips, of
which 17 were held out: docs/super_resolution.md.
"""

from ml_collections import ConfigDict

from configs import superres


def get_config() -> ConfigDict:
  """Returns the super-resolution configuration, cut down for a CPU."""
  config = superres.get_config()
  config.data.source = "tfrecord:data/clips256"
  config.data.height = config.data.width = 32
  config.data.holdout_fraction = 0.2
  config.data.num_threads = 2

  # The norms have 32 groups: with 32 channels each would stand alone, and
  # normalising would take the brightness of the image away.
  config.model.model_channels = 64
  config.model.channel_mult = (1, 1, 2)
  config.model.num_res_blocks = 1
  config.model.attention_resolutions = ()
  config.model.dropout = 0.0
  config.model.dtype = "float32"
  config.model.remat = "none"

  # A short run learns the image sooner than the noise: at high noise levels
  # small errors of eps are large errors of the image. The variance stays
  # fixed, for the bound of an untrained x_start swamps the other term.
  config.diffusion.prediction = "x_start"
  config.diffusion.loss = "mse"
  config.model.learn_sigma = False

  config.train.num_steps = 1500
  config.train.batch_size = 8
  config.train.learning_rate = 1e-3
  config.train.warmup_steps = 20
  config.train.anneal = "cosine"
  config.train.gradient_clip = 1.0
  config.train.ema_decay = 0.99
  config.train.log_every = 20
  config.train.checkpoint_every = 100
  config.train.keep_every = 0
  config.train.preview_every = 500
  config.train.preview_samples = 16
  config.train.preview_steps = 2

  # One step is the closest to the truth; more are sharper, and further off.
  config.sample.sampler = "dpm_solver++"
  config.sample.order = 1
  config.sample.steps = 1
  return config
