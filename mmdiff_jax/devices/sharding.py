"""The shardings of batches and parameters (GSPMD)."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Leaves smaller than this are replicated: gathering them costs more than
# they take.
MIN_SHARDED_ELEMENTS = 2**14


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of a value that every device holds."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
  """The sharding of a batch: its leading axis over all devices."""
  return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def fsdp_sharded(mesh: Mesh, tree: Any) -> Any:
  """Shardings of parameters or optimiser state over the `fsdp` axis.

  Each leaf is split along its largest dimension that the axis divides;
  small leaves, and those that nothing divides, are replicated.

  Args:
    mesh: the mesh of `make_mesh`.
    tree: arrays or `jax.ShapeDtypeStruct`s.

  Returns:
    A tree of `NamedSharding` of the same structure.
  """
  size = mesh.shape["fsdp"]

  def leaf_sharding(leaf: Any) -> NamedSharding:
    shape = leaf.shape
    if size == 1 or np.prod(shape) < MIN_SHARDED_ELEMENTS:
      return replicated(mesh)
    divisible = [axis for axis, n in enumerate(shape) if n % size == 0]
    if not divisible:
      return replicated(mesh)
    axis = max(divisible, key=lambda a: shape[a])
    spec: list[str | None] = [None] * len(shape)
    spec[axis] = "fsdp"
    return NamedSharding(mesh, PartitionSpec(*spec))

  return jax.tree.map(leaf_sharding, tree)


def gathered(mesh: Mesh, params: Any) -> Any:
  """Parameters as the network uses them: whole on every device.

  Within a program, where parameters are split over `fsdp`: what moves between
  devices is then weights. Left to itself, XLA may move activations instead.
  """
  if mesh.shape["fsdp"] == 1:
    return params
  return jax.lax.with_sharding_constraint(params, replicated(mesh))


def scattered(mesh: Mesh, grads: Any) -> Any:
  """Gradients summed over the devices, each of which keeps its share."""
  if mesh.shape["fsdp"] == 1:
    return grads
  return jax.lax.with_sharding_constraint(grads, fsdp_sharded(mesh, grads))


def put_batch(mesh: Mesh, batch: Any) -> Any:
  """Assembles each host's share (leading axis) into global sharded arrays."""
  sharding = batch_sharded(mesh)
  # Between hosts JAX puts arrays together in a way that counts as unintended.
  with jax.transfer_guard("allow"):
    return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(sharding, x), batch
    )


def with_shardings(abstract: Any, shardings: Any) -> Any:
  """Attaches shardings to a tree of `jax.ShapeDtypeStruct`s."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract,
    shardings,
  )
