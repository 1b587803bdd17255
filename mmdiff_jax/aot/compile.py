"""`main.py compile`: what a program would need on hardware that is absent.

Every figure is an estimate: XLA's own of its memory, and bounds from counted
operations and bytes over the makers' peak rates. Nothing is run.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from ml_collections import ConfigDict

from mmdiff_jax import checkpoint
from mmdiff_jax.aot import hlo
from mmdiff_jax.aot.hardware import GIB, Chip, check_topology
from mmdiff_jax.files import check_file, write_json

WHAT = ("train", "sample")
# Seconds between two looks at what the compiler has written.
_INTERVAL = 0.5


class DoesNotFitError(RuntimeError):
  """The program needs more memory than a chip has."""


def compile_for(
  config: ConfigDict,
  *,
  topology: str,
  what: str = "train",
  slices: int = 1,
  output: str | None = None,
) -> dict[str, Any]:
  """Compiles the train step or the sampler for a topology and reports on it.

  Args:
    config: with the keys of `configs/default.py`.
    topology: see `hardware.check_topology`.
    what: one of `WHAT`.
    slices: of TPUs.
    output: a .json file for the report; None prints it alone.

  Returns:
    The report.

  Raises:
    ValueError: for a topology, mesh or configuration that makes no sense.
    ImportError: without libtpu.
    DoesNotFitError: (once the report is written) if it does not fit.
  """
  if output is not None and pathlib.Path(output).suffix != ".json":
    raise ValueError(f"--output={output} must be a .json file.")
  if output is not None:
    check_file(output)
  chip = check_topology(topology, slices)
  job = {
    "topology": topology,
    "slices": slices,
    "what": what,
    "config": checkpoint.config_to_json(config),
  }
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    write_json(folder / "job.json", job)
    # Only XLA:TPU's reports say of the memory all that there is to say.
    seconds = _run_child(folder, early=chip is not None)
    report = job | _read(folder, chip) | {"seconds": round(seconds, 1)}
  del report["config"]
  print(as_text(report))
  if output is not None:
    write_json(output, report)
  if report["fits"] is False:
    raise DoesNotFitError(
      "It does not fit. Try, from the smallest change on: "
      "--config.model.remat=blocks, --config.train.microbatches=2 (4, 8, ...), "
      "a larger --config.mesh.fsdp, a smaller --config.train.batch_size."
    )
  return report


def _run_child(folder: pathlib.Path, early: bool) -> float:
  """Runs the child, to its end or until XLA's reports are there.

  Returns:
    The seconds taken.
  """
  started = time.perf_counter()
  errors = folder / "errors.txt"
  with errors.open("w") as stderr:
    child = subprocess.Popen(
      [sys.executable, "-m", "mmdiff_jax.aot.child", str(folder)],
      stdout=subprocess.DEVNULL,
      stderr=stderr,
    )
    try:
      while child.poll() is None:
        if early and _memory_report(folder) is not None:
          break
        time.sleep(_INTERVAL)
      if child.poll() is None:
        # The report is written after the program; it is there by now.
        time.sleep(_INTERVAL)
    finally:
      child.kill()
      child.wait()
  refused = folder / "refused.json"
  if refused.exists():
    raise ValueError(json.loads(refused.read_text())["error"])
  if not (folder / "traced.json").exists():
    lines = errors.read_text().strip().splitlines() or ["no message"]
    raise RuntimeError(f"The compiler ended early: {lines[-1]}")
  return time.perf_counter() - started


def _memory_report(folder: pathlib.Path) -> pathlib.Path | None:
  return next(folder.glob("*memory-usage-report.txt"), None)


def _read(folder: pathlib.Path, chip: Chip | None) -> dict[str, Any]:
  """The report of what the child has written."""
  traced = json.loads((folder / "traced.json").read_text())
  report: dict[str, Any] = dict(traced)
  flops = traced["flops"] / traced["devices"]
  report["flops_per_device"] = flops
  failed, compiled = folder / "failed.json", folder / "compiled.json"
  if failed.exists():
    error = json.loads(failed.read_text())["error"].split("\n")[0]
    return report | {"fits": False, "error": error[:300]}
  usage = _memory_report(folder)
  if compiled.exists():
    report |= json.loads(compiled.read_text())
    memory, text = report["memory"], (folder / "program.txt").read_text()
  elif usage is not None:
    memory = hlo.reported_memory(usage.read_text())
    text = next(folder.glob("*.after_optimizations.txt")).read_text()
  else:
    raise RuntimeError("The compiler ended without a report.")
  moved = hlo.collectives(text)
  report |= {
    "memory": memory,
    "fits": None if chip is None or memory is None else memory <= chip.hbm,
    "collectives": {kind: one._asdict() for kind, one in moved.items()},
    "buffers": hlo.largest_buffers(text),
  }
  if chip is not None:
    bounds = {
      "compute": flops / chip.flops,
      # Everything that the program holds is written and read once at least.
      "hbm": 2 * (memory or 0) / chip.bandwidth,
      "network": sum(one.size for one in moved.values()) / chip.network,
    }
    report |= {"hbm": chip.hbm, "bounds": bounds}
    report["binding"] = max(bounds, key=bounds.__getitem__)
  return report


def as_text(report: dict[str, Any]) -> str:
  """The report as a table."""
  mesh = " x ".join(f"{name} {n}" for name, n in report["mesh"].items())
  lines = [
    f"{report['what']} on {report['topology']}"
    f"{' x ' + str(report['slices']) if report['slices'] > 1 else ''}: "
    f"{report['devices']} devices ({mesh}), {report['parameters']:,} "
    "parameters. All figures are estimates.",
    f"{'FLOPs per device':24}{report['flops_per_device'] / 1e12:12.4g} TFLOP",
  ]
  if "error" in report:
    return "\n".join([*lines, f"XLA: {report['error']}"])
  if report["memory"] is not None:
    of = f" of {report['hbm'] / GIB:.2f}" if "hbm" in report else ""
    lines.append(
      f"{'memory per device':24}{report['memory'] / GIB:12.2f} GiB{of}"
    )
  if report["fits"] is not None:
    lines.append(f"{'fits':24}{'yes' if report['fits'] else 'NO':>12}")
  for name, seconds in report.get("bounds", {}).items():
    mark = "  <- binds" if name == report["binding"] else ""
    lines.append(f"{'at least, by ' + name:24}{seconds * 1e3:12.2f} ms{mark}")
  for kind, one in report["collectives"].items():
    lines.append(
      f"{kind:24}{one['size'] / 2**20:12.2f} MiB in {one['number']}, largest "
      f"{one['largest'] / 2**20:.2f} MiB {one['shape']}"
    )
  lines.append("largest values")
  lines += [
    f"{size / 2**20:12.2f} MiB  {shape}  {layer[-60:]}"
    for size, shape, layer in report["buffers"]
  ]
  return "\n".join([*lines, f"compiled in {report['seconds']:.0f} s"])
