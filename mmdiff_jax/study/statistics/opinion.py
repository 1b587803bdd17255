"""Opinion scores: means with intervals, and the ordinal mixed model."""

import dataclasses
import logging

import numpy as np

from mmdiff_jax.study.statistics import ordinal
from mmdiff_jax.study.statistics.bootstrap import Interval, mean_interval
from mmdiff_jax.study.statistics.votes import Votes

_LOGGER = logging.getLogger(__name__)
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
    against_real: log odds of a higher score than a real clip's, by the
      ordinal mixed model; None for real clips themselves, and where it
      cannot be fitted.
  """

  system: str
  scale: str
  votes: int
  score: Interval
  shares: list[float]
  against_real: Interval | None


@dataclasses.dataclass(frozen=True)
class Spread:
  """How much raters and sources differ on a scale, in log odds."""

  scale: str
  rater: float
  source: float


def opinions(
  votes: Votes, draws: int, rng: np.random.Generator
) -> tuple[list[Opinion], list[Spread]]:
  """Analyses the regular votes of the opinion task.

  Args:
    votes: regular ones.
    draws: of the bootstrap.
    rng: draws.
  """
  systems = [REAL, *sorted(set(votes.system) - {REAL})]
  x = np.stack([votes.system == name for name in systems[1:]], 1)
  rows, spreads = [], []
  for scale, values in votes.values.items():
    fitted = None
    try:
      fitted = ordinal.fit(values, x, votes.rater, votes.source)
      spreads.append(Spread(scale, fitted.rater_spread, fitted.source_spread))
    except ValueError as error:
      _LOGGER.warning("%s: no ordinal model. %s", scale, error)
    for number, system in enumerate(systems):
      own = votes.system == system
      scores = values[own]
      rows.append(Opinion(
        system,
        scale,
        len(scores),
        mean_interval(scores, votes.rater[own], votes.source[own], draws, rng),
        [float(np.mean(scores == point)) for point in range(1, 6)],
        fitted.effects[number - 1] if fitted and number else None,
      ))  # fmt: skip
  return rows, spreads
