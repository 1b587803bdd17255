"""Real or generated: how well raters tell, and which way they lean."""

import dataclasses

import numpy as np
from scipy import stats

from mmdiff_jax.study.statistics.bootstrap import (
  Interval,
  log_odds_of_higher,
  odds_interval,
  rate_interval,
  t_interval,
  two_way,
)
from mmdiff_jax.study.statistics.votes import Votes

REAL = "real"


@dataclasses.dataclass(frozen=True)
class Detection:
  """How well one system's clips are told from real ones.

  Attributes:
    system: its name.
    votes: on its clips.
    fooled: share of them called real.
    d_prime: z(generated called generated) - z(real called generated): 0
      where nobody can tell.
    criterion: -(sum of the two z)/2: above 0 where raters lean to "real".
    area: under the ROC curve of the six levels of certainty: the chance
      that a generated clip is held for less real than a real one.
  """

  system: str
  votes: int
  fooled: Interval
  d_prime: Interval
  criterion: Interval
  area: Interval


def real_rate(votes: Votes, draws: int, rng: np.random.Generator) -> Interval:
  """Share of votes on real clips that call them real."""
  own = votes.where(votes.system == REAL)
  said_real = own.values["origin"] <= 3
  return rate_interval(said_real, own.rater, own.source, draws, rng)


def detect(
  votes: Votes, draws: int, rng: np.random.Generator
) -> list[Detection]:
  """Analyses the regular votes of the turing task.

  Rates are pooled over raters: d' of raters whose criteria differ is a
  little smaller pooled than on their average.

  Args:
    votes: regular ones.
    draws: of the bootstrap.
    rng: draws.
  """
  return [
    _detect(votes.where(np.isin(votes.system, (REAL, system))), system, draws,
            rng)
    for system in sorted(set(votes.system) - {REAL})
  ]  # fmt: skip


def _detect(
  votes: Votes, system: str, draws: int, rng: np.random.Generator
) -> Detection:
  fake = votes.system == system
  own = votes.where(fake)
  said_real = own.values["origin"] <= 3
  level = votes.values["origin"][:, None] == np.arange(1, 7)
  columns = np.concatenate([level & ~fake[:, None], level & fake[:, None]], 1)
  value, error, freedom = two_way(
    columns.astype(float), votes.rater, votes.source, sensitivity, draws, rng
  )
  return Detection(
    system,
    len(own),
    rate_interval(said_real, own.rater, own.source, draws, rng),
    t_interval(value[0], error[0], freedom),
    t_interval(value[1], error[1], freedom),
    odds_interval(value[2], error[2], freedom),
  )


def sensitivity(sums: np.ndarray) -> np.ndarray:
  """(d', criterion, log odds of the area) of counts.

  Args:
    sums: `[..., 12]`: real clips by answer 1 to 6, then generated ones.

  Returns:
    `[..., 3]`. Rates are log-linearly corrected (Hautus 1995), so that they
    are never 0 or 1.
  """
  real, fake = sums[..., :6], sums[..., 6:]
  false = (real[..., 3:].sum(-1) + 0.5) / (real.sum(-1) + 1)
  hits = (fake[..., 3:].sum(-1) + 0.5) / (fake.sum(-1) + 1)
  z_hit, z_false = stats.norm.ppf(hits), stats.norm.ppf(false)
  area = log_odds_of_higher(real, fake)
  return np.stack([z_hit - z_false, -(z_hit + z_false) / 2, area], -1)
