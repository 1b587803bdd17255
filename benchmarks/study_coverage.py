"""Do the study's intervals hold what they promise?

  python -m benchmarks.study_coverage --simulations 1000

Raters and clips are drawn anew in every simulation, with known bias and
spread; counted is how often the 95 % interval holds the population's value.
"""

import argparse
from collections.abc import Iterator

import numpy as np
from scipy import stats

from mmdiff_jax.study.serving.simulate import (
  SCORE_CUTS,
  World,
  score_answer,
  turing_answer,
)
from mmdiff_jax.study.statistics import bootstrap, detection, opinion, pairs
from mmdiff_jax.study.statistics.votes import Votes

SYSTEMS = ("real", "good")
RATERS, SOURCES, PER_RATER = 40, 60, 30
UNDECIDED = 0.4
WORLD = World()


def _layout(rng: np.random.Generator):
  """Rater, source and system (0 real) of each vote, one version per rater."""
  rater = np.repeat(np.arange(RATERS), PER_RATER)
  source = np.concatenate(
    [rng.permutation(SOURCES)[:PER_RATER] for _ in range(RATERS)]
  )
  return rater, source, (source + rater) % len(SYSTEMS)


def _votes(task, rater, source, system, other, values) -> Votes:
  number = len(rater)
  stimulus = np.char.add(source.astype(str), system.astype(str))
  return Votes(
    task=task, rater=rater, kind=np.full(number, "regular"), source=source,
    system=system, other=other, stimulus=stimulus,
    trap=np.full(number, ""), trap_side=np.zeros(number, int),
    fault=np.zeros(number, bool), seconds=np.ones(number), values=values,
  )  # fmt: skip


def simulate(rng: np.random.Generator) -> dict[str, Votes]:
  """Votes of new raters on new clips, by the rules of `simulate.World`."""
  rater, source, place = _layout(rng)
  names = np.array(SYSTEMS)[place]
  bias = rng.normal(0, WORLD.rater, RATERS)[rater]
  # Versions of a source share its part.
  worth = rng.normal(0, WORLD.source, SOURCES)[source]
  quality = np.array(WORLD.quality)[place] + worth
  noise = rng.normal(0, WORLD.noise, (3, len(rater)))
  none = np.full(len(rater), "")
  origin = turing_answer(bias + 0.5 - quality + noise[0])
  score = score_answer(bias + quality + noise[0])
  turn = rng.random(len(rater)) < 0.5
  gap = WORLD.quality[0] - WORLD.quality[1] + noise[1] - noise[2]
  gap = np.where(turn, gap, -gap)
  answer = np.where(np.abs(gap) < UNDECIDED, 2, np.where(gap > 0, 1, 3))
  first = np.where(turn, *SYSTEMS)
  second = np.where(turn, *SYSTEMS[::-1])
  layout = (rater, source)
  return {
    "turing": _votes("turing", *layout, names, none, {"origin": origin}),
    "opinion": _votes("opinion", *layout, names, none, {"video": score}),
    "preference": _votes(
      "preference", *layout, first, second, {"preferred": answer}
    ),
  }


def truth() -> dict[str, float]:
  """The population's values, by integration over raters, clips and noise."""
  spread = np.sqrt(WORLD.rater**2 + WORLD.source**2 + WORLD.noise**2)
  real, good = WORLD.quality[:2]
  z_hit, z_false = (0.5 - good) / spread, (0.5 - real) / spread

  def levels(quality: float) -> np.ndarray:
    cuts = np.array([-1.2, -0.5, 0, 0.5, 1.2])
    return np.diff(stats.norm.cdf(cuts, 0.5 - quality, spread),
                   prepend=0, append=1)  # fmt: skip

  of_real, of_good = levels(real), levels(good)
  real_scores, good_scores = (
    np.diff(stats.norm.cdf(SCORE_CUTS, quality, spread), prepend=0, append=1)
    for quality in (real, good)
  )
  gap = stats.norm(real - good, np.sqrt(2) * WORLD.noise)
  wins = gap.sf(UNDECIDED) + (gap.cdf(UNDECIDED) - gap.cdf(-UNDECIDED)) / 2
  table = 1e9 * np.array([[0, wins], [1 - wins, 0]])
  return {
    "fooled rate": float(stats.norm.cdf(-z_hit)),
    "d'": float(z_hit - z_false),
    "criterion": float(-(z_hit + z_false) / 2),
    "ROC area": _higher(of_real, of_good),
    "mean opinion score": float(good_scores @ np.arange(1, 6)),
    "higher than real": _higher(real_scores, good_scores),
    "log strength": float(pairs.strengths(table)[0]),
  }


def _higher(first: np.ndarray, second: np.ndarray) -> float:
  """Chance that an answer is higher, of the shares of both kinds' answers."""
  table = np.outer(first, second)
  return float(np.triu(table, 1).sum() + np.trace(table) / 2)


def intervals(
  votes: dict[str, Votes], draws: int, rng: np.random.Generator
) -> dict[str, bootstrap.Interval]:
  """What the report's functions say of one simulation."""
  (found,) = detection.detect(votes["turing"], draws, rng)
  scores = votes["opinion"]
  own = scores.system == "good"
  strength = {
    s.system: s.strength
    for s in pairs.preferences(votes["preference"], draws, rng)
  }
  return {
    "fooled rate": found.fooled,
    "d'": found.d_prime,
    "criterion": found.criterion,
    "ROC area": found.area,
    "mean opinion score": bootstrap.mean_interval(
      scores.values["video"][own], scores.rater[own], scores.source[own],
      draws, rng,
    ),
    "higher than real": opinion.against_real(
      scores, "video", "good", draws, rng
    ),
    "log strength": strength["real"],
  }  # fmt: skip


def studies(
  simulations: int, draws: int, seed: int = 0
) -> Iterator[dict[str, bootstrap.Interval]]:
  """The intervals of each simulation, by quantity."""
  for child in np.random.SeedSequence(seed).spawn(simulations):
    rng = np.random.default_rng(child)
    yield intervals(simulate(rng), draws, rng)


def coverage(
  simulations: int, draws: int, seed: int = 0
) -> dict[str, list[bool]]:
  """Whether each simulation's intervals held the truth, by quantity."""
  values = truth()
  held: dict[str, list[bool]] = {name: [] for name in values}
  for study in studies(simulations, draws, seed):
    for name, found in study.items():
      held[name].append(found.low <= values[name] <= found.high)
  return held


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--simulations", type=int, default=1000)
  parser.add_argument("--draws", type=int, default=500)
  options = parser.parse_args()
  print(f"{RATERS} raters, {SOURCES} sources, {PER_RATER} votes of a rater")
  print("| quantity | intervals that hold the truth |")
  print("| --- | --- |")
  _show(coverage(options.simulations, options.draws))


def _show(held: dict[str, list[bool]]) -> None:
  for name, hits in held.items():
    share = np.mean(hits)
    error = np.sqrt(share * (1 - share) / len(hits))
    print(f"| {name} | {share:.3f} ± {error:.3f} of {len(hits)} |", flush=True)


if __name__ == "__main__":
  main()
