"""Topologies by name, and what their chips can do."""

import dataclasses
import importlib.util
import os
import re
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
  """Figures of the makers' data sheets, of one JAX device.

  Attributes:
    hbm: memory in bytes that a program may use.
    flops: peak FLOP/s of matrix products in bfloat16.
    bandwidth: bytes per second of that memory.
    network: bytes per second to other chips, all links in one direction.
  """

  hbm: float
  flops: float
  bandwidth: float
  network: float


GIB = 2.0**30
TPUS = {
  "v4": Chip(32 * GIB, 275e12, 1228e9, 300e9),
  # Of 16 GiB some is the system's.
  "v5e": Chip(15.75 * GIB, 197e12, 819e9, 200e9),
  "v5p": Chip(95 * GIB, 459e12, 2765e9, 600e9),
  "v6e": Chip(31.25 * GIB, 918e12, 1640e9, 400e9),
}
GPUS = {
  # JAX takes three quarters of 79.1 GiB unless it is told otherwise
  # (XLA_PYTHON_CLIENT_MEM_FRACTION). NVLink, within a host.
  "h100": Chip(0.75 * 79.1 * GIB, 989e12, 3352e9, 450e9),
}
# Bytes per second of a GPU to those of other hosts: 400 Gbit/s for each.
_BETWEEN_HOSTS = 50e9
# So that libtpu asks no metadata server and lets several processes compile.
_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-16",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# An H100 as XLA asks for it: NVIDIA's data sheet and compute capability 9.0.
_H100 = """
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  device_memory_size: 84942979072
  l2_cache_size: 52428800
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_core_limit: 2048
  threads_per_block_limit: 1024
  threads_per_warp: 32
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  device_address_bits: 64
  pcie_bandwidth: 34359738368
  driver_version: "12.8.0"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
_CUDNN_VERSION = 91000


def check_topology(topology: str, slices: int = 1) -> Chip | None:
  """The chip of a topology; None for virtual CPU devices.

  Raises:
    ValueError: for a name of another form.
  """
  kind, _, shape = topology.partition(":")
  if kind == "cpu" and re.fullmatch(r"[1-9]\d*", shape) and slices == 1:
    return None
  if kind in TPUS and re.fullmatch(r"\d+(x\d+)*", shape):
    return TPUS[kind]
  if kind in GPUS and re.fullmatch(r"[1-9]\d*x[1-9]\d*", shape) and slices == 1:
    if shape.startswith("1x"):
      return GPUS[kind]
    return dataclasses.replace(GPUS[kind], network=_BETWEEN_HOSTS)
  raise ValueError(
    f"--topology={topology}"
    f"{f' with --slices={slices}' if slices > 1 else ''}: give cpu:N (virtual "
    f"devices), one of {', '.join(TPUS)} and its shape, such as v5e:4x4 (in "
    f"--slices, if several), or {', '.join(GPUS)}:HOSTSxGPUS, such as "
    "h100:1x8."
  )


def open_devices(topology: str, slices: int = 1) -> list[Any]:
  """The devices of a topology; call it before anything else uses JAX.

  Args:
    topology: see `check_topology`.
    slices: of TPUs, joined by the slower network between them.

  Raises:
    ValueError: for a topology that does not exist.
    ImportError: without the compiler for it.
  """
  check_topology(topology, slices)
  kind, _, shape = topology.partition(":")
  # This process has no accelerator; the compilers need none.
  jax.config.update("jax_platforms", "cpu")
  if kind == "cpu":
    jax.config.update("jax_num_cpu_devices", int(shape))
    return jax.devices()
  if kind in GPUS:
    check_installed(topology)
    _answer_for_cudnn()
    options: dict[str, Any] = {
      "platform": "cuda",
      "topology_name": "",
      "target_config": _H100,
      "topology": f"1x{shape}",
    }
  else:
    check_installed(topology)
    for name, value in _ENVIRONMENT.items():
      os.environ.setdefault(name, value)
    options = {"platform": "tpu", "topology_name": topology}
    if slices > 1:
      options["num_slices"] = slices
  from jax.experimental import topologies

  try:
    return list(topologies.get_topology_desc(**options).devices)
  except Exception as error:
    # Whatever the compiler says of it, over many lines.
    reason = str(error).strip().split("\n")[0][:200]
    raise ValueError(f"--topology={topology}: {reason}") from error


def check_installed(topology: str) -> None:
  """Raises ImportError, with the cure, without the compiler for a topology."""
  kind = topology.partition(":")[0]
  if kind in TPUS and importlib.util.find_spec("libtpu") is None:
    raise ImportError(
      f"--topology={topology} needs libtpu, XLA's compiler for TPUs: "
      "pip install 'jax[tpu]'."
    )
  # The plugins are found by JAX as modules of a package without a file.
  names = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")
  if kind in GPUS and not any(_found(name) for name in names):
    version = jax.__version__
    raise ImportError(
      f"--topology={topology} needs XLA's compiler for GPUs (no driver, no "
      f"CUDA): pip install --no-deps jax-cuda12-plugin=={version} "
      f"jax-cuda12-pjrt=={version}."
    )


def _found(name: str) -> bool:
  try:
    return importlib.util.find_spec(name) is not None
  except ModuleNotFoundError:
    return False


def _answer_for_cudnn() -> None:
  """Says what is asked of a GPU while tracing, for this process has none."""
  from jax._src.cudnn import fused_attention_stablehlo as asked

  asked.check_cudnn_version = lambda: _CUDNN_VERSION
  asked.is_cuda_compute_capability_equal = lambda capability: (
    capability == "9.0"
  )
