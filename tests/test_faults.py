"""A short run of the fault harness, and whether it would see a loss."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.faults import damage
from tests.faults.kept import Kept

ROOT = pathlib.Path(__file__).parents[1]


def test_a_preparation_that_is_killed_or_refused_room_loses_nothing():
  """In a process of its own: it forks, which JAX's threads do not survive."""
  flags = [
    "--only=prepare,data set",
    "--kills=2",
    "--full=2",
    "--pairs=1",
    "--hosts=0",
    "--damages=4",
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


def read_sealed(folder):
  """A reader that refuses whatever is not as it was written."""
  content = json.loads((folder / "a.json").read_text())
  if content["values"] != [len(str(n)) for n in content["numbers"]]:
    raise ValueError("damaged")
  return content


def plant(folder):
  content = {"numbers": [5, 6, 7], "values": [1, 1, 1]}
  (folder / "a.json").write_text(json.dumps(content))


@pytest.fixture
def kind(tmp_path, monkeypatch):
  (tmp_path / "kind").mkdir()
  content = {"numbers": [10, 200, 3000], "values": [2, 3, 4]}
  (tmp_path / "kind" / "a.json").write_text(json.dumps(content))

  def try_with(how, **kept):
    kept = {"read": read_sealed, "place": "kind", "plant": plant} | kept
    monkeypatch.setitem(damage.KEPT, "kind", Kept(**kept))
    return damage.try_damage("kind", how, tmp_path, 20, 0)

  return try_with


@pytest.mark.parametrize("how", damage.DAMAGES)
def test_a_reader_that_compares_nothing_loses(kind, how):
  """And the files are put back after each trial."""
  place = []

  def read(folder):
    place.append(folder)
    path = folder / "a.json"
    return path.read_bytes() if path.exists() else b""

  tried, lost = kind(how, read=read)
  assert tried == len(lost) > 5
  assert json.loads((place[0] / "a.json").read_text())["values"] == [2, 3, 4]


def test_a_reader_that_compares_all_loses_nothing(kind):
  def read(folder):
    data = (folder / "a.json").read_bytes()
    if data not in (original, planted):
      raise ValueError("damaged")
    return data

  original = json.dumps({"numbers": [10, 200, 3000], "values": [2, 3, 4]})
  planted = json.dumps({"numbers": [5, 6, 7], "values": [1, 1, 1]})
  original, planted = original.encode(), planted.encode()
  assert kind("one bit flipped", read=read) == (20, [])


@pytest.mark.parametrize(
  "kept",
  [
    {"plant": lambda folder: None},
    {"read": lambda folder: "whatever is there"},
    {"read": lambda folder: object()},
  ],
)
def test_a_comparison_that_proves_nothing_is_an_error(kind, kept):
  with pytest.raises(damage.HollowError):
    kind("one bit flipped", **kept)


def test_values_that_cannot_be_compared_are_no_find(kind):
  """As jax arrays once were: the error counted as damage that was noticed."""
  with pytest.raises(ValueError, match="ambiguous"):
    kind("one bit flipped", read=lambda folder: np.arange(3))
