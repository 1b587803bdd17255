"""Configurations on the command line: found, changed, explained."""

import pathlib
import shutil
import subprocess
import sys

import pytest

from configs import default, superres
from mmdiff_jax import configuration
from mmdiff_jax.cli import config_help, overrides

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("text", ["smoke", "configs/smoke.py"])
def test_a_shipped_configuration_is_found_from_anywhere(
  monkeypatch, tmp_path, text
):
  monkeypatch.chdir(tmp_path)
  assert configuration.load_config(text).data.frames == 8


def test_a_file_of_ones_own_goes_before_a_shipped_one(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "smoke.py").write_text(
    "from configs import default\n\n"
    "def get_config():\n"
    "  config = default.get_config()\n"
    "  config.data.frames = 7\n"
    "  return config\n"
  )
  assert configuration.load_config("configs/smoke.py").data.frames == 7
  assert configuration.load_config("smoke").data.frames == 8


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (None, r"there is no such file; give a \.py file, or one of aist, audio"),
    ("", "needs a function get_config"),
    ("def get_config(): return {}", "needs a function get_config"),
    ("def get_config(:", r"x\.py, line 1: invalid syntax"),
    ("import nowhere", "line 1: No module named 'nowhere'"),
    (
      "from configs import default\n"
      "def get_config():\n"
      "  config = default.get_config().lock()\n"
      "  config.tran = 1",
      "line 4: Key tran does not exist .* Did you mean train",
    ),
  ],
)
def test_what_is_no_configuration_is_one_clear_line(tmp_path, text, message):
  path = tmp_path / "x.py"
  if text is not None:
    path.write_text(text)
  with pytest.raises(ValueError, match=f"^--config=.*{message}") as error:
    configuration.load_config(str(path))
  assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
  ("key", "text", "value"),
  [
    ("seed", "7", 7),
    ("train.learning_rate", "1e-3", 1e-3),
    ("train.learning_rate", "1", 1.0),
    ("data.source", "tfrecord:a=b", "tfrecord:a=b"),
    ("data.source", "", ""),
    ("model.learn_sigma", "true", True),
    ("model.learn_sigma", "False", False),
    ("model.channel_mult", "1,2", (1, 2)),
    ("model.channel_mult", "(1,2)", (1, 2)),
    ("model.channel_mult", "1", (1,)),
    ("model.audio_attention_resolutions", "2,4", (2, 4)),
    ("model.cross_attention_windows", "()", ()),
    ("sample.steps", "20", 20),
    ("sample.steps", "None", None),
    ("sample.clip_denoised", "true", True),
    ("sample.cfg_interval", "0.2,2", (0.2, 2)),
    ("sr.sample.sampler", "ddim", "ddim"),
  ],
)
def test_texts_become_values_of_the_keys_type(key, text, value):
  config = default.get_config().lock()
  overrides.override(config, key, text)
  section, name = overrides.find_key(config, key)
  assert section[name] == value and type(section[name]) is type(value)


