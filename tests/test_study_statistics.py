"""The report's figures: closed forms, other programs, known truth."""

import itertools

import numpy as np
import pandas
import pytest
from scipy import special, stats
from statsmodels.miscmodels.ordinal_model import OrderedModel
from statsmodels.stats.inter_rater import fleiss_kappa

from benchmarks import study_coverage
from mmdiff_jax.study.statistics import (
  bootstrap,
  detection,
  ordinal,
  pairs,
  power,
)
from mmdiff_jax.study.statistics.agreement import alpha

RNG = np.random.default_rng


def test_intervals_cover_the_truth_of_simulated_raters():
  simulations = 40
  held = study_coverage.coverage(simulations, draws=200, seed=5)
  # A true coverage of 95 % lies within these bounds but once in 10,000.
  low, high = stats.binom.ppf([1e-4, 1 - 1e-4], simulations, 0.95)
  for name, hits in held.items():
    assert low <= sum(hits) <= high, (name, sum(hits))


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


def test_a_rate_of_nothing_has_an_interval():
  none = bootstrap.rate_interval(
    np.zeros(40), np.repeat(np.arange(10), 4), np.arange(40), 100, RNG(0)
  )
  # Clopper and Pearson, 0 of 10.
  assert (none.value, none.low) == (0.0, 0.0)
  assert none.high == pytest.approx(1 - 0.025**0.1)


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


def ordinal_data(seed, effect=-0.8, spreads=(0.8, 0.5)):
  rng = RNG(seed)
  rater, source = np.divmod(np.arange(40 * 30), 30)
  x = ((rater + source) % 2)[:, None].astype(float)
  eta = effect * x[:, 0] + rng.normal(0, spreads[0], 40)[rater]
  eta += rng.normal(0, spreads[1], 30)[source]
  cuts = np.array([-2.0, -0.7, 0.6, 2.0])
  cumulative = special.expit(cuts - eta[:, None])
  y = 1 + (rng.random(len(eta))[:, None] > cumulative).sum(1)
  return y, x, rater, source


def test_without_spread_the_model_is_statsmodels_ordered_one():
  y, x, rater, source = ordinal_data(0, spreads=(0.0, 0.0))
  ours = ordinal.fit(y, x, rater, source)
  frame = pandas.Series(pandas.Categorical(y, ordered=True))
  model = OrderedModel(frame, x, distr="logit")
  theirs = model.fit(method="bfgs", disp=False)
  assert ours.effects[0].value == pytest.approx(theirs.params.iloc[0], abs=0.02)
  half = 1.96 * theirs.bse.iloc[0]
  assert ours.effects[0].high - ours.effects[0].value == pytest.approx(
    half, rel=0.1
  )
  cuts = model.transform_threshold_params(theirs.params)[1:-1]
  assert ours.thresholds == pytest.approx(cuts, abs=0.05)


def test_the_mixed_model_finds_what_was_put_in():
  fits = [ordinal.fit(*ordinal_data(seed)) for seed in range(1, 7)]
  effects = [fit.effects[0].value for fit in fits]
  assert np.mean(effects) == pytest.approx(-0.8, abs=0.12)
  assert np.mean([f.rater_spread for f in fits]) == pytest.approx(0.8, abs=0.15)
  assert np.mean([f.source_spread for f in fits]) == pytest.approx(0.5, abs=0.2)
  assert np.mean([f.thresholds for f in fits], 0) == pytest.approx(
    [-2.0, -0.7, 0.6, 2.0], abs=0.25
  )


def test_laplaces_likelihood_is_near_the_integral():
  # One rater and one source: the integral over both by Gauss and Hermite.
  y = np.array([1, 2, 2, 3, 1, 3, 2, 2])
  zero = np.zeros(8, int)
  x = np.arange(8)[:, None] % 2.0
  likelihood = ordinal._Likelihood(y, x, zero, zero)
  theta = np.array([-0.5, np.log(1.2), 0.4, np.log(0.6), np.log(0.4)])
  nodes, weights = np.polynomial.hermite_e.hermegauss(40)
  total = 0.0
  for (u, wu), (v, wv) in itertools.product(
    zip(nodes, weights, strict=True), repeat=2
  ):
    eta = 0.4 * x[:, 0] + 0.6 * u + 0.4 * v
    ends = np.array([-np.inf, -0.5, 0.7, np.inf])
    chance = special.expit(ends[y] - eta) - special.expit(ends[y - 1] - eta)
    total += wu * wv / (2 * np.pi) * chance.prod()
  assert -likelihood(theta) == pytest.approx(np.log(total), abs=0.02)


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
