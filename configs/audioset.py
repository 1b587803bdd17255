"""AudioSet, 64x64: the wide model (256 channels) for open-domain video.

python main.py prepare --input=VIDEOS --output=data/audioset
python main.py train --config=configs/audioset.py --workdir=runs/audioset
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
  """Returns the default configuration with the 256-channel network."""
  config = default.get_config()
  config.data.source = "tfrecord:data/audioset"
  config.model.model_channels = 256
  # The wide network keeps only the borders of its blocks for the backward
  # pass.
  config.model.remat = "blocks"
  return config
