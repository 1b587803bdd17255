"""The golden network's configuration, for --config of an import."""

from configs import default
from tests import unet_golden


def get_config():
  """All of its settings."""
  case = unet_golden.load_json("unet_tiny_sigma_audioattn.json")
  config = default.get_config()
  config.model.update(unet_golden.model_config(case))
  return config
