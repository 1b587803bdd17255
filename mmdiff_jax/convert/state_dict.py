"""Finds the weights of one network in what training programs save."""

import logging
from collections.abc import Mapping
from typing import Any

_log = logging.getLogger(__name__)

# Where programs keep the averaged weights, and where the others.
_AVERAGES = (
  "ema",
  "ema_state_dict",
  "state_dict_ema",
  "ema_model",
  "model_ema",
  "ema_params",
  "params_ema",
)
_WEIGHTS = ("state_dict", "model", "model_state_dict", "module", "params")
# Programs wrap a state dict twice or three times; one that holds itself has no
# end.
_DEEPEST = 16
# What wrappers put ahead of a key.
_AVERAGE_PREFIXES = ("ema_model.", "model_ema.", "ema.")
_PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "network.")


def find_state_dict(content: Any, source: str) -> dict[str, Any]:
  """Unwraps a state dict, preferring averaged weights; says what it took.

  Understands dictionaries that hold it by a usual name (Lightning's
  `state_dict` among them) and prefixes of wrappers (`module.`).

  Args:
    content: what was loaded.
    source: names it in messages.

  Raises:
    ValueError: if there is no state dict.
  """
  taken: list[str] = []
  while isinstance(content, Mapping):
    if len(taken) > _DEEPEST:
      raise ValueError(f"{source} holds dictionaries within each other.")
    inner = next(
      (
        key
        for key in (*_AVERAGES, *_WEIGHTS)
        if isinstance(content.get(key), Mapping) and content[key]
      ),
      None,
    )
    if inner is None:
      break
    taken.append(inner)
    content = content[inner]
  if not isinstance(content, Mapping) or not content:
    raise ValueError(
      f"{source} holds a {type(content).__name__}, not a state dict."
    )
  weights = {str(key): value for key, value in content.items()}
  while prefix := _prefix(weights):
    weights = {
      key.removeprefix(prefix): value
      for key, value in weights.items()
      if key.startswith(prefix)
    }
    taken.append(f"{prefix}*")
  if taken:
    _log.info("%s: the weights are those of %s.", source, " / ".join(taken))
  return weights


def _prefix(weights: Mapping[str, Any]) -> str | None:
  """What is ahead of all keys, or of the averaged ones among others."""
  for prefix in _AVERAGE_PREFIXES:
    if any(key.startswith(prefix) for key in weights):
      return prefix
  return next(
    (p for p in _PREFIXES if all(key.startswith(p) for key in weights)), None
  )
