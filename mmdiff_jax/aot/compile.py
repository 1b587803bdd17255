"""`main.py compile`: what a program would need on hardware that is absent.

Nothing is run. `aot.fit` looks for the smallest change that fits.
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
from mmdiff_jax.aot import ladder
from mmdiff_jax.aot.hardware import check_installed, check_topology
from mmdiff_jax.aot.report import as_text, read_report, reported_memory
from mmdiff_jax.devices.chips import GIB
from mmdiff_jax.devices.memory import DoesNotFitError
from mmdiff_jax.disk.files import check_file, write_json

WHAT = ("train", "sample")
# Seconds between two looks at what the compiler has written.
_INTERVAL = 0.5
# What it does next once there is such a file.
_PHASES = {
  "job.json": "tracing the program",
  "traced.json": "lowering it",
  "*before_optimizations*.txt": "XLA optimises it (most of the time)",
  "*after_optimizations.txt": "XLA has optimised it and gives memory to values",
  "*memory-usage-report.txt": "XLA generates code",
}


def compile_for(
  config: ConfigDict,
  *,
  topology: str,
  what: str = "train",
  slices: int = 1,
  hbm: float | None = None,
  fit: bool = False,
  cycles: bool = False,
  output: str | None = None,
) -> dict[str, Any]:
  """Compiles the train step or the sampler for a topology and reports on it.

  Args:
    config: with the keys of `configs/default.py`.
    topology: see `hardware.check_topology`.
    what: one of `WHAT`.
    slices: of TPUs.
    hbm: GiB that a program may use on a device; None is what the chip has.
    fit: tries changes, from the smallest on, until one fits.
    cycles: waits until code is generated, for XLA's estimate of its cycles.
    output: a .json file for the report; None prints it alone.

  Returns:
    The report.

  Raises:
    ValueError: for a topology, mesh or configuration that makes no sense.
    ImportError: without the compiler for the topology.
    DoesNotFitError: (once the report is written) if it does not fit.
  """
  if output is not None and pathlib.Path(output).suffix != ".json":
    raise ValueError(f"--output={output} must be a .json file.")
  if output is not None:
    check_file(output)
  chip = check_topology(topology, slices)
  check_installed(topology)
  limit = None if chip is None else chip.hbm
  limit = limit if hbm is None else hbm * GIB
  if fit and limit is None:
    raise ValueError(
      f"--fit: how much memory a device of {topology} has is not known; give "
      "--hbm=GIB."
    )

  if cycles and (chip is None or chip.clock is None):
    raise ValueError(
      f"--cycles: XLA estimates cycles for TPUs alone, not for {topology}."
    )

  def attempt(changes: ladder.Changes) -> dict[str, Any]:
    changed = ladder.changed(config, changes)
    report = _compile(changed, topology, what, slices, limit, cycles)
    return report | {"changes": changes}

  tries = [attempt({})]
  if fit:
    print(_line(tries[0]), flush=True)
    for changes in ladder.rungs(config, what, tries[0]["devices"]):
      if tries[-1]["fits"] is not False:
        break
      least = _least(config, what, tries, changes)
      if least is not None and limit is not None and least > limit:
        print(
          f"{ladder.as_flags(changes)}: not tried, by proportion it needs "
          f"{least / GIB:.2f} GiB.",
          flush=True,
        )
        continue
      tries.append(attempt(changes))
      print(_line(tries[-1]), flush=True)
  report = tries[-1] | {
    "tries": [
      {key: one[key] for key in ("changes", "memory", "fits", "seconds")}
      for one in tries
    ]
  }
  print(as_text(report))
  if output is not None:
    write_json(output, report)
  if limit is not None and report["fits"] is False:
    raise DoesNotFitError(_cure(config, what, report, limit, fit))
  if report["changes"]:
    print(f"The smallest change: {ladder.as_flags(report['changes'])}")
  if report.get("error"):
    raise RuntimeError("XLA does not compile it; see above.")
  return report


def _line(report: dict[str, Any]) -> str:
  """One try, in a line."""
  what = ladder.as_flags(report["changes"]) or "as configured"
  size = report["memory"]
  needs = "" if size is None else f" {size / GIB:.2f} GiB,"
  fits = {True: "fits", False: "does not fit", None: "XLA refuses it"}
  return f"{what}:{needs} {fits[report['fits']]} ({report['seconds']:.0f} s)"


def _least(
  config: ConfigDict,
  what: str,
  tries: list[dict[str, Any]],
  changes: ladder.Changes,
) -> float | None:
  """Bytes that a change needs at least, by what was tried before it."""
  known = [
    ladder.least_memory(
      one,
      ladder.changed(config, one["changes"]),
      ladder.changed(config, changes),
      what,
    )
    for one in tries
  ]
  return max((size for size in known if size is not None), default=None)


def _cure(
  config: ConfigDict,
  what: str,
  report: dict[str, Any],
  limit: float,
  tried: bool,
) -> str:
  """What to do where a program does not fit."""
  if tried:
    return "Nothing that was tried fits: take more chips, or larger ones."
  for changes in ladder.rungs(config, what, report["devices"]):
    least = _least(config, what, [report], changes)
    if least is None or least <= limit:
      return (
        f"It does not fit. Try {ladder.as_flags(changes)}; --fit finds the "
        "smallest change that fits, by trying."
      )
  return "It does not fit, however it is split: take more chips or larger ones."


def _compile(
  config: ConfigDict,
  topology: str,
  what: str,
  slices: int,
  limit: float | None,
  cycles: bool,
) -> dict[str, Any]:
  """Compiles one program; the report on it."""
  section = config.train if what == "train" else config.sample
  job = {
    "topology": topology,
    "slices": slices,
    "what": what,
    "hbm": limit,
    "clips": section.batch_size,
  }
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    encoded = {"config": checkpoint.config_to_json(config)}
    write_json(folder / "job.json", job | encoded)
    seconds = _run_child(folder, to_the_end=cycles)
    chip = check_topology(topology, slices)
    report = read_report(folder, chip, limit)
  return job | report | {"seconds": round(seconds, 1)}


def _run_child(folder: pathlib.Path, to_the_end: bool = False) -> float:
  """Runs the child, to its end or until XLA's reports are there.

  Args:
    folder: of the job.
    to_the_end: whether the code that XLA generates is waited for.

  Returns:
    The seconds taken.
  """
  started = time.perf_counter()
  errors = folder / "errors.txt"
  with errors.open("w") as stderr:
    child = subprocess.Popen(
      [sys.executable, "-m", "mmdiff_jax.aot.child", str(folder)],
      stdin=subprocess.PIPE,
      stdout=subprocess.DEVNULL,
      stderr=stderr,
    )
    try:
      said: set[str] = set()
      while child.poll() is None and (
        to_the_end or reported_memory(folder) is None
      ):
        _say_phase(folder, said, time.perf_counter() - started)
        time.sleep(_INTERVAL)
      if child.poll() is None:
        # The last of XLA's reports; the others are there by now.
        time.sleep(_INTERVAL)
    finally:
      child.kill()
      child.wait()
  refused = folder / "refused.json"
  if refused.exists():
    raise ValueError(json.loads(refused.read_text())["error"])
  if not (folder / "traced.json").exists():
    broken = folder / "broken.json"
    if broken.exists():
      reason = json.loads(broken.read_text())["error"]
    else:
      reason = (errors.read_text().strip().splitlines() or ["no message"])[-1]
    raise RuntimeError(f"The compiler ended early: {reason}")
  return time.perf_counter() - started


def _say_phase(folder: pathlib.Path, said: set[str], seconds: float) -> None:
  """Says what the child does, once of each phase."""
  reached = [file for file in _PHASES if next(folder.glob(file), None)]
  if reached and reached[-1] not in said:
    said.add(reached[-1])
    print(f"{seconds:5.0f} s  {_PHASES[reached[-1]]}", file=sys.stderr)
