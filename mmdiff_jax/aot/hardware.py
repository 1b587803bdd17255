"""Topologies by name, and the devices of those that are not there."""

import dataclasses
import difflib
import importlib.util
import os
import re
from typing import Any

import jax

from mmdiff_jax.aot import gpu_targets, topologies
from mmdiff_jax.devices.chips import CHIPS, GPUS, TPUS, Chip

# Bytes per second of a GPU to those of other hosts: 400 Gbit/s for each.
_BETWEEN_HOSTS = 50e9
# So that libtpu asks no metadata server and lets several processes compile.
_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-16",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# Of one machine.
_MOST_GPUS = 8


def check_topology(topology: str, slices: int = 1) -> Chip | None:
  """The chip of a topology; None for virtual CPU devices.

  Raises:
    ValueError: for one that does not exist, with what there is.
  """
  kind, _, shape = topology.partition(":")
  if slices < 1:
    raise ValueError(f"--slices={slices}: give 1 or more.")
  if kind in TPUS:
    return _check_tpu(kind, shape, topology)
  if kind != "cpu" and kind not in GPUS:
    near = difflib.get_close_matches(kind.lower(), ["cpu", *CHIPS], 1)
    raise ValueError(
      f"--topology={topology}: {kind!r} is unknown"
      f"{f' (did you mean {near[0]!r}?)' if near else ''}; give one of "
      f"{', '.join(TPUS)} and its shape, such as v5e:4x4; one of "
      f"{', '.join(GPUS)} as HOSTSxGPUS, such as h100:1x8; or cpu:N, virtual "
      "devices."
    )
  if slices > 1:
    raise ValueError(
      f"--topology={topology} --slices={slices}: only TPUs come in slices"
      f"{'; give HOSTSxGPUS for several machines.' if kind in GPUS else '.'}"
    )
  if kind == "cpu":
    if not re.fullmatch(r"[1-9]\d{0,3}", shape):
      raise ValueError(
        f"--topology={topology}: give the number of virtual devices, such as "
        "cpu:8."
      )
    return None
  return _check_gpu(kind, shape, topology)


def _check_tpu(kind: str, shape: str, topology: str) -> Chip:
  if not re.fullmatch(r"\d+(x\d+)+", shape) or not topologies.exists(
    kind, shape
  ):
    raise ValueError(
      f"--topology={topology}: there is no such slice of {kind}; there are "
      f"{topologies.in_words(kind)}."
    )
  return TPUS[kind]


def _check_gpu(kind: str, shape: str, topology: str) -> Chip:
  if re.fullmatch(r"[1-9]\d?", shape) and int(shape) <= _MOST_GPUS:
    raise ValueError(
      f"--topology={topology}: give HOSTSxGPUS; {shape} on one machine are "
      f"{kind}:1x{shape}."
    )
  match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", shape)
  if match is None:
    raise ValueError(
      f"--topology={topology}: give HOSTSxGPUS, such as {kind}:1x8."
    )
  hosts, gpus = map(int, match.groups())
  if gpus > _MOST_GPUS:
    split = f", such as {kind}:{gpus // 8}x8" if gpus % 8 == 0 else ""
    raise ValueError(
      f"--topology={topology}: a machine has at most {_MOST_GPUS} GPUs; give "
      f"HOSTSxGPUS{split}."
    )
  chip = GPUS[kind]
  if hosts == 1:
    return chip
  return dataclasses.replace(chip, network=_BETWEEN_HOSTS)


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
    _answer_for_cudnn(gpu_targets.capability(kind))
    options: dict[str, Any] = {
      "platform": "cuda",
      "topology_name": "",
      "target_config": gpu_targets.describe(kind),
      "topology": f"1x{shape}",
    }
  else:
    check_installed(topology)
    for name, value in _ENVIRONMENT.items():
      os.environ.setdefault(name, value)
    options = {"platform": "tpu", "topology_name": topology}
    if topologies.single_chip(shape):
      options["chips_per_host_bounds"] = (1, 1, 1)
    if kind == "v4":
      options |= {"chip_config_name": "megacore"}
      options["chips_per_host_bounds"] = (2, 2, 1)
    if slices > 1:
      options["num_slices"] = slices
  from jax.experimental.topologies import get_topology_desc

  try:
    return list(get_topology_desc(**options).devices)
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


def _answer_for_cudnn(capability: str) -> None:
  """Says what is asked of a GPU while tracing, for this process has none."""
  from jax._src.cudnn import fused_attention_stablehlo as asked

  asked.check_cudnn_version = lambda: gpu_targets.CUDNN_VERSION
  asked.is_cuda_compute_capability_equal = lambda other: other == capability
  asked.check_compute_capability = lambda least: (
    float(capability) >= float(least)
  )
