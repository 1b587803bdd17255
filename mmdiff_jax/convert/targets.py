"""Where the arrays of a published checkpoint go, and in which layout."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax
import numpy as np


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
