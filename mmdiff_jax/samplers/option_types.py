"""Types of the options of a sampler, as its class declares them."""

import math
import typing
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

_WORDS = {
  int: "a whole number",
  float: "a number",
  bool: "True or False",
  str: "a text",
}


def check_types(values: Mapping[str, Any], types: Mapping[str, Any]) -> None:
  """Raises ValueError for a value of another type than its option's.

  Args:
    values: of options by name.
    types: of the options by name: int, float, bool, str or a union of them.
  """
  for name, value in values.items():
    kinds = typing.get_args(types[name]) or (types[name],)
    if not any(_is(value, kind) for kind in kinds):
      words = [text for kind, text in _WORDS.items() if kind in kinds]
      raise ValueError(f"{name}={value!r}: give {' or '.join(words)}.")


def _is(value: Any, kind: type) -> bool:
  """Whether a value, a NumPy one included, is of a type."""
  if isinstance(value, bool | np.bool_):
    return kind is bool
  if kind is int:
    return isinstance(value, int | np.integer)
  if kind is float:
    return isinstance(value, Real) and not math.isnan(value)
  return kind is str and isinstance(value, str)
