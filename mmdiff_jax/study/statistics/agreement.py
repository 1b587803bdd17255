"""Do raters agree? Krippendorff's alpha."""

import warnings
from typing import Literal

import krippendorff
import numpy as np

from mmdiff_jax.study.statistics.bootstrap import Interval
from mmdiff_jax.study.statistics.votes import Votes

# Of which kind the answers to each scale are.
LEVELS: dict[str, Literal["nominal", "ordinal"]] = {
  "origin": "nominal",
  "video": "ordinal",
  "audio": "ordinal",
  "match": "ordinal",
  "preferred": "ordinal",
}


def alpha(
  votes: Votes, scale: str, draws: int, rng: np.random.Generator
) -> Interval | None:
  """Alpha of one scale: 1 for agreement, 0 for chance.

  "origin" counts as real or generated, without the certainty (nominal); the
  others are ordinal. A pair shown as B and A is turned round. The interval is
  the bootstrap's over stimuli.

  Args:
    votes: regular ones.
    scale: of the task.
    draws: of the bootstrap.
    rng: draws.

  Returns:
    None where no stimulus has two votes or all votes are the same.
  """
  values = votes.values[scale].astype(float)
  if scale == "origin":
    values = (values > 3).astype(float)
  if scale == "preferred":
    values = np.where(votes.system > votes.other, 4 - values, values)
  rater = np.unique(votes.rater, return_inverse=True)[1]
  unit = np.unique(votes.stimulus, return_inverse=True)[1]
  table = np.full((rater.max() + 1, unit.max() + 1), np.nan)
  table[rater, unit] = values
  table = table[:, (~np.isnan(table)).sum(0) > 1]
  if not table.size or np.nanmin(table) == np.nanmax(table):
    return None
  level = LEVELS[scale]
  # Counts of values per unit are all that alpha needs, and much smaller.
  domain = np.unique(values)
  counts = np.stack([(table == v).sum(0) for v in domain], 1)

  def of(rows: np.ndarray) -> float:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", RuntimeWarning)
      return krippendorff.alpha(
        value_counts=rows, value_domain=domain, level_of_measurement=level
      )

  units = len(counts)
  drawn = []
  for _ in range(draws):
    rows = counts[rng.integers(units, size=units)]
    if np.count_nonzero(rows.sum(0)) > 1:
      drawn.append(of(rows))
  low, high = np.quantile(drawn, (0.025, 0.975))
  return Interval(float(of(counts)), float(low), float(high))
