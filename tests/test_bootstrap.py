"""Intervals of studies, against closed forms."""

import numpy as np
import pytest
from scipy import special, stats

from mmdiff_jax.study.statistics import bootstrap

RNG = np.random.default_rng


def test_the_variances_of_both_clusters_add_up_less_that_of_the_votes():
  """Cameron, Gelbach and Miller (2011), in closed form for a sum.

  Resampling n clusters varies their sum by n times the variance of theirs.
  """
  rng = RNG(0)
  rater, source = np.divmod(np.arange(12 * 8), 8)
  effects = rng.normal(0, 1, 12)[rater] + rng.normal(0, 2, 8)[source]
  columns = np.stack([effects, np.full(96, 3.0)], 1) + rng.normal(
    0, 1.5, (96, 2)
  )

  def closed_form(labels):
    sums = np.stack([columns[labels == n].sum(0) for n in np.unique(labels)])
    return len(sums) * sums.var(0, ddof=1)

  parts = [closed_form(x) for x in (rater, source, np.arange(96))]
  expected = np.maximum(parts[0] + parts[1] - parts[2], np.min(parts, axis=0))
  # The first column has spread of both clusters, the second of none.
  assert (parts[0] + parts[1] - parts[2] > parts[2])[0]
  value, error, freedom = bootstrap.two_way(
    columns, 7 + 2 * rater, source, lambda sums: sums, 20_000, RNG(1)
  )
  assert value == pytest.approx(columns.sum(0))
  assert error**2 == pytest.approx(expected, rel=0.06)
  assert freedom == 7


def test_an_estimate_that_nothing_is_left_of_has_the_least_of_the_errors():
  """Votes that cancel within each rater and source, but for a little."""
  rater, source = np.divmod(np.arange(36), 6)
  columns = np.where((rater + source) % 2, 1.0, -1.0)[:, None]
  columns[0] += 0.5
  _, error, freedom = bootstrap.two_way(
    columns, rater, source, lambda sums: sums, 20_000, RNG(1)
  )
  sums = np.zeros(6)
  sums[0] = 0.5
  assert error[0] ** 2 == pytest.approx(6 * sums.var(ddof=1), rel=0.05)
  assert freedom == 5


def test_one_rater_or_one_source_has_no_interval():
  columns, many, one = np.ones((4, 2)), np.arange(4), np.zeros(4)
  for rater, source in ((one, many), (many, one)):
    with pytest.raises(ValueError, match="at least two raters on two sources"):
      bootstrap.two_way(columns, rater, source, lambda s: s, 9, RNG(0))


def test_few_clusters_keep_a_degree_of_freedom():
  columns = RNG(0).normal(size=(8, 1))
  rater, source = np.divmod(np.arange(8), 4)
  *_, freedom = bootstrap.two_way(
    columns, rater, source, lambda s: s, 9, RNG(0)
  )
  assert freedom == 1


def test_intervals_are_students_on_either_side():
  # Tables: t of 97.5 % at 4 degrees of freedom is 2.776.
  found = bootstrap.t_interval(3.0, 0.5, 4)
  assert (found.value, found.low, found.high) == pytest.approx(
    (3.0, 3.0 - 0.5 * 2.776, 3.0 + 0.5 * 2.776), abs=1e-3
  )
  odds = bootstrap.odds_interval(0.4, 0.5, 4)
  logits = special.logit([odds.value, odds.low, odds.high])
  assert logits == pytest.approx([0.4, 0.4 - 1.388, 0.4 + 1.388], abs=1e-3)


def test_a_chance_of_a_higher_answer_is_counted_in_pairs():
  rng = RNG(3)
  first, second = rng.integers(0, 5, (2, 4, 6)).astype(float)
  found = bootstrap.log_odds_of_higher(first, second)
  for a, b, got in zip(first, second, found, strict=True):
    x, y = (np.repeat(np.arange(6), v.astype(int)) for v in (a, b))
    wins = sum((j > i) + (j == i) / 2 for i in x for j in y)
    assert got == pytest.approx(
      special.logit((wins + 0.5) / (len(x) * len(y) + 1))
    )


def test_an_interval_of_a_rate_is_one_of_log_odds():
  rng = RNG(5)
  rater, source = np.divmod(np.arange(600), 20)
  hits = rng.random(600) < 0.8
  found = bootstrap.rate_interval(hits, rater, source, 4000, RNG(0))
  assert found.value == hits.mean()
  # Without clusters: the binomial error, at 19 degrees of freedom.
  half = stats.t.ppf(0.975, 19) / np.sqrt(600 * hits.mean() * (1 - hits.mean()))
  wide = special.logit([found.low, found.high]) - special.logit(hits.mean())
  assert wide == pytest.approx([-half, half], rel=0.3)
  assert wide[0] == pytest.approx(-wide[1], abs=0.02)


def test_an_interval_of_a_mean_is_about_the_mean():
  rng = RNG(6)
  rater, source = np.divmod(np.arange(600), 20)
  scores = rng.normal(3, 0.5, 600)
  found = bootstrap.mean_interval(scores, rater, source, 2000, RNG(0))
  assert found.value == pytest.approx(scores.mean())
  half = stats.t.ppf(0.975, 19) * scores.std() / np.sqrt(600)
  assert found.high - found.value == pytest.approx(half, rel=0.3)
  assert found.value - found.low == pytest.approx(found.high - found.value)


def test_a_rate_of_nothing_has_an_interval():
  none = bootstrap.rate_interval(
    np.zeros(40), np.repeat(np.arange(10), 4), np.arange(40), 100, RNG(0)
  )
  # Clopper and Pearson, 0 of 10.
  assert (none.value, none.low) == (0.0, 0.0)
  assert none.high == pytest.approx(1 - 0.025**0.1)
  every = bootstrap.rate_interval(
    np.ones(40), np.repeat(np.arange(10), 4), np.arange(40), 100, RNG(0)
  )
  assert (every.value, every.high) == (1.0, 1.0)
  assert every.low == pytest.approx(0.025**0.1)
