r"""Super-resolution 64 -> 256 of single frames, for every joint model.

  python main.py prepare --size=256 --clip_frames=1 \
    --input=VIDEOS --output=data/landscape256
  python main.py train --config=configs/superres.py --workdir=runs/superres

Start from the published upsampler of guided-diffusion (imported with
`main.py import_checkpoint`) through --config.train.init_from=DIR.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
  """Returns the default configuration with the image network."""
  config = default.get_config()
  config.data.source = "tfrecord:data/landscape256"
  config.data.frames = 1
  config.data.height = config.data.width = 256

  joint = config.model
  config.model = model = ConfigDict()
  model.name = "sr_unet"
  model.model_channels = 192
  model.channel_mult = (1, 1, 2, 2, 4, 4)
  model.num_res_blocks = 2
  model.num_heads = 4
  # Down-sampling factors that have self-attention.
  model.attention_resolutions = (8, 16, 32)
  model.use_scale_shift_norm = True
  model.learn_sigma = True
  model.dropout = 0.1
  model.remat = "blocks"
  for name in ("dtype", "attention", "kernels"):
    model[name] = joint[name]

  config.diffusion.loss = "rescaled_mse_vb"

  config.train.batch_size = 16

  config.sample.sampler = "ddim"
  config.sample.steps = 25
  return config
