"""The report's figures: closed forms, other programs, known truth."""

import numpy as np
import pytest
from scipy import special, stats
from statsmodels.stats.inter_rater import fleiss_kappa

from benchmarks import study_coverage
from mmdiff_jax.study.statistics import (
  bootstrap,
  detection,
  opinion,
  pairs,
  power,
)
from mmdiff_jax.study.statistics.agreement import alpha

RNG = np.random.default_rng


# Chances, whose intervals are symmetric in log odds.
CHANCES = ("fooled rate", "ROC area", "higher than real")


def test_intervals_of_simulated_raters_are_as_wide_as_their_errors():
  """Error over standard error is 1 on average, if the level is 95 %."""
  simulations = 40
  truth = study_coverage.truth()
  half = stats.t.ppf(0.975, study_coverage.RATERS - 1)
  found = {name: [] for name in truth}
  held = dict.fromkeys(truth, 0)
  for one in study_coverage.studies(simulations, draws=200, seed=5):
    for name, each in one.items():
      held[name] += each.low <= truth[name] <= each.high
      ends = np.array([each.low, each.value, each.high, truth[name]])
      low, value, high, true = special.logit(ends) if name in CHANCES else ends
      found[name].append((value - true) / ((high - low) / 2 / half))
  # Of normal errors, the mean square lies within these bounds but once in
  # 1,000; intervals of 80 % would have 2.4, those of 99 % 0.56.
  low, high = stats.chi2.ppf([5e-4, 1 - 5e-4], simulations) / simulations
  squares = {name: np.mean(np.square(z)) for name, z in found.items()}
  for name, square in squares.items():
    assert low < square < high, (name, square)
  assert 0.7 < np.mean(list(squares.values())) < 1.4
  # And so many hold the truth as 95 % have it but once in 1,000.
  least = stats.binom.ppf(1e-3, simulations, 0.95)
  assert min(held.values()) >= least, held


def test_the_level_is_95_percent_of_few_normal_values():
  values = RNG(0).normal(3.0, 2.0, (4000, 5))
  errors = values.std(1, ddof=1) / np.sqrt(5)
  for make, true in (
    (bootstrap.t_interval, 3.0),
    (bootstrap.odds_interval, special.expit(3.0)),
  ):
    found = [
      make(*each, 4) for each in zip(values.mean(1), errors, strict=True)
    ]
    held = np.mean([each.low <= true <= each.high for each in found])
    assert held == pytest.approx(0.95, abs=0.013)  # 4 standard errors.


def test_few_clusters_have_the_variance_of_the_textbook():
  """s^2 / n of n = 4 cluster means: the bootstrap's own lacks n / (n - 1)."""
  means = np.array([1.0, 2.5, 4.0, 9.0])
  sums = np.stack([6 * means, np.full(4, 6.0)], 1)
  found = bootstrap._variance(
    sums, lambda s: s[..., :1] / s[..., 1:], 40_000, RNG(0)
  )
  assert found[0] == pytest.approx(means.var(ddof=1) / 4, rel=0.03)


def test_standard_errors_are_those_of_repeated_studies():
  # The spread of the estimates over new raters and new clips, and what one
  # study says of it.
  values, errors = [], []
  for seed in range(100):
    votes = study_coverage.simulate(RNG(seed))["opinion"]
    scores = votes.values["video"].astype(float)
    found = bootstrap.mean_interval(
      scores, votes.rater, votes.source, 200, RNG(seed)
    )
    values.append(found.value)
    errors.append((found.high - found.value) / stats.t.ppf(0.975, 39))
  assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2)


def test_without_clusters_the_error_is_the_means():
  rater, source = np.divmod(np.arange(900), 30)
  errors = []
  for seed in range(30):
    columns = np.stack([RNG(seed).normal(size=900), np.ones(900)], 1)
    _, error, freedom = bootstrap.two_way(
      columns, rater, source, lambda s: s[..., :1] / s[..., 1:], 200, RNG(1)
    )
    errors.append(error[0])
  assert freedom == 29
  assert np.mean(errors) * 30 == pytest.approx(1, abs=0.06)


def test_sensitivity_is_the_textbooks():
  # Macmillan and Creelman's definitions on large counts: 84 % hits, 31 %
  # false alarms.
  sums = np.array([690, 0, 0, 0, 0, 310, 160, 0, 0, 0, 0, 840]) * 1000.0
  d_prime, criterion, area = detection.sensitivity(sums)
  z_hit, z_false = stats.norm.ppf(0.84), stats.norm.ppf(0.31)
  assert d_prime == pytest.approx(z_hit - z_false, abs=1e-4)
  assert criterion == pytest.approx(-(z_hit + z_false) / 2, abs=1e-4)
  # One point of the curve: its two triangles.
  assert special.expit(area) == pytest.approx((1 + 0.84 - 0.31) / 2, abs=1e-4)


def test_area_is_mann_and_whitneys():
  rng = RNG(3)
  real, fake = rng.integers(1, 7, 80), rng.integers(2, 7, 70)
  sums = np.concatenate(
    [np.bincount(v, minlength=7)[1:] for v in (real, fake)]
  ).astype(float)
  expected = stats.mannwhitneyu(fake, real).statistic / (80 * 70)
  found = special.expit(detection.sensitivity(sums)[2])
  assert found == pytest.approx(expected, abs=1e-3)


