"""A short run of the fault harness: nothing may be lost."""

import random

import pytest

from benchmarks import faults


@pytest.mark.parametrize(
  ("name", "read"),
  [("checkpoints", faults._read_run), ("export", faults._read_export)],
)
def test_no_flip_is_read_over(tmp_path, name, read):
  faults.save(tmp_path / "run" / "checkpoints")
  folder = tmp_path / "run" / "checkpoints"
  if name == "export":
    folder = tmp_path / "export"
    faults.export(folder)
  tried, right, lost = faults.flips(read, folder, 10, random.Random(0))
  assert (tried, right, lost) == (10, 10, 0)


def test_killed_saves_lose_nothing(tmp_path):
  tried, right, lost = faults.kills("save", 2, tmp_path, random.Random(3))
  assert tried > 0
  assert (right, lost) == (tried, 0)
