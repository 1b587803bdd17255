"""Opinion scores: means, and the chance of a higher score than a real clip's.

Scores are ordered, not measured: a mean of scores assumes that "poor" is as
far from "fair" as "good" from "excellent"; the chance does not.
"""

import dataclasses

import numpy as np

from mmdiff_jax.study.settings import SCALES
from mmdiff_jax.study.statistics.bootstrap import (
  Interval,
  log_odds_of_higher,
  mean_interval,
  odds_interval,
  two_way,
)
from mmdiff_jax.study.statistics.votes import Votes

REAL = "real"


@dataclasses.dataclass(frozen=True)
class Opinion:
  """Scores of one system on one scale.

  Attributes:
    system: its name.
    scale: video, audio or match.
    votes: number of scores.
    score: the mean opinion score.
    shares: of the scores 1 to 5.
    against_real: the chance of a higher score than a real clip's, ties
      counting half; None for real clips themselves.
  """

  system: str
  scale: str
  votes: int
  score: Interval
  shares: list[float]
  against_real: Interval | None


def opinions(
  votes: Votes, draws: int, rng: np.random.Generator
) -> list[Opinion]:
  """Analyses the regular votes of the opinion task.

  Args:
    votes: regular ones.
    draws: of the bootstrap.
    rng: draws.
  """
  systems = [REAL, *sorted(set(votes.system) - {REAL})]
  return [
    _opinion(votes, scale, system, draws, rng)
    for scale in votes.values
    for system in systems
  ]


def _opinion(
  votes: Votes,
  scale: str,
  system: str,
  draws: int,
  rng: np.random.Generator,
) -> Opinion:
  own = votes.where(votes.system == system)
  scores, points = own.values[scale], SCALES["opinion"][scale]
  return Opinion(
    system,
    scale,
    len(scores),
    mean_interval(scores, own.rater, own.source, draws, rng),
    [float(np.mean(scores == point)) for point in range(1, points + 1)],
    None if system == REAL else against_real(votes, scale, system, draws, rng),
  )


def against_real(
  votes: Votes,
  scale: str,
  system: str,
  draws: int,
  rng: np.random.Generator,
) -> Interval:
  """The chance that a system's clip gets a higher score than a real one.

  Args:
    votes: regular ones.
    scale: of the opinion task.
    system: its name.
    draws: of the bootstrap.
    rng: draws.
  """
  both = votes.where(np.isin(votes.system, (REAL, system)))
  points = SCALES["opinion"][scale]
  level = both.values[scale][:, None] == np.arange(1, points + 1)
  fake = (both.system == system)[:, None]

  def statistic(sums: np.ndarray) -> np.ndarray:
    return log_odds_of_higher(sums[..., :points], sums[..., points:])[..., None]

  columns = np.concatenate([level & ~fake, level & fake], 1).astype(float)
  value, error, freedom = two_way(
    columns, both.rater, both.source, statistic, draws, rng
  )
  return odds_interval(value[0], error[0], freedom)
