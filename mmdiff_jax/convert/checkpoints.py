"""Published PyTorch checkpoints as variables of our networks, and back.

One module per family of networks says where each published key goes; this one
moves the arrays and is strict on both sides.
"""

import importlib
import logging
import re
from collections.abc import Mapping
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.convert.targets import Conversion

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
  family = importlib.import_module(f"{__package__}.{_FAMILIES[kind]}")
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
