"""Who rates what, and in which order.

A rater's place ("slot") is a list of trials. Within a task

* every stimulus is rated equally often (at most one time more or less);
* a rater meets at most one version of a source, each system in proportion to
  its stimuli, and pairs of stimuli meet in as few raters as can be: balanced
  incomplete blocks, found greedily;
* systems follow each other as in a Williams square: over the raters, each
  stands at each place, and after each other one, equally often;
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


def williams_square(size: int) -> np.ndarray:
  """Rows that balance places and neighbours `[size or 2 size, size]`.

  Williams (1949): each value stands once in each column per `size` rows; each
  ordered pair of values is adjacent equally often (odd sizes need the
  mirrored rows for it).
  """
  first = [0]
  for step in range(1, size):
    half = (step + 1) // 2
    first.append(half if step % 2 else size - half)
  square = (np.array(first)[None] + np.arange(size)[:, None]) % size
  return square if size % 2 == 0 else np.concatenate([square, square[:, ::-1]])


def blocks(
  stimuli: Sequence[Stimulus],
  votes: int,
  per_rater: int,
  rng: np.random.Generator,
) -> list[list[Stimulus]]:
  """Divides stimuli among raters; the module's first lines say how.

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
  for _ in range(number):
    chosen = _block(counts, together, source, system, per_rater, rng)
    counts[chosen] += 1
    together[np.ix_(chosen, chosen)] += 1
    result.append([stimuli[i] for i in chosen])
  return result


def _block(counts, together, source, system, size, rng) -> list[int]:
  """Indices of the next rater's stimuli: the neediest, by the rules."""
  chosen: list[int] = []
  free = np.ones(len(counts), bool)
  shares = np.bincount(system) / len(system)
  shown = np.zeros(len(shares))
  met = np.zeros(len(counts))
  tie = rng.random(len(counts))
  for _ in range(size):
    # First the system shown least, then the stimulus rated least; of these
    # the one that met the chosen ones least.
    due = np.round(shown / shares, 6)
    order = np.lexsort((tie, met, counts, due[system], ~free))
    pick = int(order[0])
    chosen.append(pick)
    free[source == source[pick]] = False
    shown[system[pick]] += 1
    met += together[pick]
  return chosen


def ordered(block: Sequence[Stimulus], row: int) -> list[Stimulus]:
  """Puts a rater's stimuli in the order of the Williams square's rows."""
  systems = sorted({s.system for s in block})
  queues = {name: [s for s in block if s.system == name] for name in systems}
  square = williams_square(len(systems))
  result: list[Stimulus] = []
  for number in itertools.count():
    if len(result) == len(block):
      return result
    for place in square[(row + number) % len(square)]:
      if queues[systems[place]]:
        result.append(queues[systems[place]].pop(0))
  raise AssertionError("unreachable")


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


def pairs_of(stimuli: Sequence[Stimulus]) -> list[Stimulus]:
  """All pairs of versions of each source, each system as A equally often."""
  by_source = defaultdict(list)
  for stimulus in stimuli:
    by_source[stimulus.source].append(stimulus)
  flips: dict[str, int] = defaultdict(int)
  pairs = []
  for source in sorted(by_source):
    versions = sorted(by_source[source], key=lambda s: s.system)
    for a, b in itertools.combinations(versions, 2):
      name = f"{a.system}|{b.system}"
      first, second = (a, b) if flips[name] % 2 == 0 else (b, a)
      flips[name] += 1
      pairs.append(Stimulus(first.clips + second.clips, name, source))
  return pairs
