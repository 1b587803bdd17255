import numpy as np
import pytest
from scipy import stats

from mmdiff_jax.evaluation import metrics
from mmdiff_jax.evaluation.entries import compute, find_warnings, jackknife
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


def warnings(name, n, width=400, protocol="clean", **entry):
  entry = {"n_real": n, "n_fake": 5000, "value": 1.0, "stderr": 0.1} | entry
  return find_warnings(metrics.METRICS[name], entry, width, protocol)


def test_small_sets_are_warned_about():
  assert "covariances are singular" in warnings("fvd", 400)[0]
  assert warnings("fvd", 2048) == []
  assert "few" in warnings("kvd", 50)[0]
  assert warnings("kvd", 400) == []


def test_published_figures_want_the_papers_number_of_clips():
  assert "2,048 clips" in warnings("fvd", 2000, protocol="paper")[0]
  assert warnings("fvd", 2048, protocol="paper") == []
  assert warnings("fvd_random", 2000, protocol="paper") == []


def test_chance_level_is_pointed_out():
  assert "level of chance" in warnings("av_align", 500, stderr=0.6)[0]
  assert warnings("av_align", 500, stderr=0.4) == []
