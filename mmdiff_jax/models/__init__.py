"""Networks: the coupled U-Net and the super-resolution U-Net."""

import dataclasses
import difflib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

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


def _abstract_init(model: nn.Module) -> Any:
  inputs = [
    jax.ShapeDtypeStruct((1, *shape), "float32")
    for shape in model.input_shapes()
  ]
  t = jax.ShapeDtypeStruct((1,), "int32")
  # The small image may have any size, that of the large one included.
  options = {"low_res": inputs[0]} if len(inputs) == 1 else {}
  return jax.eval_shape(model.init, jax.random.key(0), *inputs, t, **options)


def abstract_variables(model_config: Mapping[str, Any]) -> Any:
  """Shapes and types of a network's variables, without computing any."""
  return _abstract_init(create_model(model_config))


def init_params(model_config: Mapping[str, Any], rng: jax.Array) -> Any:
  """Initialises a network's parameters, to be jitted.

  The distributions are those of `model.init`. The numbers come from one draw
  for all parameters: hundreds of separate ones take longer to compile than
  the network itself.

  Args:
    model_config: `config.model`.
    rng: one key.

  Returns:
    The parameters (the entry "params" of the variables).
  """
  zero_modules = set()

  def note(call, args, kwargs, context):
    if getattr(context.module, "zero_init", False):
      zero_modules.add(context.module.path)
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    variables = _abstract_init(create_model(model_config))
  flat = flax.traverse_util.flatten_dict(variables["params"])
  drawn = {
    path: leaf
    for path, leaf in flat.items()
    if (*path[:-1], "kernel") in flat and path[:-1] not in zero_modules
  }
  sizes = [leaf.size for leaf in drawn.values()]
  numbers = jax.random.uniform(rng, (sum(sizes),), minval=-1.0, maxval=1.0)
  parts = jnp.split(numbers, list(itertools.accumulate(sizes))[:-1])
  values = {}
  for (path, leaf), part in zip(drawn.items(), parts, strict=True):
    fan_in = math.prod(flat[*path[:-1], "kernel"].shape[:-1])
    values[path] = part.reshape(leaf.shape) / math.sqrt(fan_in)
  for path, leaf in flat.items():
    if path not in values:
      fill = 1.0 if path[-1] == "scale" else 0.0
      values[path] = jnp.full(leaf.shape, fill)
  return flax.traverse_util.unflatten_dict(values)


__all__ = [
  "AVUNet",
  "SRUNet",
  "abstract_variables",
  "create_model",
  "init_params",
  "validate",
]
