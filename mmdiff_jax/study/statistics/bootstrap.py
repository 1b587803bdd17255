"""Intervals that hold for other raters and for other clips.

Votes of one rater resemble each other, as do votes on one source. Resampling
both at once (Owen's pigeonhole bootstrap) counts the noise of single votes
three times. So raters, sources and single votes are resampled apart, and the
variances combined as V = V_rater + V_source - V_vote (Cameron, Gelbach and
Miller 2011): the noise, which all three hold, then counts once.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import special, stats


class TooFewError(ValueError):
  """Too few raters or sources for an interval."""


@dataclasses.dataclass(frozen=True)
class Interval:
  """An estimate and its 95 % interval."""

  value: float
  low: float
  high: float


# Sums `[..., Q]` of columns over (resampled) votes -> statistics `[..., M]`.
Statistic = Callable[[np.ndarray], np.ndarray]


def two_way(
  columns: np.ndarray,
  rater: np.ndarray,
  source: np.ndarray,
  statistic: Statistic,
  draws: int,
  rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, int]:
  """Estimates of functions of sums, with standard errors for both clusters.

  Args:
    columns: `[N, Q]`, one row per vote.
    rater: `[N]`.
    source: `[N]`.
    statistic: see `Statistic`.
    draws: of each of the three resamplings.
    rng: draws.

  Returns:
    Estimates `[M]`, standard errors `[M]`, and the degrees of freedom: the
    smaller number of clusters, less one.
  """
  value = statistic(columns.sum(0))
  votes = np.arange(len(columns))
  variances, clusters = [], []
  for labels in (rater, source, votes):
    number, index = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(number), columns.shape[1]))
    np.add.at(sums, index, columns)
    variances.append(_variance(sums, statistic, draws, rng))
    clusters.append(len(number))
  by_rater, by_source, by_vote = variances
  # A part may well be negative (versions of a source that rise and fall
  # together make differences surer); estimates of few clusters can leave
  # nothing at all, which the least of the three prevents.
  variance = np.maximum(
    by_rater + by_source - by_vote, np.minimum.reduce(variances)
  )
  return value, np.sqrt(variance), max(1, min(clusters) - 1)


def _variance(
  sums: np.ndarray, statistic: Statistic, draws: int, rng: np.random.Generator
) -> np.ndarray:
  """Variance of a statistic over resampled clusters, whose sums are rows."""
  number = len(sums)
  if number < 2:
    raise TooFewError(
      "An interval needs votes of at least two raters on two sources."
    )
  weights = rng.multinomial(number, np.full(number, 1 / number), size=draws)
  spread = statistic(weights @ sums).var(0, ddof=1)
  return spread * number / (number - 1)


def t_interval(value: float, error: float, freedom: int) -> Interval:
  """The 95 % interval of Student's t."""
  half = stats.t.ppf(0.975, freedom) * error
  return Interval(float(value), float(value - half), float(value + half))


def log_odds_of_higher(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Log odds that an answer of the second kind is higher than one of the first.

  Of all pairs of answers, one of each kind, the share in which the second is
  higher, ties counting half: Mann and Whitney's statistic. It takes answers as
  ordered, not as measured.

  Args:
    first: `[..., K]` counts of the answers 1 to K.
    second: likewise.
  """
  below = np.cumsum(first, -1) - first / 2
  wins = (second * below).sum(-1)
  pairs = first.sum(-1) * second.sum(-1)
  return special.logit((wins + 0.5) / (pairs + 1))


def odds_interval(value: float, error: float, freedom: int) -> Interval:
  """The 95 % interval of a chance whose log odds are estimated."""
  odds = t_interval(value, error, freedom)
  low, middle, high = special.expit([odds.low, odds.value, odds.high])
  return Interval(float(middle), float(low), float(high))


def mean_interval(
  values: np.ndarray, rater: np.ndarray, source: np.ndarray, draws, rng
) -> Interval:
  """A mean and its interval."""
  columns = np.stack([values, np.ones(len(values))], 1).astype(float)

  def mean(sums: np.ndarray) -> np.ndarray:
    return sums[..., :1] / np.maximum(sums[..., 1:], 1)

  value, error, freedom = two_way(columns, rater, source, mean, draws, rng)
  return t_interval(value[0], error[0], freedom)


def rate_interval(
  hits: np.ndarray, rater: np.ndarray, source: np.ndarray, draws, rng
) -> Interval:
  """A share and its interval, on the scale of log odds.

  Where all votes agree nothing can be resampled: then Clopper and Pearson's
  interval, as if each rater were one vote.
  """
  hits = np.asarray(hits, float)
  if not len(hits):
    raise TooFewError("There is no vote.")
  share = float(hits.mean())
  if share in (0.0, 1.0):
    tail = 0.025 ** (1 / len(np.unique(rater)))
    return Interval(share, *((0.0, 1 - tail) if share == 0 else (tail, 1.0)))
  columns = np.stack([hits, 1 - hits], 1)

  def log_odds(sums: np.ndarray) -> np.ndarray:
    return np.log((sums[..., :1] + 0.5) / (sums[..., 1:] + 0.5))

  value, error, freedom = two_way(columns, rater, source, log_odds, draws, rng)
  odds = odds_interval(value[0], error[0], freedom)
  return Interval(share, odds.low, odds.high)
