"""Who rates what: balance counted by brute force."""

import collections
import itertools

import numpy as np
import pytest
from scipy import stats

from mmdiff_jax.study.building import design
from mmdiff_jax.study.building.design import Stimulus


def stimuli(systems, sources):
  return [
    Stimulus((f"{system}-{source}",), system, str(source))
    for system in systems
    for source in range(sources)
  ]


@pytest.mark.parametrize(
  ("systems", "sources", "votes", "size"),
  [(2, 40, 5, 20), (3, 24, 5, 18), (4, 30, 4, 21), (3, 20, 3, 20)],
)
def test_blocks_are_balanced(systems, sources, votes, size):
  everything = stimuli("abcd"[:systems], sources)
  rng = np.random.default_rng(1)
  blocks = design.blocks(everything, votes, size, rng)
  seen = collections.Counter(s.clips for block in blocks for s in block)
  assert len(seen) == len(everything)
  assert votes - 1 <= min(seen.values()) <= max(seen.values()) <= votes + 1
  assert sum(seen.values()) >= votes * len(everything)
  for block in blocks:
    assert len({s.source for s in block}) == len(block) == size


@pytest.mark.parametrize("systems", [2, 3])
def test_systems_are_balanced_over_raters_and_not_within_them(systems):
  everything = stimuli("abc"[:systems], 60)
  rng = np.random.default_rng(5)
  blocks = design.blocks(everything, 20, 30, rng)
  counts = np.array(
    [[sum(s.system == n for s in b) for n in "abc"[:systems]] for b in blocks]
  )
  assert set(counts.sum(0)) == {1200}
  # As by tosses of a coin: their variance, within what chance allows.
  share = 1 / systems
  spread = counts.var(0) / (30 * share * (1 - share))
  low, high = stats.chi2.ppf([1e-4, 1 - 1e-4], len(blocks)) / len(blocks)
  assert (low < spread).all() and (spread < high).all()


def meetings(blocks):
  """How often each pair that met at all did."""
  together = collections.Counter(
    frozenset((a.clips, b.clips))
    for block in blocks
    for a, b in itertools.combinations(block, 2)
  )
  return np.array(list(together.values()))


def test_pairs_of_stimuli_meet_more_evenly_than_by_chance():
  everything = stimuli("ab", 40)
  rng = np.random.default_rng(2)
  ours = meetings(design.blocks(everything, 5, 20, rng))
  chance = []
  for _ in range(20):
    orders = [rng.permutation(40)[:20] for _ in range(20)]
    chance.append(
      meetings(
        [
          [everything[s + 40 * (i % 2)] for i, s in enumerate(order)]
          for order in orders
        ]
      )  # fmt: skip
    )
  assert ours.sum() == chance[0].sum()
  assert (ours**2).sum() < min((met**2).sum() for met in chance)


def test_unequal_systems_are_rated_equally_often():
  everything = stimuli("a", 60) + [
    Stimulus((f"b-{i}",), "b", f"other {i}") for i in range(20)
  ]
  blocks = design.blocks(everything, 5, 20, np.random.default_rng(0))
  seen = collections.Counter(s.clips for block in blocks for s in block)
  assert set(seen.values()) <= {4, 5, 6}


def test_more_clips_than_sources_are_refused():
  with pytest.raises(ValueError, match="lower per_rater"):
    design.blocks(stimuli("ab", 5), 5, 6, np.random.default_rng(0))


def bets(trials):
  """Who knows the order's rule and what came before: (bets won, bets made).

  Four ways to bet on a trial's system: the other one than the last; the last
  again; the one seen least so far; what followed these last two most often
  with all other raters.
  """
  names = sorted({system for order in trials for system in order})
  after = collections.Counter()
  for order in trials:
    after.update(zip(order, order[1:], order[2:], strict=False))
  won, made = np.zeros(4, int), np.zeros(4, int)
  for order in trials:
    own = collections.Counter(zip(order, order[1:], order[2:], strict=False))
    for place in range(2, len(order)):
      before, truth = order[:place], order[place]
      two = tuple(before[-2:])
      guesses = (
        next(n for n in names if n != before[-1]),
        before[-1],
        min(names, key=before.count),
        max(names, key=lambda n: (after - own)[*two, n]),
      )
      won += [guess == truth for guess in guesses]
      made += 1
  return won, made


def test_a_rater_who_bets_on_the_order_is_at_chance():
  everything = stimuli("ab", 40)
  practice = [Stimulus((f"t{i}",), "a", f"t{i}") for i in range(3)]
  rng = np.random.default_rng(11)
  orders = []
  for _ in range(12):
    for block in design.blocks(everything, 5, 40, rng):
      trials = design.slot_trials(block, practice, [], 0.1, 0.05, rng)
      kinds = (t for t in trials if t.kind == "regular")
      orders.append([t.clips[0][0] for t in kinds])
  won, made = bets(orders)
  assert made[0] == 120 * 38
  low, high = stats.binom.ppf([1e-4, 1 - 1e-4], made[0], 0.5)
  assert (low <= won).all() and (won <= high).all(), won / made
  # Wherever a trial stands, either may come.
  places = np.mean(np.array(orders) == "a", axis=0)
  low, high = stats.binom.ppf([1e-4, 1 - 1e-4], 120, 0.5) / 120
  assert low <= places.min() and places.max() <= high


def test_bets_on_an_order_with_a_rule_are_won():
  # As a Williams square of two has it, and decks of equal counts.
  won, made = bets([list("abba" * 10), list("baab" * 10)] * 20)
  assert won[3] == made[3]
  won, made = bets([list("ab" * 20)] * 20)
  assert won[0] == made[0] and won[1] == 0
  rng = np.random.default_rng(0)
  equal = [list(rng.permutation(list("ab" * 20))) for _ in range(120)]
  won, made = bets(equal)
  assert (
    won[2] / made[2] > 0.55 > stats.binom.ppf(1 - 1e-4, made[2], 0.5) / made[2]
  )


def test_repeats_and_traps_have_their_shares_and_places():
  everything = stimuli("ab", 40)
  traps = [Stimulus((f"trap {i}",), "a", str(i)) for i in range(12)]
  training = [Stimulus((f"training {i}",), "a", f"t{i}") for i in range(3)]
  rng = np.random.default_rng(4)
  places = []
  for block in design.blocks(everything, 5, 40, rng):
    trials = design.slot_trials(block, training, traps, 0.1, 0.05, rng)
    kinds = [t.kind for t in trials]
    assert kinds[:3] == ["training"] * 3 and "training" not in kinds[3:]
    count = collections.Counter(kinds)
    assert (count["regular"], count["repeat"], count["trap"]) == (40, 4, 3)
    assert kinds[3] != "trap"
    first = {t.clips: i for i, t in reversed(list(enumerate(trials)))}
    for i, trial in enumerate(trials):
      if trial.kind == "repeat":
        assert i - first[trial.clips] >= 5
    shown = [t.clips for t in trials if t.kind == "trap"]
    assert len(set(shown)) == 3
    places += [i for i, kind in enumerate(kinds) if kind == "trap"]
  assert len(set(places)) > 8


def test_each_system_is_a_as_often_as_b():
  pairs = design.pairs_of(stimuli("abc", 10), np.random.default_rng(0))
  assert len(pairs) == 30
  first = collections.Counter(
    (p.system, p.clips[0].split("-")[0]) for p in pairs
  )
  assert set(first.values()) == {5} and len(first) == 6
