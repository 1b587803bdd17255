"""Preparation by Apache Beam: the same bytes."""

import pickle
import sys
import types

import pytest

from data_prep import on_beam
from data_prep.on_beam import BeamEngine
from tests.preparation_fixtures import assert_same_files, run


def test_beam_is_optional(videos, tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  assert run(videos, tmp_path, "--runner=beam") == 1
  assert "pip install apache-beam" in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_beam_makes_the_same_bytes(videos, prepared, tmp_path):
  pytest.importorskip("apache_beam")
  flags = ["--missing_audio=silence", "--shards=3", "--runner=beam"]
  assert run(videos, tmp_path / "data", *flags) == 0
  assert_same_files(prepared, tmp_path / "data")


def test_the_steps_make_the_same_bytes_in_any_order(
  videos, prepared, tmp_path, monkeypatch
):
  """Without Beam: what its workers are given, done here, the last row first."""

  class Options:
    def __init__(self, flags):
      assert flags == ["--runner=PrismRunner", "--a=b c"]

    def get_all_options(self):
      return {}

  options = types.SimpleNamespace(PipelineOptions=Options)
  for name in ("apache_beam", "apache_beam.options"):
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
  name = "apache_beam.options.pipeline_options"
  monkeypatch.setitem(sys.modules, name, options)
  steps = []

  def backwards(engine, step, source, work):
    steps.append(step)
    place = str(tmp_path / f"{step}.json")
    # Functions travel to the workers, rows and results as JSON.
    source, work = pickle.loads(pickle.dumps((source, work)))
    rows = list(on_beam._number(source, None))
    on_beam._save(place, [on_beam._apply(work, row) for row in rows[::-1]])
    return on_beam._load(place)

  monkeypatch.setattr(BeamEngine, "_map", backwards)
  flags = ["--missing_audio=silence", "--shards=3", "--runner=beam"]
  flags.append("--beam_options=--runner=PrismRunner '--a=b c'")
  assert run(videos, tmp_path / "data", *flags) == 0
  assert_same_files(prepared, tmp_path / "data")
  assert steps == ["list", "prepare", "shards"]
  assert run(videos, tmp_path / "data", *flags) == 0
  assert steps[3:] == ["list"]


def test_options_of_beam_without_beam_are_refused(videos, tmp_path, capsys):
  assert run(videos, tmp_path / "data", "--beam_options=--runner=x") == 1
  assert "--runner=beam only" in capsys.readouterr().err
