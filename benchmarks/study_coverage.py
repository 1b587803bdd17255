"""Do the study's intervals hold what they promise?

  python -m benchmarks.study_coverage --simulations 1000

Raters and clips are drawn anew in every simulation, with known bias and
spread; counted is how often the 95 % interval holds the population's value.
"""

import argparse
from collections.abc import Iterator

import numpy as np
from scipy import special, stats

from mmdiff_jax.study.serving.simulate import (
  SCORE_CUTS,
  World,
  score_answer,
  turing_answer,
)
from mmdiff_jax.study.statistics import bootstrap, detection, ordinal, pairs
from mmdiff_jax.study.statistics.votes import Votes

SYSTEMS = ("real", "good")
RATERS, SOURCES, PER_RATER = 40, 60, 30
UNDECIDED = 0.4
WORLD = World()
# Log odds against real, and spreads, of the ordinal model's simulation.
EFFECT, SPREADS = -0.8, (0.7, 0.5)


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
  area = of_good @ (np.cumsum(of_real) - of_real / 2)
  ends = stats.norm.cdf(SCORE_CUTS, good, spread)
  score = np.diff(ends, prepend=0, append=1) @ np.arange(1, 6)
  gap = stats.norm(real - good, np.sqrt(2) * WORLD.noise)
  wins = gap.sf(UNDECIDED) + (gap.cdf(UNDECIDED) - gap.cdf(-UNDECIDED)) / 2
  table = 1e9 * np.array([[0, wins], [1 - wins, 0]])
  return {
    "fooled rate": float(stats.norm.cdf(-z_hit)),
    "d'": float(z_hit - z_false),
    "criterion": float(-(z_hit + z_false) / 2),
    "ROC area": float(area),
    "mean opinion score": float(score),
    "log strength": float(pairs.strengths(table)[0]),
  }


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
    "log strength": strength["real"],
  }  # fmt: skip


def ordinal_interval(rng: np.random.Generator) -> bootstrap.Interval:
  """The mixed model's interval of EFFECT, on data of that very model."""
  rater, source, place = _layout(rng)
  eta = EFFECT * place
  eta += rng.normal(0, SPREADS[0], RATERS)[rater]
  eta += rng.normal(0, SPREADS[1], SOURCES)[source]
  cuts = np.array([-2.0, -0.7, 0.6, 2.0])
  uniform = rng.random(len(rater))
  score = 1 + (uniform[:, None] > special.expit(cuts - eta[:, None])).sum(1)
  fitted = ordinal.fit(score, place[:, None] == 1, rater, source)
  return fitted.effects[0]


def coverage(
  simulations: int, draws: int, seed: int = 0
) -> dict[str, list[bool]]:
  """Whether each simulation's intervals held the truth, by quantity."""
  values = truth()
  held: dict[str, list[bool]] = {name: [] for name in values}
  for rng in _generators(simulations, seed):
    for name, found in intervals(simulate(rng), draws, rng).items():
      held[name].append(found.low <= values[name] <= found.high)
  return held


def ordinal_coverage(simulations: int, seed: int = 0) -> list[bool]:
  """The same of the ordinal mixed model."""
  found = map(ordinal_interval, _generators(simulations, seed))
  return [one.low <= EFFECT <= one.high for one in found]


def _generators(number: int, seed: int) -> Iterator[np.random.Generator]:
  return map(np.random.default_rng, np.random.SeedSequence(seed).spawn(number))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--simulations", type=int, default=1000)
  parser.add_argument("--draws", type=int, default=500)
  options = parser.parse_args()
  print(f"{RATERS} raters, {SOURCES} sources, {PER_RATER} votes of a rater")
  print("| quantity | intervals that hold the truth |")
  print("| --- | --- |")
  _show(coverage(options.simulations, options.draws))
  # The slower part by far.
  _show({"log odds (ordinal model)": ordinal_coverage(options.simulations)})


def _show(held: dict[str, list[bool]]) -> None:
  for name, hits in held.items():
    share = np.mean(hits)
    error = np.sqrt(share * (1 - share) / len(hits))
    print(f"| {name} | {share:.3f} ± {error:.3f} of {len(hits)} |", flush=True)


if __name__ == "__main__":
  main()
