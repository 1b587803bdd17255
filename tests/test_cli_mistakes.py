"""Plausible mistakes on the command line: each is one line with a cure."""

import json
import logging
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from mmdiff_jax import checkpoint
from mmdiff_jax.cli import commands, places
from mmdiff_jax.configuration import load_config
from mmdiff_jax.data.manifest import MANIFEST
from mmdiff_jax.devices import compilation, mesh
from mmdiff_jax.evaluation import session
from mmdiff_jax.sampling import folder as sample_folder
from mmdiff_jax.study import folder as study_folder
from mmdiff_jax.training import loop
from tests.command_line import call

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def error(monkeypatch, tmp_path, capsys):
  """Runs a command line that must fail: returns the line that it prints."""
  monkeypatch.setattr(sys, "argv", ["main.py"])
  monkeypatch.chdir(tmp_path)

  def run(*arguments):
    before = sorted(tmp_path.rglob("*"))
    assert call(*arguments) == 1
    out, err = capsys.readouterr()
    line, *about = err.splitlines()
    assert out == "" and line.startswith("error: ")
    assert all(text.startswith("See: python main.py ") for text in about)
    assert len(about) <= 1
    assert sorted(tmp_path.rglob("*")) == before
    return line.removeprefix("error: ")

  return run


@pytest.mark.parametrize(
  ("words", "cure"),
  [
    ("train --num_steps=10", "--config.train.num_steps=10"),
    ("train --num_steps 10", "--config.train.num_steps=10"),
    ("train --num_step=10", "--config.train.num_steps=10"),
    ("train --steps=10", "--config.train.num_steps=10"),
    ("train --batch_size=2", "--config.train.batch_size=2"),
    ("train --learning_rate=.1", "--config.train.learning_rate=.1"),
    ("train --lr=.1", "--config.train.learning_rate=.1"),
    ("train --data=data/x", "--config.data.source=data/x"),
    ("train --train.batch_size=2", "--config.train.batch_size=2"),
    ("train --init_from=runs/x", "--config.train.init_from=runs/x"),
    ("train --fsdp=4", "--config.mesh.fsdp=4"),
    ("sample --sampler=ddim", "--config.sample.sampler=ddim"),
    ("sample --steps=20", "--config.sample.steps=20"),
    ("sample --batch_size=4", "--config.sample.batch_size=4"),
    ("sample --seed=4", "--config.seed=4"),
    ("upscale --steps=20", "--config.sr.sample.steps=20"),
    ("evaluate --fps=12", "--config.data.fps=12"),
    ("compile --fsdp=4", "--config.mesh.fsdp=4"),
    ("import_checkpoint --dropout=0", "--config.model.dropout=0"),
    ("train --config.train.batchsize=2", "--config.train.batch_size=2"),
    ("train --config.batch_size=2", "--config.train.batch_size=2"),
    ("prepare --config.data.fps=12", "--fps=12"),
    ("prepare --config.data.frames=12", "--clip_frames=12"),
    ("prepare --config.data.height=32", "--size=32"),
    ("prepare --config=landscape", "--for=landscape"),
  ],
)
def test_the_cure_can_be_typed_in(error, words, cure):
  line = error(*words.split())
  assert "id you mean " in line
  meant = line.split("id you mean ")[1].rstrip("?").split(" or ")
  assert cure in meant
  name, *_ = words.split()
  # The cure is taken, but for what else is missing.
  assert "id you mean" not in error(name, cure)


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ("train -config=smoke", "two dashes: --config=smoke."),
    ("sample -config=smoke", "two dashes: --config=smoke."),
    ("evaluate -config=smoke", "two dashes: --config=smoke."),
    ("verify -config=smoke", "two dashes: --config=smoke."),
    ("sample --config.data.frames=16", "has no effect on sample: it comes fr"),
    ("sample --config.model.num_res_blocks=2", "it comes from the checkpoint"),
    ("sample --frames=16", "--config.data.frames=16 has no effect on sample"),
    ("sample --config.sr.factor=2", "it comes from the checkpoint"),
    ("upscale --config.sample.steps=2", "has no effect on upscale: it comes"),
    ("upscale --config.sr.factor=2", "it comes from the checkpoint"),
    ("evaluate --config.sample.steps=2", "has no effect on evaluate; leave"),
    ("evaluate --config.data.flip_probability=1", "has no effect on evaluate"),
    ("train --config.train.lr=2", "`python main.py config train` lists its"),
    ("config tran", "Did you mean python main.py config train?"),
    ("gallery", "python main.py gallery DIR"),
    ("train --config.seed=-1", "--config.seed=-1: give a whole number from 0"),
    (
      "train --config.seed=12345678901234567890",
      "--config.seed=12345678901234567890: give a whole number below 42949",
    ),
    (
      "sample --checkpoint=x --output=y --seeds=3 --config.seed=4",
      "--seeds and --config.seed exclude each other.",
    ),
    (
      "sample --checkpoint=x --output=y --seeds=12345678901234567890",
      "--seeds=12345678901234567890: give a whole number from 0",
    ),
    (
      "sample --checkpoint=x --output=y --config.sr.sample.steps=4",
      "--config.sr.sample.steps has no effect without --sr_checkpoint.",
    ),
    ("evaluate --real=x --output=y.json", "evaluate needs --fake, or"),
    (
      "train --workdir=x --config.train.batch_size=12345678901234567890",
      "give a whole number below 4294967296, such as 128.",
    ),
    ("train --workdir=x --config.train.learning_rate=nan", "give a number, su"),
    ("train --workdir=x --config.data.fps=inf", "give a number, such as 10.0."),
    (
      "sample --num_samples=12345678901234567890",
      "--num_samples: give a whole",
    ),
    ("sample --duration=inf", "--duration: give a number, not 'inf'."),
    ("sample --label=12345678901234567890", "--label: give a whole number"),
    ("train --workdir=x --config.train.num_steps=0", "must be at least 1."),
    ("train --workdir=x --config.train.audio_loss_weight=-1", "at least 0."),
    ("train --workdir=x --config=smoke --config.data.source=", "'' is none of"),
  ],
)
def test_what_would_be_ignored_or_misread_is_refused(error, words, message):
  assert message in error(*words.split())


