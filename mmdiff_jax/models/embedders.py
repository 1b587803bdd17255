"""What a network is told of a clip, and how each input is embedded.

Inputs are a dict by name; the embedding of each is added to that of the time
(Nichol et al. 2021, arXiv 2112.10741, section 4.1, do so with a text's vector).
All embeddings are zero until something is learnt: a network with inputs begins
as the one without them, and its parameters can start from that one's.

A kind of input is a row of `KINDS` and a field of the network that says its
size, 0 for a network without it.
"""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.models import layers

Inputs = Mapping[str, jax.Array]


class _Vectors(nn.Module):
  """Two layers on a vector; that of zeros stands for none.

  Attributes:
    features: of the embedding.
    gain: of the vector, before the first layer.
    kernels: see `ops`.
    separate_draw: see `initial.init_in_one_draw`.
  """

  features: int
  gain: float
  kernels: str
  separate_draw: bool = True

  @nn.compact
  def __call__(self, vector: jax.Array) -> jax.Array:
    """`[B, D]` -> `[B, features]`."""
    dense_0, dense_1 = (
      layers.Dense(self.features, zero, kernels=self.kernels, name=f"dense_{i}")
      for i, zero in enumerate((False, True))
    )
    return dense_1(nn.silu(dense_0(vector * self.gain)))


@dataclasses.dataclass(frozen=True)
class Kind(abc.ABC):
  """A kind of input.

  Attributes:
    field: of the network, which has the size.
  """

  field: str

  @abc.abstractmethod
  def leaf(self, size: int) -> jax.ShapeDtypeStruct:
    """Shape of one sample's value, and its type."""

  @abc.abstractmethod
  def null(self, size: int) -> Any:
    """What all numbers of a value are that means "none"."""

  @abc.abstractmethod
  def embedder(
    self, size: int, features: int, kernels: str, name: str
  ) -> nn.Module:
    """The module that embeds a batch of values."""

  @abc.abstractmethod
  def check_value(self, name: str, size: int, value: Any) -> None:
    """Raises ValueError for a sample's value that an input cannot have."""


class _Label(Kind):
  """The number of a class."""

  def leaf(self, size: int) -> jax.ShapeDtypeStruct:
    """See `Kind`."""
    return jax.ShapeDtypeStruct((), jnp.int32)

  def null(self, size: int) -> int:
    """The number after the last class's."""
    return size

  def embedder(
    self, size: int, features: int, kernels: str, name: str
  ) -> nn.Module:
    """See `Kind`."""
    # The last row is that of no class.
    zeros = nn.initializers.zeros
    return nn.Embed(size + 1, features, embedding_init=zeros, name=name)

  def check_value(self, name: str, size: int, value: Any) -> None:
    """See `Kind`."""
    if not 0 <= int(value) < size:
      raise ValueError(
        f"{name}={value} must lie in 0..{size - 1}: the network was trained "
        f"with {size} classes."
      )


@dataclasses.dataclass(frozen=True)
class _Vector(Kind):
  """A vector.

  Attributes:
    unit: whether its length is 1, so that its numbers are small.
  """

  unit: bool = False

  def leaf(self, size: int) -> jax.ShapeDtypeStruct:
    """See `Kind`."""
    return jax.ShapeDtypeStruct((size,), jnp.float32)

  def null(self, size: int) -> float:
    """See `Kind`."""
    return 0.0

  def embedder(
    self, size: int, features: int, kernels: str, name: str
  ) -> nn.Module:
    """See `Kind`."""
    gain = math.sqrt(size) if self.unit else 1.0
    return _Vectors(features, gain, kernels, name=name)

  def check_value(self, name: str, size: int, value: Any) -> None:
    """See `Kind`."""
    if not np.isfinite(value).all():
      raise ValueError(f"{name} holds NaN or infinite numbers.")


KINDS: dict[str, Kind] = {
  "label": _Label("num_classes"),
  "text": _Vector("text_dim", unit=True),
  "embedding": _Vector("embedding_dim"),
}


def sizes(model: Any) -> dict[str, int]:
  """Size of each input that a network takes, by name."""
  found = {name: getattr(model, kind.field, 0) for name, kind in KINDS.items()}
  return {name: size for name, size in found.items() if size}


def declare(model: Any) -> dict[str, jax.ShapeDtypeStruct]:
  """Shape of one sample's value, and type, of each input of a network."""
  return {name: KINDS[name].leaf(size) for name, size in sizes(model).items()}


def null(model: Any) -> dict[str, Any]:
  """What all numbers of an input are that is withheld, by name."""
  return {name: KINDS[name].null(size) for name, size in sizes(model).items()}


def module_name(name: str) -> str:
  """Name of the module that embeds an input."""
  return f"{name}_embedding"


def embed(
  model: Any, inputs: Inputs, batch: int, features: int
) -> list[jax.Array]:
  """Embeds a network's inputs; within the network's compact method.

  Args:
    model: the network.
    inputs: `[B, ...]` by name; what is missing is withheld.
    batch: B.
    features: of an embedding.

  Returns:
    `[B, features]` of each input that the network takes.
  """
  embeddings = []
  for name, size in sizes(model).items():
    kind = KINDS[name]
    leaf = kind.leaf(size)
    value = inputs.get(name)
    if value is None:
      value = jnp.full((batch, *leaf.shape), kind.null(size), leaf.dtype)
    module = kind.embedder(size, features, model.kernels, module_name(name))
    embeddings.append(module(value))
  return embeddings


def check_sizes(model: Any) -> None:
  """Raises ValueError for sizes that make no sense."""
  for kind in KINDS.values():
    size = getattr(model, kind.field)
    if isinstance(size, bool | np.bool_) or not (
      isinstance(size, int | np.integer) and size >= 0
    ):
      raise ValueError(
        f"model.{kind.field}={size!r} must be a positive integer, or 0 for a "
        "network without this input."
      )


def check(model: Any, inputs: Inputs, batch: int) -> None:
  """Raises ValueError for inputs that a network does not take."""
  for name, value in inputs.items():
    if name not in KINDS:
      raise ValueError(
        f"The network has no input {name!r}; inputs are {', '.join(KINDS)}."
      )
    kind = KINDS[name]
    size = getattr(model, kind.field)
    if not size:
      raise ValueError(
        f"The network takes no {name} (model.{kind.field}=0); leave it out."
      )
    leaf = kind.leaf(size)
    shape = (batch, *leaf.shape)
    wanted = (
      jnp.integer if jnp.issubdtype(leaf.dtype, jnp.integer) else jnp.floating
    )
    if value.shape != shape or not jnp.issubdtype(value.dtype, wanted):
      raise ValueError(
        f"{name} is {value.dtype}{list(value.shape)}; the network takes "
        f"{leaf.dtype}{list(shape)}."
      )


def check_values(model: Any, inputs: Mapping[str, Any]) -> None:
  """Raises ValueError for a sample's values that its inputs cannot have."""
  for name, size in sizes(model).items():
    if name in inputs:
      KINDS[name].check_value(name, size, inputs[name])
