"""Networks: the coupled U-Net and the super-resolution U-Net."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from mmdiff_jax.models.av_unet import AVUNet
from mmdiff_jax.models.sr_unet import SRUNet

_MODELS = {"av_unet": AVUNet, "sr_unet": SRUNet}
# Fields that Linen adds to every module.
_OWN = {"parent", "name"}


def _keys(cls: type[nn.Module]) -> set[str]:
  return {field.name for field in dataclasses.fields(cls)} - _OWN


def create_model(model_config: Mapping[str, Any]) -> nn.Module:
  """Builds the network that `config.model` describes.

  Args:
    model_config: `config.model`. `name` selects the network, the other keys
      are its fields; missing ones take the release's values. Keys that belong
      to the other network only are left alone.

  Returns:
    The Linen module.

  Raises:
    ValueError: an unknown name or key, or values that make no sense together.
  """
  options = dict(model_config)
  name = options.pop("name", "av_unet")
  if name not in _MODELS:
    raise ValueError(
      f"model.name={name!r} is unknown; allowed are {', '.join(_MODELS)}."
    )
  known = set().union(*map(_keys, _MODELS.values()))
  for key in options:
    if key not in known:
      close = difflib.get_close_matches(key, known) or sorted(known)
      raise ValueError(
        f"model.{key} is not a key of any network; did you mean "
        f"{' or '.join(close)}?"
      )
  cls = _MODELS[name]
  options = {
    key: tuple(value) if isinstance(value, list | tuple) else value
    for key, value in options.items()
    if key in _keys(cls)
  }
  model = cls(**options)
  model.check_config()
  return model


def validate(model_config: Mapping[str, Any], *shapes: Sequence[int]) -> None:
  """Raises ValueError if the configuration, or it with such inputs, fails.

  Args:
    model_config: `config.model`.
    *shapes: of the inputs, with or without batch axis: video
      `[F, H, W, C]` and audio `[L, C]`, or image `[H, W, C]`.
  """
  create_model(model_config).check_shapes(*shapes)


def abstract_variables(model_config: Mapping[str, Any]) -> Any:
  """Shapes and types of a network's variables, without computing any."""
  model = create_model(model_config)
  inputs = [
    jax.ShapeDtypeStruct((1, *shape), "float32")
    for shape in model.input_shapes()
  ]
  t = jax.ShapeDtypeStruct((1,), "int32")
  # The small image may have any size, that of the large one included.
  options = {"low_res": inputs[0]} if len(inputs) == 1 else {}
  return jax.eval_shape(model.init, jax.random.key(0), *inputs, t, **options)


__all__ = [
  "AVUNet",
  "SRUNet",
  "abstract_variables",
  "create_model",
  "validate",
]
