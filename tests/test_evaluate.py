import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.clips import is_held_out
from mmdiff_jax.evaluation import extractors
from mmdiff_jax.evaluation.frechet import frechet_distance
from mmdiff_jax.media import reading
from mmdiff_jax.metric_networks import i3d
from tests.evaluation_fixtures import SPEC, light, make_arrays, run
from tests.metric_golden import published_weights

LIGHT = ["fad_mel", "kad_mel", "av_gap"]


@pytest.fixture
def no_package(monkeypatch):
  """The weights of the eval extra count as absent."""
  monkeypatch.setattr(extractors.WeightFile, "packaged", lambda self: None)


@pytest.fixture
def scene_for_i3d(monkeypatch, no_package):
  """Stands in for I3D, which is slow on a CPU."""
  scene = extractors.FEATURES["scene"].make
  monkeypatch.setitem(
    extractors.FEATURES,
    "i3d_random",
    extractors.Feature(scene, stands_in_for="i3d"),
  )


@pytest.fixture(scope="module")
def real():
  return make_arrays("train", 24)


@pytest.fixture(scope="module")
def fake():
  return make_arrays("eval", 16)


def test_report_says_what_makes_it_reproducible(real, fake, tmp_path):
  output = tmp_path / "report.json"
  report = run(real, fake, metrics=LIGHT, output=output, seed=3, num_clips=20)
  assert json.loads(output.read_text()) == report
  assert list(report["metrics"]) == [
    "fad_mel",
    "kad_mel",
    "av_align",
    "av_synchrony",
    "av_dependence",
  ]
  for entry in report["metrics"].values():
    assert entry["stderr"] > 0
    assert (entry["n_real"], entry["n_fake"]) == (20, 16)
  assert report["seed"] == 3 and report["protocol"] == "clean"
  assert report["spec"]["fps"] == 10 and report["spec"]["height"] == 64
  assert report["real"]["available"] == 24
  assert len(report["real"]["clips"]) == report["real"]["used"] == 20
  assert report["versions"]["jax"] and report["versions"]["numpy"]
  assert any("not with papers" in note for note in report["notes"])


def test_page_is_self_contained(real, fake, tmp_path):
  run(real, fake, metrics=LIGHT, output=tmp_path / "report.json")
  page = (tmp_path / "report.html").read_text()
  assert page.count("data:video/mp4;base64,") == 12
  assert "fad_mel" in page and "<svg" in page
  sources = re.findall(r'(?:src|href)="([^"]*)"', page)
  assert all(source.startswith("data:") for source in sources)


def test_equal_runs_give_equal_figures_and_the_seed_changes_the_clips(
  real, fake
):
  first = run(real, fake, metrics=["fad_mel"], num_clips=10)
  again = run(real, fake, metrics=["fad_mel"], num_clips=10)
  other = run(real, fake, metrics=["fad_mel"], num_clips=10, seed=1)
  assert light(first) == light(again) != light(other)
  assert first["real"]["clips"] == again["real"]["clips"]
  assert first["real"]["clips"] != other["real"]["clips"]


def test_metrics_notice_what_was_broken(real, fake):
  shuffled = dict(fake, audio=np.roll(fake["audio"], 1, axis=0))
  quiet = dict(fake, audio=fake["audio"] * 0.01)
  whole = light(run(real, fake, metrics=LIGHT))
  unpaired = light(run(real, shuffled, metrics=LIGHT))
  muffled = light(run(real, quiet, metrics=["fad_mel"]))
  # The audio set is the same set: only figures of pairing may change.
  assert unpaired["fad_mel"] == pytest.approx(whole["fad_mel"])
  assert unpaired["av_synchrony"] < 0.3 * whole["av_synchrony"]
  assert muffled["fad_mel"] > 3 * whole["fad_mel"]


