"""What would the networks need and take on pods that are not there?

  python -m benchmarks.targets --reports=DIR [--configs=default,superres]
    [--topologies=v5e:4x4] [--batch=128] [--table]

Compiles each train step for each topology (`main.py compile --fit`, from
rematerialised blocks on), one after the other, and keeps each report in DIR; a
second call continues. Prints the table of those that are there; --table prints
it alone. Nothing is run: every figure is an estimate (docs/scale.md says what
each is and is not).
"""

import argparse
import importlib
import json
import pathlib
from typing import Any

from mmdiff_jax.aot import ladder
from mmdiff_jax.aot.compile import DoesNotFitError, compile_for

GIB = 2**30
CONFIGS = "default,audioset,superres"
TOPOLOGIES = "v5e:4x4,v6e:4x4,v5p:2x2x4,h100:1x8"
# Of the paper: 100,000 steps of 128 clips.
CLIPS = 12.8e6


def report_path(folder: pathlib.Path, name: str, topology: str) -> pathlib.Path:
  return folder / f"{name}_{topology.replace(':', '_')}.json"


def compile_target(
  path: pathlib.Path, name: str, topology: str, batch: int
) -> None:
  """Writes the report on one config and topology."""
  config = importlib.import_module(f"configs.{name}").get_config()
  config.train.batch_size = batch
  config.model.remat = "blocks"
  try:
    compile_for(config, topology=topology, fit=True, output=str(path))
  except DoesNotFitError as error:
    print(error)  # The report is written.


def row(name: str, report: dict[str, Any]) -> str:
  """A line of the table."""
  bounds = report.get("bounds")
  figures = ["-"] * 6
  if bounds:
    seconds = bounds[report["binding"]]
    rate = report["clips"] / seconds
    figures = [
      f"{bounds['compute'] * 1e3:.0f} / {bounds['hbm'] * 1e3:.0f} / "
      f"{bounds['network'] * 1e3:.0f}",
      f"{seconds * 1e3:.0f} ({report['binding']})",
      f"{100 * report['mfu']:.0f} %",
      f"{100 * report['hfu']:.0f} %",
      f"{rate:.0f}",
      f"{CLIPS / rate / 3600:.1f}",
    ]
  memory = report["memory"]
  gib = "-" if memory is None else f"{memory / GIB:.1f}"
  cells = [
    name,
    report["topology"],
    "yes" if report["fits"] else "no",
    ladder.as_flags(report["changes"]).replace("--config.", "") or "as is",
    f"{gib} of {report['hbm'] / GIB:.1f}",
    *figures,
  ]
  return "| " + " | ".join(cells) + " |"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--reports", type=pathlib.Path, required=True)
  parser.add_argument("--configs", default=CONFIGS)
  parser.add_argument("--topologies", default=TOPOLOGIES)
  parser.add_argument("--batch", type=int, default=128)
  parser.add_argument("--table", action="store_true")
  args = parser.parse_args()
  args.reports.mkdir(parents=True, exist_ok=True)
  cells = [
    (name, topology, report_path(args.reports, name, topology))
    for name in args.configs.split(",")
    for topology in args.topologies.split(",")
  ]
  for name, topology, path in cells:
    if not args.table and not path.exists():
      compile_target(path, name, topology, args.batch)
  print(
    "| config | topology | fits | beside remat=blocks | GiB a device | ms at "
    "least: compute / memory / network | step, ms (binds) | MFU at most | HFU "
    "at most | clips/s | hours for 12.8 M clips |\n" + "| --- " * 11 + "|"
  )
  for name, _, path in cells:
    if path.exists():
      print(row(name, json.loads(path.read_text())))


if __name__ == "__main__":
  main()
