"""Networks: the coupled U-Net and the super-resolution U-Net."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from mmdiff_jax.models.av_unet import AVUNet
from mmdiff_jax.models.networks import (
  Leaf,
  Leaves,
  Network,
  create_network,
  fields,
  register,
)
from mmdiff_jax.models.sr_unet import SRUNet


def create_model(model_config: Mapping[str, Any]) -> nn.Module:
  """Builds the Linen module that `config.model` describes.

  Args:
    model_config: see `create_network`.

  Raises:
    ValueError: see `create_network`.
  """
  return create_network(model_config).module


def abstract_variables(model_config: Mapping[str, Any]) -> Any:
  """Shapes and types of a network's variables, without computing any."""
  network = create_network(model_config)
  x, inputs = network.smallest()
  return jax.eval_shape(
    lambda rng: network.init(rng, x, inputs), jax.random.key(0)
  )


__all__ = [
  "AVUNet",
  "Leaf",
  "Leaves",
  "Network",
  "SRUNet",
  "abstract_variables",
  "create_model",
  "create_network",
  "fields",
  "register",
]
