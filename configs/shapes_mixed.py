r"""The second stage of the shipped model: mixed noise levels.

python main.py train --config=configs/shapes.py --workdir=runs/shapes
python main.py train --config=configs/shapes_mixed.py --workdir=runs/mixed \
    --config.train.init_from=runs/shapes
"""

from ml_collections import ConfigDict

from configs import shapes


def get_config() -> ConfigDict:
  """Returns `shapes`, trained on with a noise level for each stream."""
  config = shapes.get_config()
  config.train.levels = "mixed"
  config.train.init_from = "runs/shapes"
  # A short stage: a lower peak, and an average of its last fifty steps.
  config.train.num_steps = 400
  config.train.learning_rate = 5e-4
  config.train.warmup_steps = 25
  config.train.ema_decay = 0.98
  return config