def test_arrays_and_mp4_files_give_nearly_the_same_figures(
  real, fake, tmp_path
):
  for i in range(len(fake["video"])):
    reading.write_mp4(
      tmp_path / f"{i:02d}.mp4",
      fake["video"][i],
      fake["audio"][i],
      fps=SPEC.fps,
      sample_rate=SPEC.sample_rate,
    )
  arrays = light(run(real, fake, metrics=LIGHT))
  files = light(run(real, tmp_path, metrics=LIGHT))
  assert files["fad_mel"] == pytest.approx(arrays["fad_mel"], rel=0.1)
  assert files["av_synchrony"] == pytest.approx(
    arrays["av_synchrony"], abs=0.05
  )


@pytest.fixture(scope="module")
def pair(real, fake):
  """Two clips a side: one batch of I3D."""
  return tuple({k: v[:2] for k, v in side.items()} for side in (real, fake))


def test_without_weights_the_figures_have_other_names(
  pair, tmp_path, no_package
):
  # The fewest frames that I3D takes: the real network runs, on a CPU.
  spec = AVSpec(frames=i3d.MIN_FRAMES)
  report = run(*pair, weights_dir=tmp_path, batch_size=2, spec=spec)
  assert {"fvd_random", "kvd_random", "fad_mel"} <= set(report["metrics"])
  assert not {"fvd", "kvd", "fad"} & set(report["metrics"])
  assert report["metrics"]["fvd_random"]["value"] > 0
  notes = " ".join(report["notes"])
  for kind, weight in extractors.WEIGHT_FILES.items():
    # A file that such short clips could not go with is not asked for.
    usable = kind not in ("vggish", "synchformer")
    assert (weight.file in notes and weight.size in notes) == usable
  # Five neighbours cannot be had of two clips.
  entry = report["metrics"]["precision_random"]
  assert entry["value"] is None and "lower k or add clips" in entry["reason"]


def test_published_weights_are_used_and_their_hash_reported(
  real, fake, tmp_path, monkeypatch
):
  """The network itself has its golden test; here its weights must reach it."""

  def logits(variables, video):
    bias = variables["params"]["logits"]["bias"]
    level = jnp.mean(video, axis=(1, 2, 3)) / 255
    return level @ jnp.ones((3, 400)) * bias

  monkeypatch.setattr(i3d, "logits", logits)
  weights = published_weights("i3d")
  np.savez(tmp_path / "i3d_pretrained_400.npz", **weights)
  report = run(real, fake, weights_dir=tmp_path, metrics=["fvd"])
  bias = weights["logits.conv3d.bias"]
  a, b = (
    side["video"].mean(axis=(1, 2, 3)) / 255 @ np.ones((3, 400)) * bias
    for side in (real, fake)
  )
  value = report["metrics"]["fvd"]["value"]
  assert value == pytest.approx(frechet_distance(a, b), rel=1e-4)
  info = report["weights"]["i3d"]
  assert info["file"] == "i3d_pretrained_400.npz" and len(info["sha256"]) == 64
  assert info["bytes"] == (tmp_path / info["file"]).stat().st_size


def test_memorisation_finds_planted_clips_and_draws_the_sheets(
  real, fake, tmp_path, scene_for_i3d
):
  samples = {
    key: np.concatenate([fake[key][:9], real[key][4:5]]) for key in fake
  }
  samples["video"][9] = samples["video"][9][:, :, ::-1]
  report = run(
    real,
    samples,
    metrics=["fad_mel"],
    memorisation=True,
    output=tmp_path / "report.json",
  )
  result = report["memorisation"]
  assert result["share_of_copies"] == pytest.approx(0.1)
  assert result["spaces"]["pixel"]["share_of_copies"] == pytest.approx(0.1)
  page = (tmp_path / "report_memorisation.html").read_text()
  assert "sample 000009" in page and "training 000004" in page
  assert page.count("<video") == 3 * 8 * 2
  assert (tmp_path / "report_memorisation.png").read_bytes()[:4] == b"\x89PNG"
  assert "report_memorisation.html" in (tmp_path / "report.html").read_text()


def share(fraction, held):
  """Names of the 24 real clips on one side of a split."""
  names = [f"{i:06d}" for i in range(24)]
  return [name for name in names if is_held_out(name, fraction) == held]


