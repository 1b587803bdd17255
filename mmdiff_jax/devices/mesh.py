"""The mesh of all devices, and how hosts become one run."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import Mesh

from mmdiff_jax.devices import hosts

_GPU = (("cuda12", "jax_cuda12_plugin"), ("cuda13", "jax_cuda13_plugin"))
# The extras for the hardware that JAX_PLATFORMS names, and what they install.
_EXTRAS = {"cuda": _GPU, "gpu": _GPU, "tpu": (("tpu", "libtpu"),)}
# After so many seconds without a sign of life a host counts as lost.
HEARTBEAT_TIMEOUT = 30


def join_hosts(
  coordinator: str | None, num_hosts: int | None, host: int | None
) -> None:
  """Makes the processes of all hosts one run, before JAX is used.

  Args:
    coordinator: HOST:PORT of the first host.
    num_hosts: number of hosts.
    host: number of this one, from 0.

  Raises:
    ValueError: unless all three are given, or none where a cluster manager
      (TPU pods, SLURM, Kubernetes) knows them.
  """
  hosts.check_given(coordinator, num_hosts, host)
  if coordinator is None:
    _check_slurm(os.environ)
  try:
    jax.distributed.initialize(
      coordinator,
      num_hosts,
      host,
      heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
    )
  except ValueError as error:
    raise ValueError(
      "--distributed: no cluster manager was found; give --coordinator, "
      f"--num_hosts, --host. ({error})"
    ) from error


def _check_slurm(environment: Mapping[str, str]) -> None:
  """Raises ValueError where JAX would leave GPUs of a node idle.

  It gives each process of SLURM the one GPU of its number on the node, unless
  JAX_LOCAL_DEVICE_IDS names others.
  """
  gpus = environment.get("SLURM_GPUS_ON_NODE", "")
  tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "").split("(")[0]
  if "JAX_LOCAL_DEVICE_IDS" in environment or not gpus or not tasks.isdigit():
    return
  if int(gpus) > int(tasks):
    raise ValueError(
      f"--distributed: SLURM starts {tasks} process(es) on a node of {gpus} "
      "GPUs, of which each uses one: the others would idle. Give sbatch "
      f"--ntasks-per-node={gpus}."
    )


def find_devices() -> list[jax.Device]:
  """All devices of the run.

  Raises:
    ValueError: if JAX_PLATFORMS names hardware that JAX does not find, with
      the extra that is missing.
  """
  wanted = os.environ.get("JAX_PLATFORMS", "")
  try:
    return jax.devices()
  except (RuntimeError, AssertionError) as error:  # The latter for "cuda".
    if not wanted:
      raise
    extras = next((e for name, e in _EXTRAS.items() if name in wanted), ())
    if any(importlib.util.find_spec(package) for _, package in extras):
      cure = "its package is installed, but the driver shows no device"
    elif extras:
      names = " or ".join(f'"mmdiff-jax[{extra}]"' for extra, _ in extras)
      cure = f"install the extra ({names})"
    else:
      cure = "known are cpu, cuda and tpu"
    raise ValueError(
      f"JAX_PLATFORMS={wanted}: JAX finds no such device on this machine, only "
      f"the CPU; {cure}, or set JAX_PLATFORMS=cpu."
    ) from error


def make_mesh(
  data: int = -1, fsdp: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
  """Returns the mesh of all devices with the axes `("data", "fsdp")`.

  Neighbours along `fsdp`, who exchange the most, are neighbours in the
  hardware. Several slices of TPUs are joined along `data` alone: between them
  the network is slow.

  Args:
    data: devices along the axis that splits the batch alone; -1 takes what
      `fsdp` leaves.
    fsdp: devices along the axis that splits batch and parameters; -1 takes
      what `data` leaves.
    devices: what to make it of; None is all devices of the run.

  Raises:
    ValueError: if the axes do not multiply to the number of devices, or the
      slices do not divide `data`.
  """
  devices = list(find_devices() if devices is None else devices)
  data, fsdp = _axes(data, fsdp, len(devices))
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  if data % slices:
    raise ValueError(
      f"config.mesh.data={data} must be a multiple of the {slices} slices: "
      f"give config.mesh.fsdp a divisor of {len(devices) // slices}, the "
      "devices of a slice."
    )
  if slices > 1:
    grid = mesh_utils.create_hybrid_device_mesh(
      (data // slices, fsdp),
      (slices, 1),
      devices,
      allow_split_physical_axes=True,
    )
  else:
    grid = mesh_utils.create_device_mesh(
      (data, fsdp), devices, allow_split_physical_axes=True
    )
  auto = (jax.sharding.AxisType.Auto,) * 2
  return Mesh(grid, ("data", "fsdp"), axis_types=auto)


def _axes(data: int, fsdp: int, count: int) -> tuple[int, int]:
  """Sizes of both axes, with -1 filled in.

  Raises:
    ValueError: if they do not multiply to `count`.
  """
  sizes = {"data": data, "fsdp": fsdp}
  divisors = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
  cover = f"does not cover the {count} device(s) of this run"
  for name, size in sizes.items():
    if size != -1 and (size < 1 or count % size):
      raise ValueError(
        f"config.mesh.{name}={size} {cover}: give one of {divisors}, or -1 "
        "for what the other axis leaves."
      )
  if data == fsdp == -1:
    raise ValueError(
      "config.mesh: data=-1 and fsdp=-1 say nothing; give one of them a "
      f"number: {divisors}."
    )
  data, fsdp = (
    count // other if size == -1 else size
    for size, other in ((data, fsdp), (fsdp, data))
  )
  if data * fsdp != count:
    raise ValueError(
      f"config.mesh: data={data} x fsdp={fsdp} {cover}; give -1 for one of "
      "them."
    )
  return data, fsdp


def platform_of(mesh: Mesh) -> str:
  """What the mesh's devices are: "cpu", "gpu" or "tpu"."""
  return mesh.devices.flat[0].platform


def check_batch_size(
  mesh: Mesh, batch_size: int, name: str, parts: int = 1
) -> None:
  """Raises ValueError unless the devices divide each part of a batch.

  Args:
    mesh: of the devices.
    batch_size: of the whole batch.
    name: of the setting.
    parts: that are worked on one after another.
  """
  unit = mesh.size * parts
  if batch_size > 0 and batch_size % unit == 0:
    return
  near = batch_size // unit * unit
  sizes = f"{near} or {near + unit}" if near > 0 else f"{unit}"
  what = f"{mesh.size} device(s) of this run"
  if parts > 1:
    what += f" x {parts} micro-batches"
  raise ValueError(
    f"{name}={batch_size} must be a positive multiple of the {what}, such as "
    f"{sizes}."
  )
