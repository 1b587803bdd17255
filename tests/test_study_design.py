"""Who rates what: balance counted by brute force."""

import collections
import itertools

import numpy as np
import pytest

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
    each = collections.Counter(s.system for s in block)
    assert len(each) == systems
    assert max(each.values()) - min(each.values()) <= 1


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


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6, 7])
def test_williams_square_balances_places_and_neighbours(size):
  square = design.williams_square(size)
  for column in square.T:
    assert len(set(np.bincount(column, minlength=size))) == 1
  neighbours = collections.Counter(
    pair for row in square for pair in itertools.pairwise(row.tolist())
  )
  assert len(neighbours) == size * (size - 1)
  assert len(set(neighbours.values())) == 1


def test_systems_take_turns_over_the_raters():
  everything = stimuli("abc", 24)
  rng = np.random.default_rng(3)
  blocks = design.blocks(everything, 6, 18, rng)[:24]
  rows = [design.ordered(block, i) for i, block in enumerate(blocks)]
  for row, block in zip(rows, blocks, strict=True):
    assert sorted(s.clips for s in row) == sorted(s.clips for s in block)
  for place in range(18):
    each = collections.Counter(row[place].system for row in rows)
    assert set(each.values()) == {8}


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
  pairs = design.pairs_of(stimuli("abc", 10))
  assert len(pairs) == 30
  first = collections.Counter(
    (p.system, p.clips[0].split("-")[0]) for p in pairs
  )
  assert set(first.values()) == {5} and len(first) == 6
