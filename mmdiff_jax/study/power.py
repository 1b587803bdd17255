"""How many raters and clips? What a study can show, before it is run.

A mean over R raters, S clips and R k votes has the variance

  s_rater^2 / R + s_source^2 / S + s_noise^2 / (R k),

of which more votes lower only the last part, more clips only the second.
"""

from collections.abc import Iterable

import numpy as np
from scipy import stats

# Parts of the variance, as found in studies of this kind: of a vote "real"
# at one half, and of a 5-point score.
RATE_PARTS = {"rater": 0.12, "source": 0.10, "noise": 0.47}
SCORE_PARTS = {"rater": 0.45, "source": 0.35, "noise": 0.75}


def standard_error(
  raters: int, clips: int, per_rater: int, parts: dict[str, float]
) -> float:
  """Standard error of one system's mean.

  Args:
    raters: R.
    clips: S, of the system.
    per_rater: k, clips of the system that a rater sees.
    parts: standard deviations "rater", "source" and "noise".
  """
  return float(
    np.sqrt(
      parts["rater"] ** 2 / raters
      + parts["source"] ** 2 / clips
      + parts["noise"] ** 2 / (raters * per_rater)
    )
  )


def difference_error(
  raters: int, clips: int, per_rater: int, parts: dict[str, float]
) -> float:
  """Standard error of the difference of two systems that all raters see.

  Raters' severity cancels; clips and noise count twice.
  """
  return float(
    np.sqrt(
      2 * parts["source"] ** 2 / clips
      + 2 * parts["noise"] ** 2 / (raters * per_rater)
    )
  )


def detectable(error: float, freedom: int, power: float = 0.8) -> float:
  """The difference found with a probability at the two-sided 5 % level."""
  critical = stats.t.ppf(0.975, freedom)
  return float((critical + stats.norm.ppf(power)) * error)


def plan_table(raters: Iterable[int], clips: int, per_rater: int) -> str:
  """A Markdown table of what numbers of raters can show.

  Raises:
    ValueError: for numbers below 2 raters or clips, or 1 clip per rater.
  """
  raters = list(raters)
  if min(raters, default=0) < 2 or clips < 2 or not 1 <= per_rater <= clips:
    raise ValueError(
      "--raters and --clips must be at least 2, and --per_rater from 1 to "
      f"--clips; got {raters}, {clips} and {per_rater}."
    )
  lines = [
    f"{clips} clips per system, {per_rater} of each system per rater; "
    "differences found with a power of 80 %:",
    "",
    "| raters | votes per clip | fooled rate ± | difference of rates "
    "| score ± | difference of scores |",
    "| --- | --- | --- | --- | --- | --- |",
  ]
  for number in raters:
    freedom = min(number, clips) - 1
    half = stats.t.ppf(0.975, freedom)
    cells = [str(number), f"{number * per_rater / clips:.1f}"]
    for parts in (RATE_PARTS, SCORE_PARTS):
      own = standard_error(number, clips, per_rater, parts)
      both = difference_error(number, clips, per_rater, parts)
      cells += [f"{half * own:.3f}", f"{detectable(both, freedom):.3f}"]
    lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines)
