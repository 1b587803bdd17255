"""Whether a compiled program fits into the memory of its devices.

A host that runs out of memory kills the process without a word; so what a
program will need is compared with what there is before it is started.
"""

import math
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jax

GIB = 2.0**30
_MEMINFO = pathlib.Path("/proc/meminfo")
_CGROUPS = pathlib.Path("/sys/fs/cgroup")
_OWN_GROUP = pathlib.Path("/proc/self/cgroup")
# Of the text of a compiled program: the kernels' bodies, the first lines of
# all bodies, and matrix products in them that are not what they return.
_KERNEL = re.compile(r'calls=%?([\w.\-]+).*"kind":"__ynn_fusion"')
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_PRODUCT = re.compile(r"\s+%?\S+ = b?[fsu](\d+)\[([\d,]*)\]\S* dot\(")


class DoesNotFitError(RuntimeError):
  """A program needs more memory than there is."""


def check_memory(
  compiled: jax.stages.Compiled,
  what: str,
  cures: Sequence[str],
  *,
  held: Any = None,
  force: bool = False,
) -> None:
  """Stops before a program that would not fit.

  Where a backend or a system says nothing of its memory, nothing is checked.

  Args:
    compiled: the program.
    what: it is called.
    cures: settings that make it smaller, in words.
    held: arrays among its arguments that exist already.
    force: go on nevertheless.

  Raises:
    DoesNotFitError: naming both figures and the cures.
  """
  needed = program_bytes(compiled)
  devices = jax.local_devices()
  if needed is None or force:
    return
  stats = devices[0].memory_stats() or {}
  room, where = stats.get("bytes_limit"), f"a {devices[0].device_kind}"
  if devices[0].platform == "cpu":
    needed += _kernel_bytes(compiled.as_text() or "")
    # What is held is no longer available; all devices share the host.
    needed = needed * len(devices) - _held_bytes(held)
    room, where = available_host_bytes(), "this host"
  if room is None or needed <= room:
    return
  verb = "has" if devices[0].platform != "cpu" else "has free"
  raise DoesNotFitError(
    f"{what} needs {needed / GIB:.2f} GiB of memory, {where} {verb} "
    f"{room / GIB:.2f}. Make it smaller: {', '.join(cures)}; or --force goes "
    "on nevertheless."
  )


def program_bytes(compiled: jax.stages.Compiled) -> int | None:
  """Memory of one device that a program needs; None where XLA does not say."""
  analysis = compiled.memory_analysis()
  if analysis is None:
    return None
  return (
    analysis.argument_size_in_bytes
    + analysis.output_size_in_bytes
    - analysis.alias_size_in_bytes
    + analysis.temp_size_in_bytes
  )


def _kernel_bytes(text: str) -> int:
  """What a CPU kernel holds at least besides what XLA's analysis counts.

  XLA hands parts of a program to YNNPACK, whose own memory it does not count:
  the product of queries and keys of an attention, at least.
  """
  kernels = set(_KERNEL.findall(text))
  largest, inside = 0, False
  for line in text.splitlines():
    header = _COMPUTATION.match(line)
    if header:
      inside = header[1] in kernels
    elif inside and (product := _PRODUCT.match(line)):
      bits, shape = product.groups()
      count = math.prod(int(n) for n in shape.split(",") if n)
      largest = max(largest, count * int(bits) // 8)
  return largest


def _held_bytes(arrays: Any) -> int:
  """Bytes that arrays take on the devices of this process."""
  return sum(
    shard.data.nbytes
    for array in jax.tree.leaves(arrays)
    for shard in array.addressable_shards
  )


def available_host_bytes() -> int | None:
  """Memory that this process may still take, its control group's limit too.

  None on systems that do not say.
  """
  found = [_available_in_all(), *_available_in_groups()]
  return min((value for value in found if value is not None), default=None)


def _available_in_all() -> int | None:
  try:
    lines = _MEMINFO.read_text().splitlines()
  except OSError:
    return None
  fields = dict(line.split(":", 1) for line in lines if ":" in line)
  text = fields.get("MemAvailable", "")
  return int(text.split()[0]) * 1024 if text else None


def _available_in_groups() -> list[int]:
  """What the limits of our control group and those above it leave."""
  try:
    lines = _OWN_GROUP.read_text().splitlines()
  except OSError:
    return []
  found = []
  for line in lines:
    _, controllers, name = line.split(":", 2)
    if controllers == "":  # Version 2.
      root, limit, used = _CGROUPS, "memory.max", "memory.current"
    elif "memory" in controllers.split(","):
      root, limit = _CGROUPS / "memory", "memory.limit_in_bytes"
      used = "memory.usage_in_bytes"
    else:
      continue
    folder = root / name.lstrip("/")
    # In a container the name may be the host's: then the root is ours.
    for group in {root, folder, *folder.parents}:
      if group == root or root in group.parents:
        left = _left(group, limit, used)
        found += [left] if left is not None else []
  return found


def _left(group: pathlib.Path, limit: str, used: str) -> int | None:
  try:
    bound = int((group / limit).read_text())
    taken = int((group / used).read_text())
    stat = (group / "memory.stat").read_text().split()
  except (OSError, ValueError):  # No such group, or "max".
    return None
  # Pages of files that were read count as used, but give way.
  names = ("inactive_file", "total_inactive_file")
  cached = [int(v) for n, v in zip(stat[::2], stat[1::2], strict=False)
            if n in names]  # fmt: skip
  return max(0, bound - taken + max(cached, default=0))
