"""What the commands of studies do with their flags."""

import argparse
import functools
import pathlib
import sqlite3
from collections.abc import Callable

Action = Callable[[argparse.Namespace], None]


def _on_answers(act: Action) -> Action:
  """Turns the database's errors into those of a file."""

  @functools.wraps(act)
  def run(options: argparse.Namespace) -> None:
    try:
      act(options)
    except sqlite3.Error as error:
      study = options.argument or options.pilot
      raise OSError(
        f"{study}: the answers cannot be read or written ({error}); is the "
        "disk full or read-only?"
      ) from error

  return run


def build(options: argparse.Namespace) -> None:
  """Makes a study's folder."""
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


@_on_answers
def serve(options: argparse.Namespace) -> None:
  """Lets raters answer."""
  try:
    from mmdiff_jax.study.serving.server import serve
  except ModuleNotFoundError as error:
    raise ValueError(
      f"Serving needs {error.name}: pip install fastapi jinja2 krippendorff "
      "python-multipart pyyaml uvicorn."
    ) from error
  serve(
    options.argument,
    options.host,
    options.port,
    options.root_path,
    options.per_client,
  )


@_on_answers
def invite(options: argparse.Namespace) -> None:
  """Prints links, each of which lets one rater take part."""
  from mmdiff_jax.study.serving.conduct import invite

  for link in invite(options.argument, options.count, options.address):
    print(link)


@_on_answers
def report(options: argparse.Namespace) -> None:
  """Analyses the answers."""
  from mmdiff_jax.study.statistics.report import report

  output = options.output or pathlib.Path(options.argument) / "report"
  print(report(options.argument, output, options.draws))


@_on_answers
def export(options: argparse.Namespace) -> None:
  """Writes all answers to a file."""
  from mmdiff_jax.study.export import export

  number = export(options.argument, options.output, options.truth)
  print(f"{options.output}: {number} rows")


@_on_answers
def plan(options: argparse.Namespace) -> None:
  """Says how many raters and clips a study needs."""
  from mmdiff_jax.study.statistics import power, votes

  parts = power.ASSUMED
  if options.pilot:
    parts = power.pilot_parts(votes.answers_of(options.pilot))
  print(
    power.plan_table(options.raters, options.clips, options.per_rater, parts)
  )


@_on_answers
def simulate(options: argparse.Namespace) -> None:
  """Lets simulated raters answer."""
  from mmdiff_jax.study.serving.simulate import answer

  study = options.argument
  number = answer(study, options.raters, options.cheaters, options.seed)
  print(f"{study}: {number} answers of {options.raters} raters")
