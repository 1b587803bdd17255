"""The command line: what it offers, and its errors in one line."""

import pathlib
import subprocess
import sys

import pytest

from data_prep import clip_task, listing
from mmdiff_jax.cli import main, program
from mmdiff_jax.cli.commands import COMMANDS, flags_of
from mmdiff_jax.cli.flags import FLAGS, find_flag
from mmdiff_jax.data import clips as data_clips
from mmdiff_jax.media import container, reading
from mmdiff_jax.metric_networks import audioclip
from mmdiff_jax.sampling import generate
from mmdiff_jax.sampling import upscale as upscaling
from mmdiff_jax.world import clips as world_clips

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def run(monkeypatch, capsys):
  """Runs a command in this process: returns status, stdout and stderr."""
  # These two would outlive the test.
  monkeypatch.setattr(program, "_set_up_logging", lambda: None)
  monkeypatch.setattr(program, "_keep_compiled_programs", lambda folder: None)
  monkeypatch.setattr(sys, "argv", ["main.py"])
  monkeypatch.chdir(ROOT)

  def run(*arguments):
    status = main(arguments)
    return status, *capsys.readouterr()

  return run


def test_main_py_is_the_program():
  result = subprocess.run(
    [sys.executable, "main.py", "--version"],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert (result.returncode, result.stderr) == (0, "")
  assert result.stdout.startswith("mmdiff-jax ")


def test_help_names_the_commands(run):
  status, out, _ = run("--help")
  assert status == 0
  for command in ("train", "sample", "upscale", "evaluate", "prepare"):
    assert f"\n  {command} " in out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_has_its_flags_and_no_others(run, name):
  row = COMMANDS[name]
  status, out, _ = run(*name.split(), "--help")
  assert status == 0
  shown = {
    line.split("=")[0].split()[0][2:]
    for line in out.split("keys that matter")[0].splitlines()
    if line.startswith("  --")
  }
  assert shown == set(row.flags)
  assert "traceback" in shown and ("config" in shown) == row.config
  for flag in row.needs:
    assert f" --{flag}=" in out.split("\n\n")[0]
  assert f"main.py {name} " in out.split("example:")[1]
  for key in row.keys:
    assert f"--config.{key}=" in out
  assert max(map(len, out.splitlines())) <= 80


def test_every_flag_belongs_to_a_command():
  used = {id(flag) for name in COMMANDS for flag in flags_of(name).values()}
  assert [name for name, flag in FLAGS.items() if id(flag) not in used] == []


def test_the_choices_of_flags_are_those_of_the_code():
  choices = {
    "prepare.labels": listing.LABELS,
    "prepare.missing_audio": clip_task.MISSING_AUDIO,
    "prepare.channels": reading.CHANNELS,
    "prepare.hdr": container.HDR,
    "prepare.fit": container.FITS,
    "prepare.frame_format": data_clips.FRAME_FORMATS,
    "synthetic.split": world_clips.SPLITS,
    "evaluate.protocol": audioclip.PROTOCOLS,
  }
  for name, allowed in choices.items():
    command, flag = name.split(".")
    assert find_flag(command, flag).metavar == "|".join(allowed)
  for name in ("max_pixels", "time_limit"):
    default = getattr(container.ReadOptions(), name)
    assert find_flag("prepare", name).default == default


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ("", "name a command first: synthetic"),
    ("--workdir=x train", "name a command first"),
    ("trian", "Did you mean 'train'?"),
    ("study", "study is one of study build, study serve"),
    ("study bild", "Did you mean 'study build'?"),
    ("study report --bogus", "study report has no flag --bogus."),
    ("study plan --rater=9", "unknown flag --rater. Did you mean --raters?"),
    ("prepare --inptu x", "unknown flag --inptu. Did you mean --input?"),
    ("prepare --input=x", "prepare needs --output"),
    ("synthetic x --clutter=-1", "--clutter: give a whole number of at least"),
    ("inspect x --clips=0", "--clips: give a whole number of at least 1"),
    ("train", "train needs --workdir"),
    ("train more --workdir=x", "unexpected argument 'more'"),
    ("train --workdr=x", "unknown flag --workdr. Did you mean --workdir?"),
    ("train -workdir=x", "flags begin with two dashes: --workdir=x."),
    ("verify x --config=smoke", "verify reads no configuration; leave"),
    ("verify x --config.seed=1", "verify reads no configuration; leave"),
    ("train --workdir", "--workdir needs a value."),
    ("train --workdir=x --distributed=1", "--distributed takes no value."),
    ("train --workdir=x --seeds=1", "--seeds is a flag of sample, not of"),
    ("evaluate --onsets", "--onsets is a flag of gallery, not of evaluate"),
    ("gallery x --num_samples=16", "--num_samples is a flag of sample"),
    ("gallery", "gallery needs DIR: python main.py gallery DIR"),
    ("upscale --checkpoint=x", "a flag of sample, export_checkpoint, not of"),
    ("sample --output=x", "sample needs --checkpoint"),
    ("sample --num_samples=0", "give a whole number of at least 1, not '0'"),
    ("sample --duration=long", "--duration: give a number, not 'long'."),
    ("sample --condition=text", "give one of audio, video, continue, edit"),
    ("sample --checkpoint=nowhere --output=x", "No checkpoint in"),
    ("sample --checkpoint=x --output=x --seeds=0,x", "--seeds=x: give"),
    ("sample --checkpoint=x --output=x --seeds=-1", "--seeds=-1: give"),
    (
      "sample --checkpoint=x --output=x --seeds=4294967296",
      "--seeds=4294967296: give a whole number from 0 to 4294967295.",
    ),
    (
      "sample --checkpoint=a/x --checkpoint=b/x --output=x",
      "--checkpoint=b/x --seeds=0 would be written to x/x-seed0, as would "
      "--checkpoint=a/x",
    ),
    ("sample --checkpoint=x --output=main.py/x", "main.py is not a folder"),
    (
      "sample --distributed",
      "--distributed is a flag of train, evaluate, not of sample",
    ),
    ("train --workdir=x --host=1", "--host goes with --distributed"),
    (
      "train --workdir=x --distributed --host=1",
      "--coordinator, --num_hosts is missing",
    ),
    (
      "train --workdir=x --distributed --coordinator=a:1 --num_hosts=2"
      " --host=3",
      "--host=3 must be below --num_hosts=2",
    ),
  ],
)
def test_mistakes_are_one_line_and_a_non_zero_status(run, arguments, words):
  status, out, err = run(*arguments.split())
  assert (status, out) == (1, "")
  first, *others = err.splitlines()
  assert first.startswith("error: ") and words in first
  assert all(line.startswith("See: python main.py") for line in others)
  assert len(others) <= 1
  assert not (ROOT / "x").exists()


