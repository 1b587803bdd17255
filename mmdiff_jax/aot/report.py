"""The report on a program: figures, and the table of them.

Every figure is an estimate: XLA's own of its memory, and of its time where it
has one; and bounds from counted operations and bytes over the makers' peak
rates.
"""

import json
import pathlib
import re
from typing import Any

from mmdiff_jax.aot import hlo
from mmdiff_jax.aot.traffic import traffic
from mmdiff_jax.devices.chips import GIB, Chip

# What code was generated for, as text, in the job's folder.
COMPILED = "compiled.txt"

# XLA:TPU's "Used 24.17G of 15.75G hbm."
_NEEDED = re.compile(r"Used ([\d.]+)([GM]) of [\d.]+[GM] hbm")


def reported_memory(folder: pathlib.Path) -> int | None:
  """Bytes by XLA's report of the memory, once it has come to stating them."""
  path = next(folder.glob("*memory-usage-report.txt"), None)
  return None if path is None else hlo.reported_memory(path.read_text())


def read_report(
  folder: pathlib.Path, chip: Chip | None, hbm: float | None
) -> dict[str, Any]:
  """The report of what the child and XLA have written.

  Args:
    folder: of the job.
    chip: that it is for; None gives no bounds.
    hbm: bytes that a program may use there; None says not whether it fits.

  Raises:
    RuntimeError: if the compiler ended without a word.
  """
  report: dict[str, Any] = json.loads((folder / "traced.json").read_text())
  report["flops_per_device"] = report["flops"] / report["devices"]
  report["hbm"] = hbm
  held = sum(report["held"].values())
  failed, compiled = folder / "failed.json", folder / "compiled.json"
  if failed.exists():
    error = json.loads(failed.read_text())["error"]
    needed = needed_memory(error) if error else held
    # What has no such figure is no matter of memory.
    fits = False if needed is not None else None
    return report | {"fits": fits, "memory": needed, "error": error[:300]}
  memory = reported_memory(folder)
  if compiled.exists():
    memory = json.loads(compiled.read_text())["memory"] or memory
  if memory is None:
    raise RuntimeError("The compiler ended without a report.")
  program = hlo.Program(
    next(folder.glob("*after_optimizations.txt")).read_text()
  )
  moved = hlo.collectives(program)
  report |= {
    "memory": memory,
    "temporaries": max(0, memory - held),
    "fits": None if hbm is None else memory <= hbm,
    "traffic": traffic(program),
    "collectives": {kind: one._asdict() for kind, one in moved.items()},
    "buffers": hlo.largest_buffers(program),
    "code_generated": compiled.exists(),
  }
  if chip is not None:
    bounds = {
      "compute": report["flops_per_device"] / chip.flops,
      "hbm": report["traffic"] / chip.bandwidth,
      "network": sum(one.moved for one in moved.values()) / chip.network,
    }
    report["bounds"] = bounds
    report["binding"] = max(bounds, key=bounds.__getitem__)
    seconds = bounds[report["binding"]]
    peak = report["devices"] * chip.flops
    report["mfu"] = report["model_flops"] / seconds / peak
    report["hfu"] = report["flops"] / seconds / peak
  if (folder / COMPILED).exists() and chip is not None and chip.clock:
    cycles, without = hlo.estimated_cycles(
      hlo.Program((folder / COMPILED).read_text())
    )
    report["estimate"] = cycles / chip.clock
    report["kernels_without"] = without
  return report


def needed_memory(error: str) -> int | None:
  """Bytes that XLA says to need for a program that it refuses, or None."""
  match = _NEEDED.search(error)
  if match is None:
    return None
  return round(float(match[1]) * {"G": 2**30, "M": 2**20}[match[2]])


def as_text(report: dict[str, Any]) -> str:
  """The report as a table."""
  mesh = " x ".join(f"{name} {n}" for name, n in report["mesh"].items())
  slices = f" x {report['slices']}" if report["slices"] > 1 else ""
  lines = [
    f"{report['what']} on {report['topology']}{slices}: {report['devices']} "
    f"devices ({mesh}), {report['parameters']:,} parameters, "
    f"{report['clips']} clips a batch. All figures are estimates.",
    *_memory_lines(report),
    f"{'FLOPs per device':24}{report['flops_per_device'] / 1e12:12.4g} TFLOP, "
    f"of which the model needs "
    f"{report['model_flops'] / report['devices'] / 1e12:.4g}",
  ]
  if report.get("error"):
    lines.append(f"XLA: {report['error']}")
  if "traffic" in report:
    lines.append(f"{'memory traffic':24}{report['traffic'] / 1e9:12.2f} GB")
  for name, seconds in report.get("bounds", {}).items():
    mark = "  <- binds" if name == report["binding"] else ""
    lines.append(f"{'at least, by ' + name:24}{seconds * 1e3:12.2f} ms{mark}")
  if "bounds" in report:
    rate = report["clips"] / report["bounds"][report["binding"]]
    lines.append(
      f"{'at most':24}{rate:12.4g} clips/s, MFU {report['mfu']:.0%} (the "
      f"model's FLOPs), HFU {report['hfu']:.0%} (the program's)"
    )
  if "estimate" in report:
    kernels = report["kernels_without"]
    but = f" but for {kernels} runs of kernels" if kernels else ""
    lines.append(
      f"{'XLA estimates':24}{report['estimate'] * 1e3:12.2f} ms, by the cycles "
      f"that it states{but}"
    )
  for kind, one in report.get("collectives", {}).items():
    lines.append(
      f"{kind:24}{one['size'] / 2**20:12.2f} MiB in {one['number']}, largest "
      f"{one['largest'] / 2**20:.2f} MiB {one['shape']}  {one['layer'][-60:]}"
    )
  if "buffers" in report:
    lines.append("largest values")
    lines += [
      f"{size / 2**20:12.2f} MiB  {shape}  {layer[-60:]}"
      for size, shape, layer in report["buffers"]
    ]
  rest = ""
  if report.get("code_generated") is False:
    rest = " but for the generation of code, which was not waited for"
  return "\n".join([*lines, f"compiled in {report['seconds']:.0f} s{rest}"])


def _memory_lines(report: dict[str, Any]) -> list[str]:
  lines = []
  if report["memory"] is not None:
    of = f" of {report['hbm'] / GIB:.2f} GiB" if report["hbm"] else ""
    lines.append(f"{'memory per device':24}{_size(report['memory'])}{of}")
  kinds = dict(report["held"])
  if "temporaries" in report:
    kinds["temporaries"] = report["temporaries"]
  lines += [f"{'  ' + kind:24}{_size(size)}" for kind, size in kinds.items()]
  if report["fits"] is not None:
    lines.append(f"{'fits':24}{'yes' if report['fits'] else 'NO':>12}")
  return lines


def _size(size: float) -> str:
  if size < GIB / 10:
    return f"{size / 2**20:12.2f} MiB"
  return f"{size / GIB:12.2f} GiB"