def test_every_key_that_a_command_reads_exists():
  config = load_config("default")
  for row in commands.COMMANDS.values():
    for key in row.reads:
      section = config
      for part in key.split("."):
        section = section[part]


@pytest.mark.parametrize(
  ("lines", "message"),
  [
    (
      "config.train.num_step = 5",
      "no key train.num_step; did you mean train",
    ),
    ("config.trian = dict(num_steps=5)", "no key trian.num_steps; did you mea"),
    ("config.model.attention_resolutions = (2,)", "no key model.attention_res"),
    ("config.sample.cfg = 2.0", "no key sample.cfg; "),
    ("config.notes = 'mine'", "no key notes; "),
  ],
)
def test_an_unknown_key_of_a_file_is_refused(error, tmp_path, lines, message):
  path = tmp_path / "mine.py"
  path.write_text(
    "from configs import default\n\n"
    "def get_config():\n"
    "  config = default.get_config()\n"
    f"  {lines}\n"
    "  return config\n"
  )
  line = error("config", f"--config={path}")
  assert line.startswith(f"--config={path}: ") and message in line


def test_a_byte_order_mark_does_not_matter(tmp_path, capsys):
  path = tmp_path / "mine.py"
  text = "# Größe\n" + (ROOT / "configs" / "smoke.py").read_text()
  path.write_text(text, encoding="utf-8-sig")
  assert call("config", "data.frames", f"--config={path}") == 0
  assert "data.frames = 8" in capsys.readouterr().out


def test_the_settings_of_another_network_are_not_sampled_with(error, tmp_path):
  run = tmp_path / "run"
  checkpoint.save_params(run, {"w": np.zeros(3)}, load_config("smoke"))
  flags = (f"--checkpoint={run}", "--output=samples")
  line = error("sample", *flags, "--config=landscape")
  assert line.startswith(
    f"--config=landscape describes another network than {run}: model.channel"
  )
  assert "Leave --config out" in line


@pytest.mark.parametrize(
  ("mark", "command"),
  [
    ("dataset.json", "train --workdir=x"),
    ("dataset.json", "sample --checkpoint=r --output=x"),
    ("dataset.json", "synthetic x"),
    ("samples.json", "train --workdir=x"),
    ("samples.json", "prepare --input=v --output=x"),
    ("study.json", "import_checkpoint --source=a.pt --workdir=x"),
    ("checkpoints", "prepare --input=v --output=x"),
    ("checkpoints", "sample --checkpoint=r --output=x"),
    ("checkpoints", "study build --real=v --fake=a=v --output=x"),
  ],
)
def test_a_folder_of_another_kind_is_not_written_into(
  error, tmp_path, mark, command
):
  (tmp_path / "x").mkdir()
  (tmp_path / "x" / mark).touch()
  line = error(*command.split())
  assert f"(it holds {mark}); choose another folder." in line


def test_the_marks_are_those_of_the_code():
  marks = {MANIFEST, sample_folder.INDEX, study_folder.STUDY, "checkpoints"}
  assert set(places._KINDS) == marks


