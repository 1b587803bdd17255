"""Who rates what, and in which order.

A rater's place ("slot") is a list of trials. Within a task

* every stimulus is rated equally often (at most one time more or less);
* a rater meets at most one version of a source, and pairs of stimuli meet in
  as few raters as can be: balanced incomplete blocks, found greedily;
* systems are dealt to all places of all raters from one shuffled deck, which
  holds each in proportion to its stimuli: the counts are balanced over the
  raters, and what a rater has seen says nothing of what comes next (balance
  within a rater would: whoever counts could bet);
* repeats come late after the first showing; traps anywhere but first.
"""

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from mmdiff_jax.study.folder import Trial

# Of fewer, one lapse would be half of all or more.
_FEWEST_TRAPS = 3


@dataclasses.dataclass(frozen=True)
class Stimulus:
  """What one trial shows.

  Attributes:
    clips: the id of a clip, or of the two of a pair, the first as A.
    system: that it counts for; of a pair, both as "a|b".
    source: that it is a version of.
  """

  clips: tuple[str, ...]
  system: str
  source: str


def blocks(
  stimuli: Sequence[Stimulus],
  votes: int,
  per_rater: int,
  rng: np.random.Generator,
) -> list[list[Stimulus]]:
  """Each rater's stimuli in their order; the module's first lines say how.

  Raises:
    ValueError: if there are fewer sources than one rater should see.
  """
  sources = {s.source for s in stimuli}
  per_rater = min(per_rater, len(stimuli))
  if per_rater > len(sources):
    raise ValueError(
      f"per_rater={per_rater}, but there are {len(sources)} sources, of which "
      "a rater sees one version each; lower per_rater or add clips."
    )
  number = math.ceil(len(stimuli) * votes / per_rater)
  counts = np.zeros(len(stimuli), int)
  together = np.zeros((len(stimuli), len(stimuli)), np.int32)
  source = np.unique([s.source for s in stimuli], return_inverse=True)[1]
  system = np.unique([s.system for s in stimuli], return_inverse=True)[1]
  result = []
  for dealt in _deal(system, number * per_rater, rng).reshape(number, -1):
    chosen = _block(dealt, counts, together, source, system, rng)
    counts[chosen] += 1
    together[np.ix_(chosen, chosen)] += 1
    result.append([stimuli[i] for i in chosen])
  return result


def _deal(
  system: np.ndarray, places: int, rng: np.random.Generator
) -> np.ndarray:
  """A system for each of so many places, in proportion, shuffled."""
  share = np.bincount(system) * places / len(system)
  number = share.astype(int)
  # What is left goes to the largest remainders.
  short = np.lexsort((rng.random(len(share)), number - share))
  number[short[: places - number.sum()]] += 1
  return rng.permutation(np.repeat(np.arange(len(number)), number))


def _block(dealt, counts, together, source, system, rng) -> list[int]:
  """Indices of the next rater's stimuli, of the systems that were dealt."""
  chosen: list[int] = []
  free = np.ones(len(counts), bool)
  met = np.zeros(len(counts))
  tie = rng.random(len(counts))
  # Votes on the versions of each stimulus's source: those whose others have
  # had more are due.
  due = counts - np.bincount(source, counts)[source] / 2
  for wanted in dealt:
    # Of the wanted system, if there is one left, the stimulus rated least; of
    # these the one that met the chosen ones least.
    order = np.lexsort((tie, met, due, counts, system != wanted, ~free))
    pick = int(order[0])
    chosen.append(pick)
    free[source == source[pick]] = False
    met += together[pick]
  return chosen


def slot_trials(
  regular: Sequence[Stimulus],
  training: Sequence[Stimulus],
  traps: Sequence[Stimulus],
  repeats: float,
  trap_share: float,
  rng: np.random.Generator,
) -> list[Trial]:
  """One rater's trials: training, then the rest with repeats and traps.

  Args:
    regular: in their order.
    training: shown first, in this order.
    traps: to draw from; those of sources that the rater meets come last.
    repeats: of the regular ones, the share shown twice.
    trap_share: of all but training, the share of traps; unless 0, three at
      least.
    rng: chooses.
  """
  trials = [Trial("regular", s.clips) for s in regular]
  number = math.ceil(repeats * len(regular)) if repeats else 0
  early = rng.permutation(max(1, len(regular) // 2))[:number]
  for index in sorted(early):
    # The second showing is at least a quarter of the session later.
    low = min(len(trials), int(index) + max(2, len(regular) // 4))
    place = int(rng.integers(low, len(trials) + 1))
    trials.insert(place, Trial("repeat", regular[index].clips))
  count = math.ceil(trap_share * len(trials) / (1 - trap_share))
  if trap_share:
    count = max(count, _FEWEST_TRAPS)
  count = min(count, len(traps))
  seen = {s.source for s in regular}
  pool = [traps[i] for i in rng.permutation(len(traps))]
  pool.sort(key=lambda s: s.source in seen)
  for number, trap in enumerate(pool[:count]):
    # One in each part of the session.
    low = 1 + number * len(trials) // count
    high = max(low + 1, (number + 1) * len(trials) // count)
    place = int(rng.integers(low, high))
    trials.insert(place, Trial("trap", trap.clips))
  return [Trial("training", s.clips) for s in training] + trials


def pairs_of(
  stimuli: Sequence[Stimulus], rng: np.random.Generator
) -> list[Stimulus]:
  """All pairs of versions of each source, each system as A equally often."""
  by_source = defaultdict(list)
  for stimulus in stimuli:
    by_source[stimulus.source].append(stimulus)
  by_name = defaultdict(list)
  for source in sorted(by_source):
    versions = sorted(by_source[source], key=lambda s: s.system)
    for pair in itertools.combinations(versions, 2):
      by_name["|".join(s.system for s in pair)].append(pair)
  pairs = []
  for name, found in by_name.items():
    # Half of them the other way round, and of an odd number by chance.
    turned = (rng.permutation(len(found)) + rng.integers(2)) % 2
    for turn, pair in zip(turned, found, strict=True):
      a, b = pair[::-1] if turn else pair
      pairs.append(Stimulus(a.clips + b.clips, name, a.source))
  return pairs
