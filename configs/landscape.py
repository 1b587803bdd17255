"""Landscape, 64x64: 9 classes of scenery, 1,000 clips of 10 s.

  python main.py prepare --input=VIDEOS --output=data/landscape
  python main.py train --config=configs/landscape.py --workdir=runs/landscape

Published scores of this recipe (2,048 samples, DDPM, `paper` protocol):
FVD 117.20, KVD 5.78, FAD 10.72; real against real 17.83 / -0.12 / 7.51.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
  """Returns the default configuration on the Landscape shards."""
  config = default.get_config()
  config.data.source = "tfrecord:data/landscape"
  return config
