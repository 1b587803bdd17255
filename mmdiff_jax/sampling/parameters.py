"""Parameters of a checkpoint, as sampling uses them."""

import os
from typing import Any

import jax
from jax.sharding import Mesh

from mmdiff_jax import checkpoint
from mmdiff_jax.devices import sharding
from mmdiff_jax.task import Task


def load_sampling_params(
  task: Task, path: str | os.PathLike, mesh: Mesh
) -> Any:
  """The averaged parameters of a checkpoint, split over the `fsdp` axis."""
  abstract = jax.eval_shape(task.init, jax.random.key(0))
  shardings = sharding.fsdp_sharded(mesh, abstract)
  return checkpoint.load_params(
    path, sharding.with_shardings(abstract, shardings)
  )
