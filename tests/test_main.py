"""The command line: what it offers, and its errors in one line."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def run(*arguments, program=("main.py",), **environment):
  return subprocess.run(
    [sys.executable, *program, *arguments],
    cwd=ROOT,
    env=os.environ | environment,
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
    ("train --config=README.md", "README.md, line"),
    ("train --workdir=x --seeds=1", "--seeds is a flag of sample, not of"),
    ("evaluate --onsets", "--onsets is a flag of gallery, not of evaluate"),
    ("gallery x --num_samples=16", "--num_samples is a flag of sample"),
    ("upscale --checkpoint=x", "a flag of sample, export_checkpoint, not of"),
    ("sample --output=x", "--checkpoint is required"),
    ("sample --checkpoint=nowhere --output=x", "No checkpoint in"),
    ("sample --checkpoint=x --output=x --seeds=0,x", "--seeds=0,x: give"),
    ("sample --checkpoint=x --output=x --seeds=-1", "--seeds=-1: give"),
    (
      "sample --checkpoint=x --output=x --seeds=4294967296",
      "--seeds=4294967296: give integers from 0 to 2**32 - 1",
    ),
    (
      "sample --checkpoint=a/x --checkpoint=b/x --output=x",
      "--checkpoint=b/x --seeds=0 would be written to x/x-seed0, as would "
      "--checkpoint=a/x",
    ),
    ("sample --checkpoint=x --output=main.py/x", "main.py is no folder"),
    ("sample --distributed", "sample runs on one host"),
    ("train --host=1", "--host goes with --distributed"),
    ("train --distributed --host=1", "--coordinator, --num_hosts is missing"),
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


def test_missing_pytorch_is_one_line(tmp_path):
  (tmp_path / "torch.py").write_text("raise ImportError('not here')")
  result = run(
    "import_checkpoint",
    "--source=README.md",
    f"--workdir={tmp_path / 'run'}",
    PYTHONPATH=str(tmp_path),
  )
  assert result.returncode == 1
  assert result.stderr.startswith("error: Reading README.md needs PyTorch")
  assert len(result.stderr.splitlines()) == 1


STAND_IN = """
import sys
from absl import app
import main
from mmdiff_jax.sampling import generate
from mmdiff_jax.sampling import upscale as upscaling
def sample(config, *, checkpoint_path, output, seed, **options):
  print(checkpoint_path, output, seed)
  if checkpoint_path == "interrupt":
    raise KeyboardInterrupt
def upscale(config, **options):
  raise KeyboardInterrupt
generate.sample, upscaling.upscale = sample, upscale
app.run(main._main, ["main.py", *sys.argv[1:]], main._parse_flags)
"""


def test_several_checkpoints_go_to_folders_that_tell_them_apart():
  checkpoints = (
    "r/a",
    "r/b/checkpoints",
    "r/b/checkpoints/50",
    "r/b/checkpoints/60/",
    "r/c/checkpoint",
  )
  result = run(
    "sample",
    *(f"--checkpoint={checkpoint}" for checkpoint in checkpoints),
    "--output=x",
    "--seeds=3,4",
    program=("-c", STAND_IN),
  )
  assert result.returncode == 0, result.stderr
  runs = [line.split() for line in result.stdout.splitlines()]
  names = ("a", "b", "b-50", "b-60", "c")
  assert runs == [
    [checkpoint, f"x/{name}-seed{seed}", str(seed)]
    for checkpoint, name in zip(checkpoints, names, strict=True)
    for seed in (3, 4)
  ]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (
      "sample --checkpoint=interrupt --output=x",
      "Interrupted: the same command continues.\n",
    ),
    ("upscale --sr_checkpoint=a --source=b --output=x", "Interrupted.\n"),
  ],
)
def test_an_interrupted_command_says_whether_it_continues(arguments, message):
  result = run(*arguments.split(), program=("-c", STAND_IN))
  assert result.returncode == 130
  assert result.stderr == message
