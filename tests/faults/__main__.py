"""Tries faults on the program's commands: tried, right, lost.

  python -m tests.faults                     # twelve commands, an hour
  python -m tests.faults --only=sample --kills=20 --flips=0

Kills end a process at a random moment, or ahead of a random rename, removal or
fsync; the command is run again, and what it leaves is compared with what an
undisturbed run left. On a full disk it must end with one line that names the
path, and go on once there is room. Of two processes on one output the second is
refused or both are right. One of two hosts is killed. One flipped bit must be
refused, or change nothing. "Lost" is all else.
"""

import argparse
import os
import pathlib
import random
import tempfile
from collections.abc import Iterable, Sequence


def main(arguments: Sequence[str] | None = None) -> int:
  """Prints the table; returns 1 if anything was lost."""
  parser = argparse.ArgumentParser(
    prog="python -m tests.faults", description=__doc__.split("\n\n")[0]
  )
  add = parser.add_argument
  add("--only", default="", help="rows, separated by commas [all]")
  add("--kills", type=int, default=9, help="of each command [9]")
  add("--full", type=int, default=4, help="full disks, of each command [4]")
  add("--pairs", type=int, default=3, help="two processes, likewise [3]")
  add("--hosts", type=int, default=4, help="kills of one of two hosts [4]")
  add("--flips", type=int, default=40, help="of each kind of folder [40]")
  add("--seed", type=int, default=0)
  add("--work", help="folder to work in, whose inputs are kept [a new one]")
  flags = parser.parse_args(arguments)
  with tempfile.TemporaryDirectory() as name:
    work = pathlib.Path(flags.work or name).absolute()
    work.mkdir(exist_ok=True)
    os.environ |= {
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": str(work / "cache"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return _run(flags, work)


def _run(flags: argparse.Namespace, work: pathlib.Path) -> int:
  # Late: JAX reads the environment.
  from tests.faults import commands, flips, trials
  from tests.faults.processes import call

  rows = [*commands.COMMANDS, "hosts", *flips.FOLDERS]
  names = flags.only.split(",") if flags.only else rows
  rng = random.Random(flags.seed)
  inputs = work / "inputs"
  print("| what | tried | right | lost |\n| --- | --- | --- | --- |")
  lost = 0
  for name in (name for name in names if name in commands.COMMANDS):
    commands.make_inputs(inputs, commands.COMMANDS[name].needs)
    tries = trials.Trials(commands.COMMANDS[name], work, rng)
    for fault, count, trial in (
      ("killed", flags.kills, tries.kill),
      ("full disk", flags.full, tries.fill_disk),
      ("two processes", flags.pairs, tries.meet),
    ):
      results = list(trials.repeat(trial, count))
      lost += _row(
        f"{name}, {fault}",
        len(results),
        [f"{where}: {wrong}" for where, wrong in results if wrong],
      )
  if flags.hosts and "hosts" in names:
    results = list(
      trials.repeat(trials.HostTrials(work, rng).kill, flags.hosts)
    )
    wrong = [f"{where}: {what}" for where, what in results if what]
    lost += _row("train on two hosts, one killed", len(results), wrong)
  for name in (name for name in names if name in flips.FOLDERS):
    place = flips.FOLDERS[name][1]
    commands.make_inputs(inputs, [place.partition("/")[0]])
    over = call(flips.flip, name, inputs, flags.flips, flags.seed)
    lost += _row(f"{name}, one bit flipped", flags.flips, over)
  return int(lost > 0)


def _row(what: str, tried: int, wrong: Iterable[str]) -> int:
  """Prints a row and what was wrong; returns the number lost."""
  wrong = list(wrong)
  if tried:
    print(f"| {what} | {tried} | {tried - len(wrong)} | {len(wrong)} |")
  for line in wrong:
    print(f"  lost: {line}", flush=True)
  return len(wrong)


if __name__ == "__main__":
  raise SystemExit(main())
