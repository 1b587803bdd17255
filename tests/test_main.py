"""The command line: what it offers, and its errors in one line."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def run(*arguments):
  return subprocess.run(
    [sys.executable, "main.py", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )


def test_help_names_the_commands():
  result = run("--help")
  # absl exits with 1 after its help.
  for command in ("train", "sample", "upscale", "evaluate", "gallery"):
    assert f"main.py {command}" in result.stdout


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ("", "name a command: train"),
    ("trian", "Did you mean 'train'?"),
    ("train", "--workdir is required"),
    ("train more --workdir=x", "unexpected argument 'more'"),
    ("train --config.train.batchsize=2", "batch_size"),
    ("train --config=nowhere.py", "nowhere.py"),
    ("sample --output=x", "--checkpoint is required"),
    ("sample --checkpoint=nowhere --output=x", "No checkpoint in"),
    ("sample --distributed", "sample runs on one host"),
    ("train --host=1", "go together, with --distributed"),
    ("train --distributed --host=1", "go together, with --distributed"),
    (
      "train --distributed --coordinator=localhost:1 --num_hosts=2 --host=2",
      "--host=2 must be below --num_hosts=2",
    ),
  ],
)
def test_mistakes_are_one_line_and_a_non_zero_status(arguments, words):
  result = run(*arguments.split())
  assert result.returncode == 1
  lines = result.stderr.strip().splitlines()
  assert words in result.stderr
  assert [line for line in lines if line.startswith("error: ")]
  assert len(lines) <= 2, result.stderr
  assert not (ROOT / "x").exists()