def test_the_chance_of_a_higher_score_is_that_of_all_pairs():
  votes = study_coverage.simulate(RNG(6))["opinion"]
  found = opinion.against_real(votes, "video", "good", 200, RNG(0))
  good, real = (
    votes.values["video"][votes.system == name] for name in ("good", "real")
  )
  pairs_of = [(g > r) + (g == r) / 2 for g in good for r in real]
  assert found.value == pytest.approx(np.mean(pairs_of), abs=1e-4)
  assert found.low < found.value < found.high < 0.5


def test_strengths_are_bradley_and_terrys():
  # Expected wins of known strengths give the strengths back.
  truth = np.array([0.9, 0.1, -1.0])
  chance = special.expit(truth[:, None] - truth[None])
  wins = 1e6 * chance * (1 - np.eye(3))
  assert pairs.strengths(wins) == pytest.approx(truth, abs=1e-3)
  # And of two systems, the log odds of a win.
  two = np.array([[0, 30.0], [10.0, 0]])
  assert np.diff(pairs.strengths(two)) == pytest.approx(-np.log(30.5 / 10.5))


def test_alpha_is_fleiss_kappa_but_for_its_small_sample_term():
  votes = study_coverage.simulate(RNG(2))["turing"]
  # Complete data: 60 units of 4 raters.
  rng = RNG(4)
  truth = rng.integers(0, 2, 60)
  flipped = rng.random((60, 4)) < 0.2
  said = np.where(flipped, 1 - truth[:, None], truth[:, None])
  kappa = fleiss_kappa(np.stack([4 - said.sum(1), said.sum(1)], 1))
  full = votes.where(np.arange(240))
  object.__setattr__(full, "rater", np.tile(np.arange(4), 60))
  object.__setattr__(full, "stimulus", np.repeat(np.arange(60), 4).astype(str))
  full.values["origin"] = 1 + 5 * said.ravel()
  found = alpha(full, "origin", 50, RNG(0))
  # Krippendorff (2004): alpha = kappa + (1 - kappa) / (number of values).
  assert found.value == pytest.approx(kappa + (1 - kappa) / 240, abs=1e-6)
  assert found.low < found.value < found.high


def test_alphas_interval_is_as_wide_as_alphas_of_other_clips_spread():
  template = study_coverage.simulate(RNG(2))["turing"].where(np.arange(240))
  object.__setattr__(template, "rater", np.tile(np.arange(4), 60))
  stimulus = np.repeat(np.arange(60), 4).astype(str)
  object.__setattr__(template, "stimulus", stimulus)
  values, widths = [], []
  for seed in range(60):
    rng = RNG(seed)
    truth = rng.integers(0, 2, 60)
    said = np.where(
      rng.random((60, 4)) < 0.2, 1 - truth[:, None], truth[:, None]
    )
    template.values["origin"] = 1 + 5 * said.ravel()
    found = alpha(template, "origin", 100, rng)
    values.append(found.value)
    widths.append(found.high - found.low)
  half = np.mean(widths) / 2
  assert half == pytest.approx(1.96 * np.std(values, ddof=1), rel=0.25)


def test_the_power_tables_error_is_that_of_simulated_means():
  rng, raters, clips, each = RNG(0), 20, 40, 10
  parts = power.SCORE_PARTS
  means = []
  for _ in range(3000):
    severity = rng.normal(0, parts["rater"], raters)
    worth = rng.normal(0, parts["source"], clips)
    seen = (np.arange(raters)[:, None] * each + np.arange(each)) % clips
    noise = rng.normal(0, parts["noise"], seen.shape)
    means.append((severity[:, None] + worth[seen] + noise).mean())
  expected = power.standard_error(raters, clips, each, parts)
  assert np.std(means) == pytest.approx(expected, rel=0.05)


def test_a_pilots_spreads_are_those_that_were_put_in():
  parts, found = power.SCORE_PARTS, []
  for seed in range(20):
    rng = RNG(seed)
    rater, source = np.divmod(np.arange(30 * 40), 40)
    system = (rater + source) % 2
    values = 2.0 * system + rng.normal(0, parts["noise"], len(rater))
    values += rng.normal(0, parts["rater"], 30)[rater]
    values += rng.normal(0, parts["source"], 40)[source]
    found.append(power.spreads(values, system, rater, source))
  for name, spread in parts.items():
    mean = np.mean([each[name] for each in found])
    assert mean == pytest.approx(spread, rel=0.08), name


def test_a_detectable_difference_is_detected_four_times_of_five():
  gap = power.detectable(0.1, 29)
  # Noncentral t: the power of a two-sided test at 5 %.
  critical = stats.t.ppf(0.975, 29)
  assert stats.nct.sf(critical, 29, gap / 0.1) == pytest.approx(0.8, abs=0.01)


def test_the_plan_names_its_numbers_and_its_limits():
  table = power.plan_table([10, 40], 100, 20)
  assert "score: rater 0.45" in table
  rows = [line.split("|") for line in table.splitlines()[-2:]]
  widths = [float(row[3]) for row in rows]
  assert widths[0] > widths[1] > 0
  assert rows[0][2].strip() == "2.0" and rows[1][2].strip() == "8.0"
  with pytest.raises(ValueError, match="at least 2"):
    power.plan_table([1], 100, 20)
