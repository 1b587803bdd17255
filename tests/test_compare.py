"""Comparisons of several sets of generated clips."""

import json

import numpy as np
import pytest

from benchmarks.damage import DEGRADATIONS
from mmdiff_jax.av import AVSpec
from mmdiff_jax.evaluation import compare
from mmdiff_jax.evaluation.frechet import frechet_distance
from mmdiff_jax.world.clips import make_clip, split_seed

SPEC = AVSpec(frames=8, height=16, width=16, fps=10.0, sample_rate=16000)


def clips(split, count=16):
  made = [make_clip(split_seed(split, i), SPEC) for i in range(count)]
  return {
    "video": np.stack([clip.video for clip in made]),
    "audio": np.stack([clip.audio for clip in made]),
  }


def test_a_table_of_values_and_differences_is_written(tmp_path):
  good = clips("eval")
  noisy = DEGRADATIONS["audio noise"](good, np.random.default_rng(0))
  output = tmp_path / "table.json"
  content = compare.compare(
    real=clips("train"),
    fakes={"a_1": good, "b_2": noisy, "c_3": good},
    output=output,
    curve=True,
    spec=SPEC,
    metrics=["fad_mel", "av_dependence"],
    cache_dir=None,
    progress=False,
  )
  assert json.loads(output.read_text()) == content
  systems = content["systems"]
  values = {n: s["metrics"]["fad_mel"]["value"] for n, s in systems.items()}
  change = systems["b_2"]["differences"]["fad_mel"]
  assert change["value"] == pytest.approx(values["b_2"] - values["a_1"])
  assert systems["b_2"]["paired"] and change["value"] > 2 * change["stderr"]
  # Equal clips, drawn in pairs: no difference and no error of it.
  assert systems["c_3"]["differences"]["fad_mel"] == {"value": 0, "stderr": 0}
  assert content["steps"] == {"a_1": 1, "b_2": 2, "c_3": 3}
  markdown = (tmp_path / "table.md").read_text()
  assert "| clips | n | fad_mel ↓ | av_dependence ↑ | fad_mel_inf |" in markdown
  (row,) = [line for line in markdown.splitlines() if line.startswith("| b_2")]
  assert row.count("|") == 6 and "*)" in row
  latex = (tmp_path / "table.tex").read_text()
  assert "b\\_2 & 16 &" in latex and latex.count("\\\\\n") == 4
  page = (tmp_path / "table.html").read_text()
  assert page.count("<svg") == 3 and "Along the run" in page


def test_pairs_sharpen_the_error_of_a_difference():
  """Of means: independent sets err by sqrt(2) sigma, equal pairs not at all."""
  rng = np.random.default_rng(0)
  real = {"x": rng.standard_normal((400, 1))}
  first = {"x": rng.standard_normal((400, 1))}
  other = {"x": first["x"] + 0.1}

  def mean(reference, fake):
    return float(fake["x"].mean() - reference["x"].mean())

  paired = compare.difference(mean, real, first, other, True, 0)
  apart = compare.difference(mean, real, first, other, False, 0)
  assert paired["value"] == apart["value"] == pytest.approx(0.1)
  assert paired["stderr"] < 1e-9
  assert apart["stderr"] == pytest.approx(np.sqrt(2 / 400), rel=0.25)


def test_the_distance_of_infinitely_many_clips_is_nearer_the_truth():
  """Two sets of one distribution: the truth is what the reals' own number
  leaves, which many generated clips approach."""
  rng = np.random.default_rng(1)
  real = {"x": rng.standard_normal((4000, 20))}

  def statistic(reference, fake):
    return frechet_distance(reference["x"], fake["x"])

  out = compare.by_size(
    statistic, real, {"x": rng.standard_normal((240, 20))}, 0
  )
  assert out["n"][0] == 80 and out["n"][-1] == 240
  assert out["value"][0] > out["value"][-1] > 0.1
  assert abs(out["infinity"]) < 0.3 * out["value"][-1]
  few = {"x": rng.standard_normal((11, 20))}
  assert compare.by_size(statistic, real, few, 0) is None


def test_sides_are_named_by_their_folders_or_as_told():
  sides = compare.name_sides(["runs/a/", "ours=runs/b", "runs/x=1/c"])
  assert sides == {"a": "runs/a/", "ours": "runs/b", "c": "runs/x=1/c"}
  with pytest.raises(ValueError, match="different names"):
    compare.name_sides(["a/x", "b/x"])
  with pytest.raises(ValueError, match="no step in its name"):
    compare.compare(real="x", fakes={"a": "x", "b": "y"}, curve=True)
