"""A short run of the fault harness: nothing may be lost."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def test_a_preparation_that_is_killed_or_refused_room_loses_nothing():
  """In a process of its own: it forks, which JAX's threads do not survive."""
  flags = [
    "--only=prepare,data set",
    "--kills=2",
    "--full=2",
    "--pairs=1",
    "--hosts=0",
  ]
  result = subprocess.run(
    [sys.executable, "-m", "tests.faults", *flags, "--flips=8"],
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stdout + result.stderr
  rows = [line.split("|")[1:5] for line in result.stdout.splitlines()[2:]]
  assert {"prepare, killed", "data set, one bit flipped"} <= {
    r[0].strip() for r in rows
  }
  for _, tried, right, lost in rows:
    assert int(tried) == int(right) and int(lost) == 0
