"""Preferences: Bradley and Terry's strengths.

P(i is preferred to j) = s_i / (s_i + s_j); "no difference" counts as half a
preference for either.
"""

import dataclasses
import itertools

import numpy as np

from mmdiff_jax.study.statistics.bootstrap import Interval, t_interval, two_way
from mmdiff_jax.study.statistics.votes import Votes


@dataclasses.dataclass(frozen=True)
class Strength:
  """A system's log strength, the mean of all being 0."""

  system: str
  strength: Interval
  preferred: float
  undecided: float


def strengths(wins: np.ndarray, rounds: int = 200) -> np.ndarray:
  """Maximum likelihood by Hunter's (2004) minorise-maximise steps.

  Args:
    wins: `[..., M, M]`, how often the row was preferred to the column. Half
      a win each way is added for pairs that were compared, so that nobody's
      strength is infinite.
    rounds: number of steps at most.

  Returns:
    Log strengths `[..., M]` of mean 0.
  """
  compared = (wins + np.swapaxes(wins, -1, -2)) > 0
  wins = wins + 0.5 * compared
  games = wins + np.swapaxes(wins, -1, -2)
  total = wins.sum(-1)
  strength = np.ones(total.shape)
  for _ in range(rounds):
    both = strength[..., :, None] + strength[..., None, :]
    strength = total / np.maximum((games / both).sum(-1), 1e-12)
    strength = np.maximum(strength, 1e-12)
    mean = np.log(strength).mean(-1, keepdims=True)
    before, strength = strength, strength / np.exp(mean)
    if np.allclose(before, strength, rtol=0, atol=1e-10):
      break
  return np.log(strength)


def preferences(
  votes: Votes, draws: int, rng: np.random.Generator
) -> list[Strength]:
  """Analyses the regular votes of the preference task.

  Args:
    votes: regular ones.
    draws: of the bootstrap.
    rng: draws.
  """
  systems = sorted(set(votes.system) | set(votes.other))
  place = {name: i for i, name in enumerate(systems)}
  a = np.array([place[s] for s in votes.system])
  b = np.array([place[s] for s in votes.other])
  # 1: A, 2: no difference, 3: B.
  for_a = (3 - votes.values["preferred"]) / 2
  number = len(systems)
  columns = np.zeros((len(votes), number, number))
  columns[np.arange(len(votes)), a, b] = for_a
  columns[np.arange(len(votes)), b, a] = 1 - for_a

  def statistic(sums: np.ndarray) -> np.ndarray:
    return strengths(sums.reshape(*sums.shape[:-1], number, number))

  value, error, freedom = two_way(
    columns.reshape(len(votes), -1),
    votes.rater,
    votes.source,
    statistic,
    draws,
    rng,
  )
  result = []
  for i, system in enumerate(systems):
    own = (a == i) | (b == i)
    mine = np.where(a == i, for_a, 1 - for_a)[own]
    result.append(
      Strength(
        system,
        t_interval(value[i], error[i], freedom),
        float(np.mean(mine == 1)),
        float(np.mean(mine == 0.5)),
      )
    )
  return result


def win_table(votes: Votes) -> dict[tuple[str, str], tuple[int, int, int]]:
  """(first preferred, undecided, second preferred) of each pair."""
  systems = sorted(set(votes.system) | set(votes.other))
  table = {}
  for first, second in itertools.combinations(systems, 2):
    forth = (votes.system == first) & (votes.other == second)
    back = (votes.system == second) & (votes.other == first)
    answer = votes.values["preferred"]
    answer = np.concatenate([answer[forth], 4 - answer[back]])
    if len(answer):
      counts = np.bincount(answer, minlength=4)[1:]
      table[first, second] = (int(counts[0]), int(counts[1]), int(counts[2]))
  return table
