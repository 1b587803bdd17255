"""AIST++ crop, 64x64: street dance to music, 1,020 clips, 5.2 h.

python main.py prepare --input=VIDEOS --output=data/aist
python main.py train --config=configs/aist.py --workdir=runs/aist
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
  """Returns the default configuration on the AIST++ shards."""
  config = default.get_config()
  config.data.source = "tfrecord:data/aist"
  return config
