"""Topologies by name, and what their chips can do."""

import dataclasses
import os
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
  """Figures of the makers' data sheets, of one JAX device.

  Attributes:
    hbm: memory in bytes that a program may use; None for a CPU.
    flops: peak FLOP/s of matrix products in bfloat16.
    bandwidth: bytes per second of that memory.
    network: bytes per second to other chips, all links in one direction.
  """

  hbm: float
  flops: float
  bandwidth: float
  network: float


GIB = 2.0**30
CHIPS = {
  "v4": Chip(32 * GIB, 275e12, 1228e9, 300e9),
  # Of 16 GiB some is the system's.
  "v5e": Chip(15.75 * GIB, 197e12, 819e9, 200e9),
  "v5p": Chip(95 * GIB, 459e12, 2765e9, 600e9),
  "v6e": Chip(31.25 * GIB, 918e12, 1640e9, 400e9),
}
# So that libtpu asks no metadata server and lets several processes compile.
_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-16",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def check_topology(topology: str, slices: int = 1) -> Chip | None:
  """The chip of a topology; None for virtual CPU devices.

  Raises:
    ValueError: for a name of another form.
  """
  kind, _, shape = topology.partition(":")
  if kind == "cpu" and shape.isdigit() and int(shape) > 0 and slices == 1:
    return None
  if kind in CHIPS and shape and shape.replace("x", "").isdigit():
    return CHIPS[kind]
  raise ValueError(
    f"--topology={topology}: give cpu:N (virtual devices, one slice), or one "
    f"of {', '.join(CHIPS)} and its shape, such as v5e:4x4. GPUs that are "
    "absent cannot be compiled for yet."
  )


def open_devices(topology: str, slices: int = 1) -> list[Any]:
  """The devices of a topology; call it before anything else uses JAX.

  Args:
    topology: see `check_topology`.
    slices: of TPUs, joined by the slower network between them.

  Raises:
    ValueError: for a topology that does not exist.
    ImportError: without libtpu.
  """
  check_topology(topology, slices)
  if topology.startswith("cpu:"):
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", int(topology.partition(":")[2]))
    return jax.devices()
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  # This process has no accelerator; the compiler needs none.
  jax.config.update("jax_platforms", "cpu")
  try:
    import libtpu  # noqa: F401
  except ImportError as error:
    raise ImportError(
      f"--topology={topology} needs libtpu, XLA's compiler for TPUs: "
      "pip install 'jax[tpu]'."
    ) from error
  from jax.experimental import topologies

  options = {"num_slices": slices} if slices > 1 else {}
  try:
    described = topologies.get_topology_desc(
      platform="tpu", topology_name=topology, **options
    )
  except Exception as error:
    # Whatever libtpu says of it, over many lines.
    reason = str(error).strip().split("\n")[0][:200]
    raise ValueError(f"--topology={topology}: {reason}") from error
  return list(described.devices)
