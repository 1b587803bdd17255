"""Tries faults on the program's commands: tried, right, lost.

  python -m tests.faults                     # twelve commands, an hour
  python -m tests.faults --only=sample --kills=20 --flips=0

Kills end a process at a random moment, or ahead of a random rename, removal or
fsync; the command is run again, and what it leaves is compared with what an
undisturbed run left. On a full disk it must end with one line that names the
path, and go on once there is room. Of two processes on one output the second is
refused or both are right. One of two hosts is killed. A flipped bit, a changed
digit, a file that is gone, empty, cut or in another's place must be refused, or
change nothing. "Lost" is all else.

Every row begins with what is undamaged, which must be right, and with planted
losses, which must be found.
"""

import argparse
import os
import pathlib
import random
import tempfile
from collections.abc import Callable, Iterable, Sequence


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
  add("--flips", type=int, default=40, help="of bits, of each kind [40]")
  add("--damages", type=int, default=20, help="of others, likewise [20]")
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
  from tests.faults import commands, damage, kept, trials
  from tests.faults.processes import call

  rows = [*commands.COMMANDS, "hosts", *kept.KEPT]
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
      if count:
        lost += _trials(f"{name}, {fault}", trial, count)
  if flags.hosts and "hosts" in names:
    lost += _trials(
      "train on two hosts, one killed",
      trials.HostTrials(work, rng).kill,
      flags.hosts,
    )
  for name in (name for name in names if name in kept.KEPT):
    commands.make_inputs(inputs, kept.KEPT[name].inputs)
    for number, what in enumerate(damage.DAMAGES):
      count = flags.damages if number else flags.flips
      if count:
        tried, over = call(
          damage.try_damage, name, what, inputs, count, flags.seed
        )
        if tried:  # A digit of a file without texts is nothing to change.
          lost += _row(f"{name}, {what}", tried, over)
  return int(lost > 0)


def _trials(what: str, trial: Callable, count: int) -> int:
  """Makes the trials of a row; returns the number lost."""
  from tests.faults import trials

  results = list(trials.repeat(trial, count))
  wrong = [f"{where}: {what}" for where, what in results if what]
  if not results:
    wrong = ["no trial met anything"]
  return _row(what, max(1, len(results)), wrong)


def _row(what: str, tried: int, wrong: Iterable[str]) -> int:
  """Prints a row and what was wrong; returns the number lost."""
  wrong = list(wrong)
  print(f"| {what} | {tried} | {tried - len(wrong)} | {len(wrong)} |")
  for line in wrong:
    print(f"  lost: {line}", flush=True)
  return len(wrong)


if __name__ == "__main__":
  raise SystemExit(main())