@pytest.mark.parametrize(
  ("key", "text", "message"),
  [
    (
      "train.batchsize",
      "2",
      "no key batchsize. Did you mean --config.train.batch_size=2?",
    ),
    (
      "tran.batch_size",
      "2",
      "no key tran. Did you mean --config.train.batch_size=2?",
    ),
    (
      "batch_size",
      "2",
      "no key batch_size. Did you mean --config.sample.batch_size=2 or --con",
    ),
    ("mesh.zzz", "2", "mesh has no key zzz. Its keys: data, fsdp."),
    ("train.lr", "2", "no key lr. `mmdiff-jax config train` lists its keys."),
    ("seed.x", "2", "seed is not a section."),
    ("train", "2", "train is a section; name one of its keys: adam_b1,"),
    ("train.batch_size", "2.5", "give a whole number, such as 128."),
    ("train.batch_size", "", "give a whole number, such as 128."),
    ("train.batch_size", "None", "only optional keys can be unset."),
    ("train.anneal", "None", "only optional keys can be unset."),
    ("train.learning_rate", "fast", "give a number, such as 0.0001."),
    ("model.learn_sigma", "maybe", "give true or false, such as false."),
    ("sample.cfg_interval", "a,b", "give numbers with commas between them."),
    ("model.channel_mult", "a,b", "whole numbers with commas between them"),
    ("model.channel_mult", "1,'b'", "such as 1,2,3,4."),
    ("sample.steps", "many", "give a whole number."),
    ("sample.steps", "2.5", "give a whole number."),
  ],
)
def test_what_is_no_key_or_no_value_is_one_clear_line(key, text, message):
  config = default.get_config().lock()
  with pytest.raises(ValueError) as error:
    overrides.override(config, key, text)
  words = str(error.value)
  assert words.startswith(f"--config.{key}") and message in words
  assert len(words.splitlines()) == 1
  assert config == default.get_config().lock()


def test_keys_are_told_from_flags():
  changes, others = overrides.split_overrides(
    ["--config=x.py", "--config.a.b=1=2", "--config.c", "3", "--workdir=d"]
  )
  assert changes == [("a.b", "1=2"), ("c", "3")]
  assert others == ["--config=x.py", "--workdir=d"]
  for arguments in (["--config.c"], ["--config.c", "--workdir=d"]):
    with pytest.raises(ValueError, match=r"--config\.c needs a value"):
      overrides.split_overrides(arguments)


def test_a_key_is_listed_with_its_comment_and_value():
  config = default.get_config()
  config.seed = 3
  assert config_help.describe("default", config, "seed") == (
    "# Root of all randomness: initialisation, data order, noise, samples.\n"
    "seed = 3  (in the default: 0)"
  )
  assert config_help.describe("default", config, "mesh") == (
    "# Devices along the axes; -1 takes what is left.\n"
    "mesh.data = -1\n"
    "mesh.fsdp = 1"
  )
  with pytest.raises(ValueError, match="Did you mean mmdiff-jax config train"):
    config_help.describe("default", config, "tran")


@pytest.mark.parametrize("name", configuration.shipped_configs())
def test_every_key_is_explained(name):
  config = configuration.load_config(name)
  listing = config_help.describe(name, config)
  for key in overrides.all_keys(config):
    assert f"\n{key} = " in f"\n{listing}"
  comments = config_help.read_comments(name)
  bare = [key for key in overrides.all_keys(config) if not comments.get(key)]
  assert bare == []


def test_a_variants_own_keys_have_the_comments_of_its_file():
  comments = config_help.read_comments("superres")
  assert comments["model.attention_resolutions"] == (
    "Down-sampling factors that have self-attention."
  )
  config = superres.get_config()
  line = "model.dropout = 0.1"
  assert line in config_help.describe("superres", config).splitlines()


BUNDLED = """
import sys
sys.path.insert(0, sys.argv[1])
from mmdiff_jax.cli import main
sys.exit(main(sys.argv[2:]))
"""


def test_a_wheels_layout_has_the_same_names(tmp_path):
  """`configs` and `data_prep` inside the package, as a wheel installs them."""
  installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
  shutil.copytree(
    ROOT / "mmdiff_jax",
    installed / "mmdiff_jax",
    ignore=shutil.ignore_patterns("__pycache__", "assets"),
  )
  for name in ("configs", "data_prep"):
    shutil.copytree(ROOT / name, installed / "mmdiff_jax" / "bundled" / name)
  elsewhere.mkdir()

  def run(*arguments):
    result = subprocess.run(
      [sys.executable, "-c", BUNDLED, str(installed), *arguments],
      cwd=elsewhere,
      capture_output=True,
      text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout

  assert "data.frames = 8" in run("config", "data.frames", "--config=smoke")
  assert "usage: mmdiff-jax prepare" in run("prepare", "--help")