def test_a_data_set_is_not_written_among_the_videos(error, tmp_path):
  videos = tmp_path / "videos"
  videos.mkdir()
  (videos / "a.mp4").write_bytes(b"x")
  (tmp_path / "link").symlink_to(videos)
  for output in ("videos", "link", "videos/."):
    line = error("prepare", "--input=videos", f"--output={output}")
    assert line.startswith(f"--output={output} holds the videos; choose")


def test_a_missing_start_is_named_before_any_work(error, monkeypatch):
  monkeypatch.setattr(loop, "make_task", lambda *_: pytest.fail("too late"))
  line = error(
    "train",
    "--config=smoke",
    "--workdir=run",
    "--config.train.init_from=nowhere",
  )
  assert line.startswith("--config.train.init_from=nowhere: No checkpoint in")


@pytest.mark.parametrize(
  ("flag", "words"),
  [
    ("--fake=nowhere", "--fake: 'nowhere' is none of"),
    ("--fake=tfrecord:nowhere", "--fake: "),
    ("--compare=a=real,b=nowhere", "--compare=b=...: 'nowhere' is none of"),
  ],
)
def test_a_missing_side_is_named_before_the_other_is_read(
  error, monkeypatch, tmp_path, flag, words
):
  (tmp_path / "real").mkdir()
  (tmp_path / "real" / "a.mp4").write_bytes(b"x")
  monkeypatch.setattr(
    session, "leave_out_bad", lambda *_: pytest.fail("too late")
  )
  line = error("evaluate", "--real=real", flag, "--output=x.json")
  assert line.startswith(words)


@pytest.mark.parametrize("words", [["config"], ["train", "--help"]])
def test_a_reader_that_has_ended_is_not_an_error(words):
  read_end, write_end = os.pipe()
  os.close(read_end)
  result = subprocess.run(
    [sys.executable, "main.py", *words],
    cwd=ROOT,
    stdout=write_end,
    stderr=subprocess.PIPE,
    text=True,
  )
  os.close(write_end)
  assert result.stderr == ""
  assert result.returncode == 141  # As of any program that SIGPIPE ends.


def test_hardware_that_is_absent_is_one_line(tmp_path):
  result = subprocess.run(
    [sys.executable, ROOT / "main.py", "sample", "--checkpoint=x"]
    + ["--output=y"],
    cwd=tmp_path,
    env=os.environ | {"JAX_PLATFORMS": "cuda", "CUDA_VISIBLE_DEVICES": ""},
    capture_output=True,
    text=True,
  )
  assert result.returncode == 1
  assert len(result.stderr.splitlines()) == 1
  assert result.stderr.startswith("error: JAX_PLATFORMS=cuda: JAX finds no")


@pytest.mark.parametrize(
  ("platforms", "error_type", "installed", "words"),
  [
    ("cuda", AssertionError, False, '("mmdiff-jax[cuda12]" or "mmdiff-jax['),
    ("gpu", RuntimeError, False, '("mmdiff-jax[cuda12]" or "mmdiff-jax[cuda'),
    ("tpu", RuntimeError, False, 'install the extra ("mmdiff-jax[tpu]")'),
    ("cuda,cpu", RuntimeError, True, "the driver shows no device"),
    ("vulkan", RuntimeError, False, "known are cpu, cuda and tpu"),
  ],
)
def test_the_missing_extra_is_named(
  monkeypatch, platforms, error_type, installed, words
):
  def fail():
    raise error_type("unable to initialise")

  monkeypatch.setattr(jax, "devices", fail)
  monkeypatch.setattr(mesh.importlib.util, "find_spec", lambda _: installed)
  monkeypatch.setenv("JAX_PLATFORMS", platforms)
  with pytest.raises(ValueError, match=f"^JAX_PLATFORMS={platforms}: ") as info:
    mesh.find_devices()
  assert words in str(info.value)
  monkeypatch.delenv("JAX_PLATFORMS")
  with pytest.raises(error_type):
    mesh.find_devices()


def test_a_program_of_an_earlier_run_is_not_said_to_be_compiled(
  tmp_path, caplog
):
  def f(x):
    return x * 0.4711 + json.loads("3")

  keys = {
    "jax_compilation_cache_dir": str(tmp_path),
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
  }
  before = {key: getattr(jax.config, key) for key in keys}
  caplog.set_level(logging.INFO, "mmdiff_jax")
  try:
    for key, value in keys.items():
      jax.config.update(key, value)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()
    for _ in range(2):
      jax.clear_caches()
      compilation.compile_lowered(jax.jit(f).lower(1.0), "The program")
  finally:
    for key, value in before.items():
      jax.config.update(key, value)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()
  first, second = caplog.messages
  assert first.startswith("The program: compiled in ")
  assert second.startswith("The program: loaded in ")
