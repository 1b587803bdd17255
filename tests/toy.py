"""A network of a few parameters: for tests of what goes on around a network.

Importing this module registers it as "toy".
"""

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmdiff_jax import models
from mmdiff_jax.av import AVSpec
from tests.conftest import make_tiny_config


class Toy(nn.Module):
  """Mixes the channels of each stream, by a learned function of the time."""

  features: int = 4

  @nn.compact
  def __call__(self, x, t):
    h = nn.tanh(nn.Dense(self.features, name="shared")(t[:, None] / 1000))
    h = nn.tanh(nn.Dense(self.features, name="shared_too")(h))
    out = {}
    for name, value in x.items():
      channels = value.shape[-1]
      shift = nn.Dense(channels, name=f"{name}_time")(h)
      shift = shift.reshape(-1, *(1,) * (value.ndim - 2), channels)
      out[name] = nn.Dense(channels, name=name)(value) + shift
    return out


class ToyNetwork(models.Network):
  """`Toy` for clips of any geometry."""

  module_cls = Toy

  def declare(self, config):
    spec = AVSpec.from_config(config.data)
    return {
      "video": models.Leaf(spec.video_shape, jnp.uint8),
      "audio": models.Leaf(spec.audio_shape, jnp.float32),
    }, {}

  def smallest(self):
    return self.declare(make_tiny_config())

  def __call__(self, module, x, t, inputs, train):
    return module(x, t)


models.register("toy", ToyNetwork)


def make_toy_config():
  """A run of four steps that compiles in a second.

  One of its leaves is large enough to be split over devices.
  """
  config = make_tiny_config()
  config.model = ConfigDict({"name": "toy", "features": 128})
  return config
