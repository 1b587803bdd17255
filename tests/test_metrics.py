import dataclasses

import numpy as np
import pytest
from scipy import stats

from mmdiff_jax.evaluation import metrics
from mmdiff_jax.evaluation.entries import (
  compute,
  find_warnings,
  jackknife,
  no_entry,
)
from mmdiff_jax.evaluation.frechet import frechet_distance


def test_groups_stand_for_their_metrics_once():
  names = [m.name for m in metrics.resolve(["prdc", "recall", "fad_mel"])]
  assert names == ["precision", "recall", "density", "coverage", "fad_mel"]


def test_unknown_metrics_are_named_with_what_is_allowed():
  with pytest.raises(ValueError, match="'fid'; allowed: fvd, kvd"):
    metrics.resolve(["fvd", "fid"])


def test_jackknife_of_means_is_the_textbooks_standard_error():
  """Exact with one value per group: s / sqrt(n), and variances add up."""
  x, y = np.random.default_rng(0).standard_normal((2, 10))
  y = 3 * y[:6]

  def mean(*sets):
    return sum(f["x"].mean() for f in sets)

  error = stats.sem(x)
  assert jackknife(mean, {"x": x}, seed=0) == pytest.approx(error)
  both = np.hypot(error, stats.sem(y))
  assert jackknife(mean, {"x": x}, {"x": y}, seed=1) == pytest.approx(both)


def test_jackknife_leaves_out_a_tenth_at_a_time():
  sizes = []

  def count(features):
    sizes.append(len(features["x"]))
    return 0.0

  jackknife(count, {"x": np.arange(104)}, seed=0)
  assert sorted(sizes) == [93] * 4 + [94] * 6


def test_error_bar_covers_the_spread_of_repetitions():
  rng = np.random.default_rng(1)
  metric = metrics.METRICS["fad_mel"]

  def draw():
    features = [{"mel": rng.standard_normal((200, 5))} for _ in range(2)]
    features[1]["mel"] = features[1]["mel"] * 1.5
    return compute(metric, *features, fps=10.0, seed=0)

  entries = [draw() for _ in range(30)]
  spread = np.std([entry["value"] for entry in entries])
  errors = np.mean([entry["stderr"] for entry in entries])
  assert errors == pytest.approx(spread, rel=0.4)


@pytest.fixture(scope="module")
def sets():
  rng = np.random.default_rng(2)
  real = rng.standard_normal((60, 8))
  return {"audioclip": real}, {"audioclip": rng.standard_normal((50, 8)) + 2}


def test_fad_is_ten_thousand_times_the_frechet_distance(sets):
  entry = compute(metrics.METRICS["fad"], *sets, fps=10.0, seed=0)
  wanted = 1e4 * frechet_distance(sets[0]["audioclip"], sets[1]["audioclip"])
  assert entry["value"] == pytest.approx(wanted)
  assert (entry["n_real"], entry["n_fake"], entry["real_n"]) == (60, 50, 30)
  # One half of the real clips against the other: no shift, half the clips.
  assert 0 < entry["real"] < entry["value"]


def test_vggish_examples_count_as_samples():
  rng = np.random.default_rng(3)
  a, b = rng.standard_normal((2, 40, 2, 6))
  entry = compute(
    metrics.METRICS["fad_vggish"], {"vggish": a}, {"vggish": b}, 10.0, 0
  )
  wanted = frechet_distance(a.reshape(80, 6), b.reshape(80, 6))
  assert entry["value"] == pytest.approx(wanted)


def test_a_distance_is_measured_between_random_halves_of_the_real_set():
  seen = []

  def spy(a, b):
    seen.append([set(np.ravel(x)) for x in (a, b)])
    return float(len(seen))

  metric = dataclasses.replace(
    metrics.METRICS["kad_mel"], distance=spy, scale=10.0
  )
  clips = {"mel": np.arange(21.0)[:, None], "other": np.zeros(21)}
  fake = {"mel": 100 + np.arange(12.0)[:, None]}
  entry = compute(metric, clips, fake, fps=10.0, seed=4)
  assert seen[0] == [set(range(21)), set(range(100, 112))]
  # Then ten groups of either set are left out; the halves come last.
  assert len(seen) == 22
  assert all(len(real) in (18, 19) for real, _ in seen[1:11])
  assert all(len(fake) in (10, 11) for _, fake in seen[11:21])
  first, second = seen[-1]
  assert len(first) == len(second) == 10 and not first & second
  assert first | second < set(range(21))
  assert entry["value"] == 10.0 and entry["real"] == 220.0
  assert (entry["n_real"], entry["n_fake"], entry["real_n"]) == (21, 12, 10)
  assert (entry["better"], entry["about"]) == ("lower", metric.about)
  compute(metric, clips, fake, fps=10.0, seed=5)
  assert seen[-1][0] != first


