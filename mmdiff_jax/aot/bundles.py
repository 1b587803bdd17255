"""How long kernels for TPUs take, by the schedule that libtpu generates.

libtpu writes the final bundles (what a core issues in one cycle) of each
program that it generates. Counted as often as their loops run they are the
cycles of a kernel, but for what it waits for: a lower bound.
"""

import os
import pathlib
import re
from collections.abc import Iterable
from typing import NamedTuple

_BUNDLE = re.compile(
  r"^\s*(?:0x[0-9a-f]+|0)\s+((?:[A-Z]{2}[,\s]*)*):\s((?:>\s?)*)"
)
_EXIT = re.compile(r", (\d+) /\* loop exit test \*/")
_GRID = re.compile(r"iteration_bounds: \(([\d, ]+)\)")


class Kernel(NamedTuple):
  """A kernel's schedule.

  Attributes:
    name: of the operation in the program.
    steps: of its grid.
    cycles: of all steps.
  """

  name: str
  steps: int
  cycles: int


def ask_for_them(folder: pathlib.Path) -> None:
  """Has libtpu write its schedules; call it before libtpu is loaded."""
  os.environ["LIBTPU_INIT_ARGS"] = (
    f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
  )


def read(folder: pathlib.Path, names: Iterable[str]) -> list[Kernel]:
  """The schedules of operations of a program, the newest in a folder."""
  found = []
  for name in names:
    paths = sorted(folder.glob(f"*-{name}-[0-9]*-final_bundles.txt"))
    if paths:
      found.append(count(name, paths[-1].read_text()))
  return found


def count(name: str, text: str) -> Kernel:
  """Cycles of a schedule.

  The outermost loop is the grid's; those within it run to the end that their
  exit test states.
  """
  bounds = _GRID.search(text)
  steps = 1
  for bound in bounds[1].split(",") if bounds else ():
    steps *= int(bound)
  once = each = inner = 0
  trips = 1
  for line in text.splitlines():
    bundle = _BUNDLE.match(line)
    if bundle is None:
      continue
    depth = bundle[2].count(">")
    if depth > 1 and "LB" in bundle[1]:
      # Another loop within the grid's.
      each, inner, trips = each + inner * trips, 0, 1
    stated = _EXIT.search(line)
    if depth > 1 and stated:
      trips = int(stated[1])
    once += depth == 0
    each += depth == 1
    inner += depth > 1
  each += inner * trips
  return Kernel(name, steps, once + steps * each)