def test_missing_pytorch_is_one_line(run, monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "torch", None)
  status, _, err = run(
    "import_checkpoint", "--source=README.md", f"--workdir={tmp_path / 'run'}"
  )
  assert status == 1
  assert err.startswith("error: Reading README.md needs PyTorch")
  assert len(err.splitlines()) == 1


def test_several_checkpoints_go_to_folders_that_tell_them_apart(
  run, monkeypatch
):
  runs = []

  def sample(config, *, checkpoint_path, output, seed, **options):
    runs.append((checkpoint_path, output, seed))

  monkeypatch.setattr(generate, "sample", sample)
  checkpoints = (
    "r/a",
    "r/b/checkpoints",
    "r/b/checkpoints/50",
    "r/b/checkpoints/60/",
    "r/c/checkpoint",
  )
  status, *_ = run(
    "sample",
    *(f"--checkpoint={checkpoint}" for checkpoint in checkpoints),
    "--output=x",
    "--seeds=3,4",
  )
  assert status == 0
  names = ("a", "b", "b-50", "b-60", "c")
  assert runs == [
    (checkpoint, f"x/{name}-seed{seed}", seed)
    for checkpoint, name in zip(checkpoints, names, strict=True)
    for seed in (3, 4)
  ]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (
      "sample --checkpoint=a --output=x",
      "Interrupted: the same command continues.\n",
    ),
    ("upscale --sr_checkpoint=a --source=b --output=x", "Interrupted.\n"),
  ],
)
def test_an_interrupted_command_says_whether_it_continues(
  run, monkeypatch, capsys, arguments, message
):
  def interrupt(*args, **options):
    raise KeyboardInterrupt

  def leave(status):
    raise SystemExit(status)

  monkeypatch.setattr(generate, "sample", interrupt)
  monkeypatch.setattr(upscaling, "upscale", interrupt)
  monkeypatch.setattr(program.os, "_exit", leave)
  with pytest.raises(SystemExit, match="130"):
    run(*arguments.split())
  assert capsys.readouterr().err == message
