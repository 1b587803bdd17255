"""The commands: study build | serve | report | export | plan | simulate."""

import argparse
import pathlib
import sqlite3
from collections.abc import Sequence


def run(arguments: Sequence[str], program: str = "main.py study") -> None:
  """Runs a sub-command.

  Args:
    arguments: what follows `study` on the command line.
    program: how it is called, with `study`.

  Raises:
    ValueError: for the caller's mistakes.
    OSError: if a study cannot be read or written.
  """
  options = _parser(program).parse_args(arguments)
  try:
    options.run(options)
  except sqlite3.Error as error:
    raise OSError(
      f"{options.study}: the answers cannot be read or written ({error}); is "
      "the disk full or read-only?"
    ) from error


def _parser(program: str) -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog=program, description="Human studies of clips with sound."
  )
  commands = parser.add_subparsers(required=True, metavar="COMMAND")

  build = commands.add_parser("build", help="make a study's folder")
  build.add_argument("--real", required=True, help="folder of real clips")
  build.add_argument(
    "--fake", required=True, action="append", metavar="NAME=DIR",
    help="folder of a system's clips; may be repeated",
  )  # fmt: skip
  build.add_argument("--output", required=True, help="the study's folder")
  build.add_argument(
    "--preset", default="default", help="default, paper, or a .yaml file"
  )
  build.set_defaults(run=_build)

  serve = commands.add_parser("serve", help="let raters answer")
  serve.add_argument("study", help="folder that build made")
  serve.add_argument("--host", default="127.0.0.1")
  serve.add_argument("--port", type=int, default=8000)
  serve.add_argument(
    "--root_path", default="", help="path below which a proxy serves it"
  )
  serve.set_defaults(run=_serve)

  report = commands.add_parser("report", help="analyse the answers")
  report.add_argument("study", help="folder that build made")
  report.add_argument("--output", help="folder of the report (STUDY/report)")
  report.add_argument(
    "--draws", type=int, default=1000, help="of the bootstrap"
  )
  report.set_defaults(run=_report)

  export = commands.add_parser("export", help="write all answers to a file")
  export.add_argument("study", help="folder that build made")
  export.add_argument(
    "--output", required=True, help="a .csv or .json file, one row per score"
  )
  export.add_argument(
    "--truth", action="store_true",
    help="with what each clip was: for when nobody answers any more",
  )  # fmt: skip
  export.set_defaults(run=_export)

  plan = commands.add_parser("plan", help="how many raters and clips?")
  plan.add_argument(
    "--raters", type=int, nargs="+", default=[10, 20, 30, 50, 100]
  )
  plan.add_argument("--clips", type=int, default=100, help="per system")
  plan.add_argument(
    "--per_rater", type=int, default=20, help="clips of a system per rater"
  )
  plan.add_argument(
    "--pilot", metavar="STUDY", help="a study whose answers show the spreads"
  )
  plan.set_defaults(run=_plan)

  simulate = commands.add_parser(
    "simulate", help="let simulated raters answer (to try the report)"
  )
  simulate.add_argument("study", help="folder that build made, without answers")
  simulate.add_argument("--raters", type=int, default=30)
  simulate.add_argument(
    "--cheaters", type=int, default=0, help="of them, who do not look"
  )
  simulate.add_argument("--seed", type=int, default=0)
  simulate.set_defaults(run=_simulate)
  return parser


def _build(options: argparse.Namespace) -> None:
  from mmdiff_jax.study.building.build import build
  from mmdiff_jax.study.settings import load_settings

  fake: dict[str, str] = {}
  for pair in options.fake:
    name, equals, folder = pair.partition("=")
    if not (name and equals and folder) or name in fake:
      raise ValueError(
        f"--fake={pair}: give NAME=DIR, every system by a name of its own."
      )
    fake[name] = folder
  settings = load_settings(options.preset)
  study = build(options.real, fake, options.output, settings)
  places = len(study.slots)
  print(f"{study.path}: {len(study.clips)} clips, places for {places} raters")


def _serve(options: argparse.Namespace) -> None:
  try:
    from mmdiff_jax.study.serving.server import serve
  except ModuleNotFoundError as error:
    raise ValueError(
      f"Serving needs {error.name}: pip install fastapi jinja2 krippendorff "
      "python-multipart pyyaml uvicorn."
    ) from error
  serve(options.study, options.host, options.port, options.root_path)


def _report(options: argparse.Namespace) -> None:
  from mmdiff_jax.study.statistics.report import report

  output = options.output or pathlib.Path(options.study) / "report"
  print(report(options.study, output, options.draws))


def _export(options: argparse.Namespace) -> None:
  from mmdiff_jax.study.export import export

  number = export(options.study, options.output, options.truth)
  print(f"{options.output}: {number} rows")


def _plan(options: argparse.Namespace) -> None:
  from mmdiff_jax.study.statistics import power, votes

  parts = power.ASSUMED
  if options.pilot:
    parts = power.pilot_parts(votes.answers_of(options.pilot))
  print(
    power.plan_table(options.raters, options.clips, options.per_rater, parts)
  )


def _simulate(options: argparse.Namespace) -> None:
  from mmdiff_jax.study.serving.simulate import answer

  number = answer(options.study, options.raters, options.cheaters, options.seed)
  print(f"{options.study}: {number} answers of {options.raters} raters")
