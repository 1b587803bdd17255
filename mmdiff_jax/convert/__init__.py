"""Published PyTorch checkpoints as variables of our networks.

One module per family of networks says where each published key goes; this one
moves the arrays and is strict on both sides.
"""

import dataclasses
import importlib
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np

_FAMILIES = {
  "av_unet": "av_unet",
  "sr_unet": "sr_unet",
  "i3d": "metric_networks",
  "audioclip": "metric_networks",
  "vggish": "metric_networks",
  "panns": "metric_networks",
  "synchformer": "synchformer",
}
_MAX_LISTED = 20


@dataclasses.dataclass(frozen=True)
class Target:
  """Where a published array goes.

  Attributes:
    path: slash-separated path in the tree of variables.
    transform: change of layout from the published array to ours.
    taps: axes of length one at the end of the published array, which
      `pointwise` drops.
  """

  path: str
  transform: Callable[[np.ndarray], np.ndarray]
  taps: int = 0

  def publish(self, x: np.ndarray) -> np.ndarray:
    """The inverse of `transform`."""
    if self.transform is kernel:
      return x.transpose(-1, -2, *range(x.ndim - 2))
    if self.transform is pointwise:
      return x.T.reshape(x.shape[::-1] + (1,) * self.taps)
    return x


@dataclasses.dataclass(frozen=True)
class Conversion:
  """How one network's published checkpoint becomes variables.

  Attributes:
    targets: published key -> where it goes.
    shapes: path in the tree of variables -> shape that it must have.
    dropped: regular expression of whole keys -> why they are left out (the
      reason is logged).
  """

  targets: Mapping[str, Target]
  shapes: Mapping[str, tuple[int, ...]]
  dropped: Mapping[str, str] = dataclasses.field(default_factory=dict)


def kernel(x: np.ndarray) -> np.ndarray:
  """Weight of a linear layer or convolution: O, I, spatial -> spatial, I, O."""
  return x.transpose(*range(2, x.ndim), 1, 0)


def pointwise(x: np.ndarray) -> np.ndarray:
  """Weight of a linear layer or of a convolution of one tap: -> I, O."""
  if x.ndim > 2 and set(x.shape[2:]) != {1}:
    raise ValueError(f"has shape {x.shape}; all taps but one must be absent")
  return x.reshape(x.shape[:2]).T


def vector(x: np.ndarray) -> np.ndarray:
  """Biases, scales and statistics stay as they are."""
  return x


def affine(key: str, path: str) -> dict[str, Target]:
  """Targets of a norm's weight and bias."""
  return {
    f"{key}.weight": Target(f"{path}/scale", vector),
    f"{key}.bias": Target(f"{path}/bias", vector),
  }


def linear(
  key: str, path: str, transform: Callable = pointwise, taps: int = 0
) -> dict[str, Target]:
  """Targets of the weight and bias of a linear layer or a convolution.

  Args:
    key: of the published layer.
    path: of ours.
    transform: of the weight.
    taps: of a published convolution of one tap, the number of its dimensions.
  """
  return {
    f"{key}.weight": Target(f"{path}/kernel", transform, taps),
    f"{key}.bias": Target(f"{path}/bias", vector),
  }


def convolution(key: str, path: str) -> dict[str, Target]:
  """Targets of the weight and bias of a convolution with several taps."""
  return linear(key, path, kernel)


def tree_shapes(variables: Any) -> dict[str, tuple[int, ...]]:
  """Shape of each leaf of a tree of variables, by slash-separated path."""
  flat = flax.traverse_util.flatten_dict(variables, sep="/")
  return {path: tuple(leaf.shape) for path, leaf in flat.items()}


def _excerpt(title: str, lines: list[str]) -> str:
  shown = sorted(lines)[:_MAX_LISTED]
  if len(lines) > len(shown):
    shown.append(f"... and {len(lines) - len(shown)} more")
  return f"{title} ({len(lines)}): " + "; ".join(shown)


