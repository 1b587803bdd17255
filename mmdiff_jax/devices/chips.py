"""What accelerators can do at most: the figures of their makers' data sheets.

One JAX device each. Rates are of dense products in bfloat16 that sum in
float32; a GeForce reaches half as much there as with sums in float16.
"""

import dataclasses

GIB = 2.0**30
# JAX takes three quarters of a GPU's memory unless it is told otherwise
# (XLA_PYTHON_CLIENT_MEM_FRACTION).
_TAKEN = 0.75


@dataclasses.dataclass(frozen=True)
class Chip:
  """An accelerator.

  Attributes:
    kinds: beginnings of the `device_kind` by which JAX calls it.
    memory: in bytes.
    hbm: bytes of it that a program may use.
    flops: peak FLOP/s.
    bandwidth: bytes per second of its memory.
    network: bytes per second to other chips, all links in one direction; of
      GPUs, to those of the same host.
    clock: cycles per second, of TPUs.
  """

  kinds: tuple[str, ...]
  memory: float
  hbm: float
  flops: float
  bandwidth: float
  network: float
  clock: float | None = None


def _tpu(
  kinds: tuple[str, ...],
  memory: float,
  flops: float,
  bandwidth: float,
  network: float,
  clock: float,
  system: float = 0.0,
) -> Chip:
  hbm = (memory - system) * GIB
  return Chip(kinds, memory * GIB, hbm, flops, bandwidth, network, clock)


def _gpu(
  memory: float, flops: float, bandwidth: float, network: float, *kinds: str
) -> Chip:
  kinds = tuple(f"NVIDIA {kind}" for kind in kinds)
  size = memory * GIB
  return Chip(kinds, size, _TAKEN * size, flops, bandwidth, network)


# By generation. The clock is the peak rate over the products that the matrix
# units of a device do in a cycle; of the memory, some is the system's.
TPUS = {
  "v4": _tpu(("TPU v4",), 32, 275e12, 1228e9, 300e9, 1.05e9),
  "v5e": _tpu(
    ("TPU v5 lite", "TPU v5e"), 16, 197e12, 819e9, 200e9, 1.5e9, 0.25
  ),
  "v5p": _tpu(("TPU v5p", "TPU v5"), 95, 459e12, 2765e9, 600e9, 1.75e9),
  "v6e": _tpu(
    ("TPU v6 lite", "TPU v6e"), 32, 918e12, 1640e9, 400e9, 1.75e9, 0.75
  ),
}
# Memory as the driver states it. The network is NVLink's, or PCIe's of the
# cards that have none.
GPUS = {
  "b200": _gpu(179.1, 2250e12, 8000e9, 900e9, "B200"),
  "h200": _gpu(139.8, 989e12, 4800e9, 450e9, "H200"),
  "h100": _gpu(79.1, 989e12, 3352e9, 450e9, "H100"),
  "a100": _gpu(79.2, 312e12, 2039e9, 300e9, "A100"),
  "a100-40": _gpu(
    39.4, 312e12, 1555e9, 300e9, "A100-SXM4-40GB", "A100-PCIE-40GB"
  ),
  "l40s": _gpu(44.4, 362e12, 864e9, 32e9, "L40S"),
  "l4": _gpu(22.0, 121e12, 300e9, 32e9, "L4"),
  "a6000": _gpu(47.5, 154.8e12, 768e9, 32e9, "RTX A6000"),
  "5090": _gpu(31.8, 209.5e12, 1792e9, 64e9, "GeForce RTX 5090"),
  "4090": _gpu(24.0, 165.2e12, 1008e9, 32e9, "GeForce RTX 4090"),
}
CHIPS = TPUS | GPUS


def chip_of(device_kind: str) -> Chip | None:
  """The chip that JAX calls by a name; None where it is not known."""
  found = [
    (len(kind), chip)
    for chip in CHIPS.values()
    for kind in chip.kinds
    if device_kind.startswith(kind)
  ]
  return max(found, key=lambda one: one[0])[1] if found else None
