"""GPUs as XLA wants to be told of one that is not there.

The figures are of NVIDIA's data sheets and of the table of compute
capabilities in the CUDA programming guide.
"""

import dataclasses

from mmdiff_jax.devices.chips import GPUS

_KIB = 2**10
# Of the wheels that compile: nothing is asked of a driver.
CUDNN_VERSION = 91000


@dataclasses.dataclass(frozen=True)
class GPU:
  """What XLA tunes a program by, beside memory and its rate.

  Attributes:
    name: that the driver gives it.
    capability: of compute, major and minor.
    cores: streaming multiprocessors.
    clock: GHz, boosted.
    cache: MiB of level 2.
  """

  name: str
  capability: tuple[int, int]
  cores: int
  clock: float
  cache: int


_CARDS = {
  "b200": GPU("NVIDIA B200", (10, 0), 148, 1.965, 126),
  "h200": GPU("NVIDIA H200", (9, 0), 132, 1.98, 50),
  "h100": GPU("NVIDIA H100 80GB HBM3", (9, 0), 132, 1.98, 50),
  "a100": GPU("NVIDIA A100-SXM4-80GB", (8, 0), 108, 1.41, 40),
  "a100-40": GPU("NVIDIA A100-SXM4-40GB", (8, 0), 108, 1.41, 40),
  "l40s": GPU("NVIDIA L40S", (8, 9), 142, 2.52, 96),
  "l4": GPU("NVIDIA L4", (8, 9), 58, 2.04, 48),
  "a6000": GPU("NVIDIA RTX A6000", (8, 6), 84, 1.80, 6),
  "5090": GPU("NVIDIA GeForce RTX 5090", (12, 0), 170, 2.407, 96),
  "4090": GPU("NVIDIA GeForce RTX 4090", (8, 9), 128, 2.52, 72),
}
# By compute capability: KiB of shared memory of a multiprocessor, resident
# threads, and float32 units.
_MULTIPROCESSORS = {
  (8, 0): (164, 2048, 64),
  (8, 6): (100, 1536, 128),
  (8, 9): (100, 1536, 128),
  (9, 0): (228, 2048, 128),
  (10, 0): (228, 2048, 128),
  (12, 0): (100, 1536, 128),
}


def capability(name: str) -> str:
  """Compute capability of a GPU by the name of `chips.GPUS`, such as "9.0"."""
  return "{}.{}".format(*_CARDS[name].capability)


def describe(name: str) -> str:
  """A GPU as a `GpuTargetConfigProto` of XLA's, as text."""
  card, chip = _CARDS[name], GPUS[name]
  major, minor = card.capability
  shared, threads, units = _MULTIPROCESSORS[card.capability]
  return f"""
gpu_device_info {{
  name: "{card.name}"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  core_count: {card.cores}
  fpus_per_core: {units}
  clock_rate_ghz: {card.clock}
  memory_bandwidth: {chip.bandwidth:.0f}
  device_memory_size: {chip.memory:.0f}
  l2_cache_size: {card.cache * _KIB**2}
  shared_memory_per_core: {shared * _KIB}
  shared_memory_per_block: {48 * _KIB}
  shared_memory_per_block_optin: {(shared - 1) * _KIB}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_core_limit: {threads}
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
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{card.name}"
"""
