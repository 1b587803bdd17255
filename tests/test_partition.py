"""How batches and parameters are split over a mesh that need not be there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from mmdiff_jax.devices import sharding
from mmdiff_jax.devices.mesh import make_mesh

FOUR_WAYS = AbstractMesh((2, 4), ("data", "fsdp"))


@pytest.mark.parametrize(
  ("shape", "spec"),
  [
    ((64, 256), (None, "fsdp")),
    ((256, 64), ("fsdp", None)),
    ((256, 256), ("fsdp", None)),
    ((3, 3, 64, 128), (None, None, None, "fsdp")),
    # The largest dimension that four divides, not the largest.
    ((128, 8194), ("fsdp", None)),
    ((129, 257), ()),
    ((2**14,), ("fsdp",)),
    # Too small to be worth gathering.
    ((2**14 - 4,), ()),
    ((127, 128), ()),
    ((), ()),
  ],
)
def test_a_leaf_is_split_along_its_largest_divisible_dimension(shape, spec):
  leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
  (found,) = sharding.fsdp_sharded(FOUR_WAYS, [leaf])
  assert found.mesh == FOUR_WAYS and found.spec == PartitionSpec(*spec)


def test_without_devices_to_share_them_parameters_stay_as_they_are():
  mesh = AbstractMesh((8, 1), ("data", "fsdp"))
  leaf = jax.ShapeDtypeStruct((512, 512), jnp.float32)
  (found,) = sharding.fsdp_sharded(mesh, [leaf])
  assert found.spec == PartitionSpec()
  params = {"w": jnp.ones((512, 512))}
  assert sharding.gathered(mesh, params) is params
  assert sharding.scattered(mesh, params) is params


def test_batches_are_split_over_all_devices_and_the_rest_over_none():
  assert sharding.batch_sharded(FOUR_WAYS).spec == PartitionSpec(
    ("data", "fsdp")
  )
  assert sharding.replicated(FOUR_WAYS).spec == PartitionSpec()


def test_shardings_are_attached_leaf_by_leaf():
  abstract = {
    "a": jax.ShapeDtypeStruct((256, 256), jnp.bfloat16),
    "b": jax.ShapeDtypeStruct((3,), jnp.int32),
  }
  shardings = sharding.fsdp_sharded(FOUR_WAYS, abstract)
  found = sharding.with_shardings(abstract, shardings)
  assert {k: x.sharding for k, x in found.items()} == shardings
  assert (found["a"].shape, found["a"].dtype) == ((256, 256), jnp.bfloat16)
  assert (found["b"].shape, found["b"].dtype) == ((3,), jnp.int32)


def test_a_hosts_share_of_a_batch_becomes_the_whole_where_it_is_alone():
  batch = {"x": np.arange(12.0, dtype=np.float32).reshape(4, 3)}
  mesh = make_mesh()
  got = sharding.put_batch(mesh, batch)["x"]
  np.testing.assert_array_equal(got, batch["x"])
  assert got.sharding == sharding.batch_sharded(mesh)