def test_the_held_out_share_is_what_samples_are_compared_with(
  real, fake, tmp_path
):
  held = share(0.5, held=True)
  assert 4 < len(held) < 20
  report = run(
    real,
    fake,
    metrics=["fad_mel"],
    holdout_fraction=0.5,
    output=tmp_path / "report.json",
  )
  assert report["real"]["clips"] == held
  assert report["real"]["split"] == "heldout"
  assert report["holdout_fraction"] == 0.5
  assert report["fake"]["split"] == "all" and report["fake"]["used"] == 16
  assert (
    f"against {len(held)} heldout real clips"
    in (tmp_path / "report.html").read_text()
  )
  numbers = [int(name) for name in held]
  alone = run(
    {key: real[key][numbers] for key in real}, fake, metrics=["fad_mel"]
  )
  assert light(alone) == light(report)
  for split, clips in (
    ("train", share(0.5, held=False)),
    ("all", [f"{i:06d}" for i in range(24)]),
  ):
    report = run(
      real, fake, metrics=["fad_mel"], holdout_fraction=0.5, split=split
    )
    assert report["real"]["clips"] == clips
    assert report["real"]["split"] == split
  assert run(real, fake, metrics=["fad_mel"])["real"]["split"] == "all"


def test_copies_are_looked_for_among_what_was_trained_on(real, scene_for_i3d):
  held, trained = (
    [int(name) for name in share(0.5, held=side)] for side in (True, False)
  )
  chosen = [*held[:3], trained[0]]
  report = run(
    real,
    {key: real[key][chosen] for key in real},
    metrics=["fad_mel"],
    memorisation=True,
    holdout_fraction=0.5,
  )
  pixel = report["memorisation"]["spaces"]["pixel"]
  assert pixel["share_of_copies"] == pytest.approx(1 / 4)


def test_a_missing_weight_file_says_where_it_is_to_be_had(pair, tmp_path):
  with pytest.raises(FileNotFoundError) as error:
    run(*pair, metrics=["fad"], weights_dir=tmp_path)
  for word in ("AudioCLIP-Full-Training.pt", "0.5 GB", "github.com", "weights"):
    assert word in str(error.value)


@pytest.mark.parametrize(
  "options, message",
  [
    ({"protocol": "raw"}, "paper, clean"),
    ({"metrics": ["fid"]}, "Unknown metric 'fid'"),
    ({"output": "report.txt"}, "must be a .json file"),
    ({"num_clips": 1, "metrics": ["fad_mel"]}, "at least 2"),
    ({"metrics": ["prdc_random"]}, "lower k or add clips"),
    ({"split": "heldout"}, "nothing was held out"),
    ({"split": "test"}, "'test'; allowed: train, heldout, all"),
    ({"holdout_fraction": 1e-9}, "no clip in split 'heldout'"),
    ({"batch_size": 0}, "batch_size must be positive"),
    ({"max_bad": 5}, "share in"),
  ],
)
def test_bad_requests_are_named(pair, options, message, scene_for_i3d):
  with pytest.raises(ValueError, match=message):
    run(*pair, **options)


def test_an_output_that_cannot_be_is_found_before_the_work(pair, tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(OSError, match="is not a folder"):
    # The sides do not exist: the output is looked at first.
    run("nowhere", "nowhere", output=tmp_path / "file" / "report.json")
  (tmp_path / "folder.json").mkdir()
  with pytest.raises(OSError, match="is a folder"):
    run("nowhere", "nowhere", output=tmp_path / "folder.json")


def test_a_metric_that_fails_is_null_and_the_others_stay(real, fake, tmp_path):
  """Of silent real clips KAD has no bandwidth; FAD does without one."""
  silent = dict(real, audio=np.zeros_like(real["audio"]))
  output = tmp_path / "report.json"
  report = run(silent, fake, metrics=["kad_mel", "fad_mel"], output=output)
  entry = json.loads(output.read_text())["metrics"]["kad_mel"]
  assert entry["value"] is None and "all equal" in entry["reason"]
  assert report["metrics"]["fad_mel"]["value"] > 0
  page = (tmp_path / "report.html").read_text()
  assert "left out: The kernel" in page
  with pytest.raises(ValueError, match="No metric can be computed. kad_mel"):
    run(silent, fake, metrics=["kad_mel"])
