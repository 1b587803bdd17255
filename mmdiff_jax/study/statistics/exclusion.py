"""Who is left out, by rules stated before the study."""

import dataclasses

import numpy as np

from mmdiff_jax.study.settings import FAULTS, SCALES, Exclusion
from mmdiff_jax.study.statistics.votes import Votes

# What breaking the rule of each fact is called, in the order of the facts.
_REASONS = {
  "completed": "too few answers",
  "failed_traps": "traps missed",
  "same_answer": "always the same answer",
  "repeat_gap": "unlike oneself",
  "seconds": "faster than one can judge",
  "false_faults": "faults seen everywhere",
}


def limits(rules: Exclusion) -> str:
  """The rules in words: "completed at least 0.9, failed traps ..."."""
  words = {"min": "at least", "max": "at most"}
  stated = []
  for name, limit in dataclasses.asdict(rules).items():
    bound, _, fact = name.partition("_")
    stated.append(f"{fact.replace('_', ' ')} {words[bound]} {limit:g}")
  return ", ".join(stated)


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What was seen of a rater, and the rules that were broken (if any)."""

  rater: str
  facts: dict[str, float]
  reasons: tuple[str, ...]


def judge(
  votes: Votes, lengths: dict[str, int], rules: Exclusion
) -> list[Verdict]:
  """Judges the raters of one task.

  Facts that a rater has no trials for are nan and break no rule.

  Args:
    votes: of the task, all kinds.
    lengths: number of trials of each rater's place.
    rules: the limits.
  """
  verdicts = []
  for rater in np.unique(votes.rater):
    facts = _facts(votes.where(votes.rater == rater), lengths[rater])
    reasons = tuple(
      reason for fact, reason in _REASONS.items()
      if _breaks(facts[fact], fact, rules)
    )  # fmt: skip
    verdicts.append(Verdict(str(rater), facts, reasons))
  return verdicts


def _breaks(value: float, fact: str, rules: Exclusion) -> bool:
  least = getattr(rules, f"min_{fact}", -np.inf)
  most = getattr(rules, f"max_{fact}", np.inf)
  return value < least or value > most


def _facts(own: Votes, length: int) -> dict[str, float]:
  regular = own.where(own.kind == "regular")
  trap = own.where(own.kind == "trap")
  sound = own.where((own.kind == "regular") | (own.kind == "repeat"))
  return {
    "completed": len(own) / length,
    "failed_traps": _mean(~noticed(trap)),
    # Of the scale with the most variety: one that hardly varies may be true.
    "same_answer": min(
      (_commonest(v) for v in regular.values.values()), default=np.nan
    ),
    "repeat_gap": _repeat_gap(own),
    "seconds": float(np.median(own.seconds)) if len(own) else np.nan,
    "false_faults": _mean(sound.fault),
  }


def noticed(trap: Votes) -> np.ndarray:
  """Which traps were noticed `[N]`: ticked, or marked down.

  Marked down is: 1 or 2 on the scale that the fault spoils; "generated,
  certain"; the other clip of the pair preferred.
  """
  if trap.task == "opinion":
    low = [
      trap.values[FAULTS[kind]][i] <= 2 for i, kind in enumerate(trap.trap)
    ]
  elif trap.task == "turing":
    low = trap.values["origin"] == 6
  else:
    low = trap.values["preferred"] == np.where(trap.trap_side == 0, 3, 1)
  return trap.fault.astype(bool) | np.array(low, bool)


def _repeat_gap(own: Votes) -> float:
  """Mean difference between two answers to one clip; 5-point scales only.

  On "real or generated" an honest rater who cannot tell differs, too.
  """
  if own.task != "opinion":
    return np.nan
  gaps = []
  for i in np.flatnonzero(own.kind == "repeat"):
    same = (own.stimulus == own.stimulus[i]) & (own.kind == "regular")
    for first in np.flatnonzero(same):
      gaps += [abs(int(v[i]) - int(v[first])) for v in own.values.values()]
  return _mean(np.array(gaps))


def _commonest(values: np.ndarray) -> float:
  if not len(values):
    return np.nan
  return float(np.unique(values, return_counts=True)[1].max() / len(values))


def _mean(values: np.ndarray) -> float:
  return float(np.mean(values)) if len(values) else np.nan


def self_agreement(votes: Votes) -> float:
  """Share of repeats answered as the first time, over scales and raters.

  "Real or generated" is compared without the certainty.
  """
  same = []
  for i in np.flatnonzero(votes.kind == "repeat"):
    first = np.flatnonzero(
      (votes.stimulus == votes.stimulus[i])
      & (votes.rater == votes.rater[i])
      & (votes.kind == "regular")
    )
    for scale in SCALES[votes.task]:
      values = votes.values[scale]
      values = values > 3 if scale == "origin" else values
      same += [values[i] == values[f] for f in first]
  return _mean(np.array(same))