def test_a_statistic_that_a_part_is_too_small_for_has_no_error_bar():
  def picky(a, b):
    if min(len(a), len(b)) < 12:
      raise ValueError("too few")
    return 1.0

  metric = dataclasses.replace(metrics.METRICS["fad_mel"], distance=picky)
  x = {"mel": np.zeros((12, 2))}
  entry = compute(metric, x, x, fps=10.0, seed=0)
  assert (entry["value"], entry["stderr"], entry["real"]) == (1.0, None, None)


def of_pairs(values):
  """A metric of pairing whose figure `values` makes, and what it was given."""
  calls = []

  def pairs(*args):
    calls.append(args)
    return values(args[0]["mel"])

  metric = dataclasses.replace(
    metrics.METRICS["av_dependence"], features=("mel",), pairs=pairs
  )
  return metric, calls


REAL, FAKE = {"mel": np.arange(30.0)}, {"mel": np.arange(8.0) ** 2}


def test_figures_of_clips_have_the_error_of_their_mean():
  metric, calls = of_pairs(lambda x: 2 * x)
  entry = compute(metric, REAL, FAKE, fps=12.5, seed=7)
  x = 2 * FAKE["mel"]
  assert entry["value"] == pytest.approx(x.mean())
  assert entry["stderr"] == pytest.approx(x.std() / np.sqrt(8))
  assert (entry["real"], entry["real_n"]) == (29.0, 30)
  (fake, real, *how), alone = calls
  assert how == [12.5, 7] and (real["mel"] == REAL["mel"]).all()
  assert (fake["mel"] == FAKE["mel"]).all()
  assert (alone[0]["mel"] == REAL["mel"]).all() and alone[1] is None


def test_one_figure_of_all_clips_has_the_jackknifes_error():
  metric, calls = of_pairs(lambda x: x.mean())
  entry = compute(metric, REAL, FAKE, fps=12.5, seed=7)
  # Eight clips are eight groups: exactly the error of the mean.
  assert entry["stderr"] == pytest.approx(stats.sem(FAKE["mel"]))
  assert entry["value"] == FAKE["mel"].mean() and entry["real"] == 14.5
  parts = [call for call in calls if len(call[0]["mel"]) == 7]
  assert len(parts) == 8
  assert all(call[1]["mel"] is REAL["mel"] for call in parts)
  assert all(call[2:] == (12.5, 7) for call in calls)


def test_a_metric_that_cannot_be_computed_has_no_figures():
  metric = metrics.METRICS["fvd"]
  assert no_entry(metric, "no weights") == {
    "about": metric.about,
    "better": "lower",
    "value": None,
    "stderr": None,
    "real": None,
    "reason": "no weights",
  }


def warnings(name, n, width=400, protocol="clean", **entry):
  entry = {"n_real": n, "n_fake": 5000, "value": 1.0, "stderr": 0.1} | entry
  return find_warnings(metrics.METRICS[name], entry, width, protocol)


def test_small_sets_are_warned_about():
  assert warnings("fvd", 400) == [
    "400 clips for 400 dimensions; the covariances are singular and the "
    "distance is biased upwards. Compare it at equal n only."
  ]
  assert warnings("fvd", 401) == warnings("fvd", 2048) == []
  assert (
    warnings("fvd", 5000, n_fake=90, width=50)
    == warnings("kvd", 90)
    == ["90 clips are few; see the error bar."]
  )
  assert len(warnings("kvd", 99)) == 1 and warnings("kvd", 100) == []
  assert warnings("av_align", 50) == []


def test_published_figures_want_the_papers_number_of_clips():
  (warning,) = warnings("fvd", 2000, protocol="paper")
  assert warning == (
    "published figures use 2,048 clips on both sides, this one 2000 and 5000."
  )
  assert warnings("fvd", 2048, protocol="paper") == []
  assert warnings("fvd", 2000, protocol="clean") == []
  assert warnings("fvd_random", 2000, protocol="paper") == []


def test_chance_level_is_pointed_out():
  said = ["within two standard errors of 0, the level of chance."]
  assert warnings("av_align", 500, stderr=0.6) == said
  assert warnings("av_align", 500, stderr=0.6, value=-1.0) == said
  assert warnings("av_align", 500, stderr=0.5) == []
  assert warnings("av_align", 500, stderr=0.4, value=-1.0) == []
  assert warnings("av_align", 500, stderr=None) == []
  assert warnings("kvd", 500, stderr=0.6) == []
