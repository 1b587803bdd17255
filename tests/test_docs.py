"""The pages say what the programs take: commands, flags, keys and code."""

import argparse
import itertools
import pathlib
import re
import runpy
import shlex
import sys
import tomllib

import numpy as np
import pytest

from mmdiff_jax import configuration
from mmdiff_jax.cli import command_line, overrides
from mmdiff_jax.convert import torch_file

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(
  str(path.relative_to(ROOT))
  for path in (*ROOT.glob("*.md"), *ROOT.glob("*/*.md"))
  if not path.relative_to(ROOT).parts[0].startswith(".")
)
# A configuration that the reader writes.
OWN = "configs/mine.py"
_STARTS = ("python", "main.py", "mmdiff-jax", "pip", "make")


class Parsed(Exception):
  """Raised in place of the work, once a program has understood its flags."""


def blocks(page, language):
  text = (ROOT / page).read_text()
  return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands_of(page):
  """Command lines in blocks and between backticks, as lists of words."""
  text = (ROOT / page).read_text()
  prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
  lines = [
    line
    for block in blocks(page, "bash")
    for line in block.replace("\\\n", " ").splitlines()
  ]
  lines += [" ".join(span.split()) for span in re.findall("`([^`]+)`", prose)]
  for line in lines:
    if not re.match(rf"(\w+=\S+ )*({'|'.join(_STARTS)}) ", line):
      continue
    words = shlex.split(line, comments=True)
    for end, group in itertools.groupby(words, lambda word: word == "&&"):
      command = [
        word
        for word in group
        if word != "..." and not re.match(r"[A-Z_]+=", word)
      ]
      if not end and command:
        yield command


COMMANDS_BY_PAGE = [
  pytest.param(page, command, id=f"{page}: {' '.join(command)}")
  for page in PAGES
  for command in commands_of(page)
]


def check_program(*words):
  """Lets a command of ours read its flags, and no more."""
  command_line.read([a.replace(OWN, "configs/default.py") for a in words])


def check_module(module, arguments, monkeypatch):
  """Lets a module that is run as a program read its flags, and no more."""
  if module == "data_prep.videos_to_tfrecord":
    check_program("prepare", *arguments)
    return
  path = ROOT / (module.replace(".", "/") + ".py")
  if path.with_suffix("").is_dir():  # A package is run by its __main__.
    module += ".__main__"
    path = path.with_suffix("") / "__main__.py"
  assert path.is_file(), f"no module {module}"
  if not re.search("argparse|arguments", path.read_text()):
    assert not arguments
    return
  monkeypatch.setattr(sys, "argv", [module, *arguments])
  monkeypatch.delitem(sys.modules, module, raising=False)
  with pytest.raises(Parsed):
    runpy.run_module(module, run_name="__main__")


def check_pip(arguments):
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  for option, value in itertools.pairwise(arguments):
    if option in ("-c", "-r"):
      assert (ROOT / value).is_file()
  for argument in arguments:
    if match := re.fullmatch(r"\.\[([\w,]+)\]", argument):
      extras = set(match[1].split(","))
      assert extras <= set(project["optional-dependencies"])
    # The project is on no index.
    assert not argument.startswith("mmdiff")


@pytest.fixture
def parse_only(monkeypatch):
  real = argparse.ArgumentParser.parse_args

  def parse(self, arguments=None, namespace=None):
    raise Parsed(real(self, arguments, namespace))

  monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
  monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("page", "command"), COMMANDS_BY_PAGE)
def test_the_programs_take_what_the_pages_say(
  parse_only, monkeypatch, page, command
):
  match command:
    case ["python", "main.py"] | ["mmdiff-jax", "--help"]:
      pass
    case ["python", "main.py", *words] | ["main.py" | "mmdiff-jax", *words]:
      if "|" not in words[0]:
        check_program(*(word for word in words if word != "--help"))
    case ["python", "-m", "venv", *_] | [".", *_] | ["tensorboard", *_]:
      pass  # Of others.
    case ["python", "-m", module, *arguments]:
      arguments = [a.replace(OWN, "configs/default.py") for a in arguments]
      check_module(module, arguments, monkeypatch)
    case ["pip", "install", *arguments]:
      check_pip(arguments)
    case ["pip", "wheel", "."]:
      pass
    case ["make", *targets]:
      makefile = (ROOT / "Makefile").read_text()
      for target in targets:
        if "=" not in target:
          assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE)
    case _:
      raise AssertionError(f"{page}: {command} is checked by nothing")


@pytest.mark.parametrize("page", PAGES)
def test_keys_on_the_pages_exist_and_take_these_values(page):
  text = (ROOT / page).read_text()
  for key, value in re.findall(r"--config\.([\w.]+)(?:=([^\s`|)]+))?", text):
    if key == "KEY" or key.endswith(".KEY"):
      continue
    configs = [configuration.load_config(n) for n in ("default", "superres")]
    known = [c for c in configs if key in overrides.all_keys(c)]
    assert known, f"{page}: no key {key}"
    # DIR, N, ... stand for what the reader gives.
    if value and not value.isupper():
      overrides.override(known[0], key, value.strip('",;.'))


@pytest.mark.parametrize(
  "page", [p for p in PAGES if p != "README.md" and blocks(p, "python")]
)
def test_the_code_on_the_pages_runs(page, tmp_path, monkeypatch):
  """Of README.md it does in test_model.py."""
  monkeypatch.chdir(tmp_path)
  # PyTorch is not there, nor the published weights.
  weights = {"conv.weight": np.ones((1, 2), np.float32)}
  monkeypatch.setattr(torch_file, "load_torch_file", lambda path: weights)
  names = {}
  for block in blocks(page, "python"):
    if "clip" in names:
      names["videos"] = np.stack([names["clip"].video] * 2)
      names["audios"] = np.stack([names["clip"].audio] * 2)
    exec(block, names)


def test_the_checks_find_what_is_wrong(parse_only, monkeypatch):
  with pytest.raises(ValueError, match="unknown flag"):
    check_program("train", "--workdri=x")
  with pytest.raises(ValueError, match="no key"):
    check_program("train", "--config.train.batchsize=2")
  with pytest.raises(ValueError, match="unknown flag"):
    check_module("data_prep.videos_to_tfrecord", ["--inputs=x"], monkeypatch)
  with pytest.raises(SystemExit):
    check_module("benchmarks.sync", ["--sampels", "x"], monkeypatch)
  with pytest.raises(AssertionError):
    check_pip(["-e", ".[torhc]"])
  assert len(COMMANDS_BY_PAGE) > 50