def _apply(
  state_dict: Mapping[str, np.ndarray], conversion: Conversion, kind: str
) -> dict[str, Any]:
  """Moves every array to its place, or raises with all that does not fit."""
  flat: dict[str, np.ndarray] = {}
  unexpected, wrong, bad = [], [], []
  dropped: dict[str, list[str]] = {}
  for key, value in state_dict.items():
    target = conversion.targets.get(key)
    if target is None:
      reason = next(
        (r for p, r in conversion.dropped.items() if re.fullmatch(p, key)),
        None,
      )
      if reason is None:
        unexpected.append(key)
      else:
        dropped.setdefault(reason, []).append(key)
      continue
    # bfloat16 checkpoints arrive as ml_dtypes arrays: all become float32.
    array = np.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
      bad.append(f"{key}: type {array.dtype}")
      continue
    try:
      moved = target.transform(array)
    except (ValueError, IndexError) as error:
      wrong.append(f"{key}: {error}")
      continue
    expected = conversion.shapes[target.path]
    if moved.shape != expected:
      wrong.append(
        f"{key}: shape {array.shape} becomes {moved.shape}, "
        f"{target.path} is {expected}"
      )
      continue
    with np.errstate(over="ignore"):
      flat[target.path] = np.ascontiguousarray(moved, dtype=np.float32)
    if not np.isfinite(flat[target.path]).all():
      bad.append(f"{key}: NaN or infinite")

  missing = [key for key in conversion.targets if key not in state_dict]
  problems = [
    _excerpt(title, lines)
    for title, lines in (
      ("missing", missing),
      ("unexpected", unexpected),
      ("wrong shape", wrong),
      ("no finite floating-point numbers", bad),
    )
    if lines
  ]
  if problems:
    raise ValueError(
      f"The checkpoint does not fit the {kind} network. "
      + ". ".join(problems)
      + ". Give the checkpoint of this network, or the model configuration "
      "that it was trained with."
    )
  for reason, keys in dropped.items():
    logging.info("Left out %s: %s.", ", ".join(keys), reason)
  return flax.traverse_util.unflatten_dict(flat, sep="/")


def convert_checkpoint(
  state_dict: Mapping[str, np.ndarray],
  kind: str,
  model_config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Converts a published checkpoint.

  Args:
    state_dict: `{key: array}` as published, in PyTorch's layouts.
    kind: "av_unet", "sr_unet", "i3d", "audioclip", "vggish", "panns" or
      "synchformer".
    model_config: `config.model` of the U-Nets, or sizes of Synchformer; None
      means the release's. The other networks have no configuration.

  Returns:
    The variables, float32, for `model.apply`.

  Raises:
    ValueError: an unknown kind, or keys that are missing, unexpected or of the
      wrong shape; all of them are listed.
  """
  return _apply(state_dict, _make_conversion(kind, model_config), kind)


def publish_variables(
  variables: Mapping[str, Any], kind: str, model_config: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """The inverse of `convert_checkpoint`, for the U-Nets.

  Args:
    variables: `{"params": tree}`, of any floating-point type.
    kind: "av_unet" or "sr_unet".
    model_config: `config.model`.

  Returns:
    `{key: array}` with the published keys and layouts.

  Raises:
    ValueError: if the network has layers that the published one lacks.
  """
  conversion = _make_conversion(kind, model_config)
  flat = flax.traverse_util.flatten_dict(variables, sep="/")
  return {
    key: np.ascontiguousarray(target.publish(np.asarray(flat[target.path])))
    for key, target in conversion.targets.items()
  }


def _make_conversion(
  kind: str, model_config: Mapping[str, Any] | None
) -> Conversion:
  """The conversion of a network, which must be complete."""
  if kind not in _FAMILIES:
    raise ValueError(
      f"kind={kind!r} is unknown; allowed are {', '.join(_FAMILIES)}."
    )
  family = importlib.import_module(f"{__name__}.{_FAMILIES[kind]}")
  conversion = family.make_conversion(kind, model_config)
  unfilled = set(conversion.shapes) - {
    target.path for target in conversion.targets.values()
  }
  if unfilled:
    raise ValueError(
      f"The published {kind} has no key for {', '.join(sorted(unfilled)[:3])}: "
      "such a network has no published form."
    )
  return conversion
