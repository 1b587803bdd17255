"""How many raters and clips? What a study can show, before it is run.

A mean over R raters, S clips and R k votes has the variance

  s_rater^2 / R + s_source^2 / S + s_noise^2 / (R k),

of which more votes lower only the last part, more clips only the second.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from scipy import stats

from mmdiff_jax.study.statistics.votes import Votes

# Parts of the variance, as found in studies of this kind: of a vote "real"
# at one half, and of a 5-point score.
RATE_PARTS = {"rater": 0.12, "source": 0.10, "noise": 0.47}
SCORE_PARTS = {"rater": 0.45, "source": 0.35, "noise": 0.75}


@dataclasses.dataclass(frozen=True)
class Parts:
  """Standard deviations by "rater", "source" and "noise" of both kinds."""

  rate: dict[str, float]
  score: dict[str, float]


ASSUMED = Parts(RATE_PARTS, SCORE_PARTS)


def spreads(
  values: np.ndarray, system: np.ndarray, rater: np.ndarray, source: np.ndarray
) -> dict[str, float]:
  """Standard deviations of raters, sources and single votes, by moments.

  Two votes of one rater share the rater's part alone, two on one source the
  source's: the mean product of their deviations is its variance.

  Args:
    values: `[N]` votes.
    system: `[N]`, whose means are taken away.
    rater: `[N]`.
    source: `[N]`.
  """
  kind = np.unique(system, return_inverse=True)[1]
  means = np.bincount(kind, values) / np.bincount(kind)
  rest = values - means[kind]

  def shared(labels: np.ndarray) -> float:
    index = np.unique(labels, return_inverse=True)[1]
    number = np.bincount(index)
    products = np.bincount(index, rest) ** 2 - np.bincount(index, rest**2)
    pairs = (number * (number - 1)).sum()
    return max(0.0, float(products.sum() / max(pairs, 1)))

  by_rater, by_source = shared(rater), shared(source)
  noise = max(0.0, float(rest.var()) - by_rater - by_source)
  parts = {"rater": by_rater, "source": by_source, "noise": noise}
  return {name: float(np.sqrt(part)) for name, part in parts.items()}


def pilot_parts(votes: dict[str, Votes]) -> Parts:
  """The parts that a pilot shows; of a task without votes, the assumed ones.

  Args:
    votes: by task, as `load_votes` gives them.
  """
  found = {"turing": ASSUMED.rate, "opinion": ASSUMED.score}
  for task in found.keys() & votes.keys():
    own = votes[task].where(votes[task].kind == "regular")
    labels = own.system, own.rater, own.source
    scales = [
      spreads((v <= 3 if task == "turing" else v).astype(float), *labels)
      for v in own.values.values()
    ]
    # Of several scales, the root of the mean variance.
    found[task] = {
      name: float(np.sqrt(np.mean([s[name] ** 2 for s in scales])))
      for name in scales[0]
    }
  return Parts(found["turing"], found["opinion"])


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


def plan_table(
  raters: Iterable[int], clips: int, per_rater: int, parts: Parts = ASSUMED
) -> str:
  """A Markdown table of what numbers of raters can show.

  Args:
    raters: numbers of them, a row for each.
    clips: of a system.
    per_rater: clips of a system that a rater sees.
    parts: of the variance.

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
    "differences found with a power of 80 %.",
    "Spreads: "
    + "; ".join(
      f"{kind}: " + ", ".join(f"{n} {s:.2f}" for n, s in own.items())
      for kind, own in dataclasses.asdict(parts).items()
    )
    + ".",
    "",
    "| raters | votes per clip | fooled rate ± | difference of rates "
    "| score ± | difference of scores |",
    "| --- | --- | --- | --- | --- | --- |",
  ]
  for number in raters:
    freedom = min(number, clips) - 1
    half = stats.t.ppf(0.975, freedom)
    cells = [str(number), f"{number * per_rater / clips:.1f}"]
    for kind in (parts.rate, parts.score):
      own = standard_error(number, clips, per_rater, kind)
      both = difference_error(number, clips, per_rater, kind)
      cells += [f"{half * own:.3f}", f"{detectable(both, freedom):.3f}"]
    lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines)
