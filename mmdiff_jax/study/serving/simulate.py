"""Simulated raters, whose bias and spread are known.

They answer through the same rules as real ones, so that a study, its export
and its report can be tried before anybody is asked.
"""

import dataclasses
import os

import numpy as np

from mmdiff_jax.study.folder import ANSWERS, Study, load_study, load_truth
from mmdiff_jax.study.serving.conduct import Conduct
from mmdiff_jax.study.settings import FAULTS, SCALES
from mmdiff_jax.study.store import Store

CHEATS = ("random", "constant", "hasty")
# Certainty: evidence so far from the criterion.
_CERTAINTY = np.array([0.5, 1.2])
SCORE_CUTS = np.array([-1.5, -0.5, 0.5, 1.5])


@dataclasses.dataclass(frozen=True)
class World:
  """What simulated raters are like; units are standard deviations.

  Attributes:
    quality: mean score of the systems by their place in the alphabet, real
      clips first.
    rater: spread of raters' criteria and severity.
    source: spread of sources.
    noise: of a single answer.
    notices: chance to tick a trap's fault.
  """

  quality: tuple[float, ...] = (1.0, 0.2, -0.6, -1.2)
  rater: float = 0.4
  source: float = 0.3
  noise: float = 0.6
  notices: float = 0.9


def turing_answer(evidence: np.ndarray) -> np.ndarray:
  """Answers 1 to 6 of evidence for "generated" against the criterion."""
  level = np.searchsorted(_CERTAINTY, np.abs(evidence))
  return np.where(evidence > 0, 4 + level, 3 - level)


def score_answer(opinion: np.ndarray) -> np.ndarray:
  """Scores 1 to 5 of opinions."""
  return 1 + np.searchsorted(SCORE_CUTS, opinion)


class _Person:
  """One simulated rater."""

  def __init__(self, world: World, cheat: str, sources, systems, rng):
    self._world, self._cheat, self._rng = world, cheat, rng
    self._sources, self._systems = sources, systems
    self._bias = rng.normal(0, world.rater)

  def pause(self) -> float:
    """Seconds from a clip's end to the answer."""
    if self._cheat == "hasty":
      return 0.05
    return float(self._rng.lognormal(0.9, 0.4))

  def _quality(self, what: dict) -> float:
    worlds = self._world.quality
    place = min(self._systems.index(what["system"]), len(worlds) - 1)
    return worlds[place] + self._sources[what["source"]]

  def answer(self, task: str, shown: list[dict]) -> tuple[dict, bool]:
    """Answers on all scales, and whether a fault is ticked."""
    rng, noise = self._rng, self._world.noise
    scales = SCALES[task]
    if self._cheat == "random":
      return {s: int(rng.integers(1, n + 1)) for s, n in scales.items()}, False
    if self._cheat == "constant":
      return {s: (n + 1) // 2 for s, n in scales.items()}, False
    faulty = any(clip["trap"] for clip in shown)
    ticked = faulty and rng.random() < self._world.notices
    quality = [self._quality(clip) + rng.normal(0, noise) for clip in shown]
    if task == "turing":
      evidence = self._bias + 0.5 - quality[0]
      return {"origin": int(turing_answer(np.array(evidence)))}, ticked
    if task == "preference":
      # Bad enough a fault decides.
      for i, clip in enumerate(shown):
        quality[i] -= 3.0 * bool(clip["trap"])
      gap = quality[0] - quality[1]
      return {"preferred": 2 if abs(gap) < 0.4 else 1 if gap > 0 else 3}, ticked
    opinion = {s: self._bias + quality[0] for s in scales}
    for scale in scales:
      opinion[scale] += rng.normal(0, noise / 2)
    if faulty:
      opinion[FAULTS[shown[0]["trap"]]] -= 3.0
    return {
      s: int(score_answer(np.array(v))) for s, v in opinion.items()
    }, ticked


def answer(
  path: str | os.PathLike,
  raters: int,
  cheaters: int = 0,
  seed: int = 0,
  world: World | None = None,
) -> int:
  """Lets simulated raters answer a study.

  Args:
    path: its folder.
    raters: how many; at most as many as there are places.
    cheaters: how many of them do not look, in the manners `CHEATS`.
    seed: of the raters.
    world: what they are like.

  Returns:
    The number of answers.

  Raises:
    ValueError: if the study has answers, or too few places.
  """
  study = load_study(path)
  if not 0 <= cheaters <= raters <= len(study.slots):
    raise ValueError(
      f"{raters} raters, {cheaters} of them cheaters: the study has "
      f"{len(study.slots)} places."
    )
  # Simulated answers can be made again.
  store = Store(study.path / ANSWERS, durable=False)
  try:
    if store.raters():
      raise ValueError(
        f"{study.path / ANSWERS} has answers: simulated ones are never mixed "
        "with others; build another study."
      )
    return _answer(study, store, raters, cheaters, seed, world or World())
  finally:
    store.close()


def _answer(study: Study, store: Store, raters, cheaters, seed, world) -> int:
  rng = np.random.default_rng(seed)
  truth = load_truth(study)
  names = sorted({clip["source"] for clip in truth.values()})
  sources = dict(
    zip(names, rng.normal(0, world.source, len(names)), strict=True)
  )
  others = {clip["system"] for clip in truth.values()} - {"real"}
  systems = ["real", *sorted(others)]
  now = [0.0]
  conduct = Conduct(study, store, clock=lambda: now[0])
  number = 0
  for index in range(raters):
    cheat = CHEATS[index % len(CHEATS)] if index < cheaters else ""
    person = _Person(world, cheat, sources, systems, rng)
    token = conduct.start(study.settings.languages[0])
    conduct.hear(token, conduct.number_of_tones(token))
    for trial, planned in enumerate(conduct.slot(conduct.rater(token)).trials):
      for side in range(len(planned.clips)):
        conduct.play(token, trial, side)
        now[0] += study.seconds
      now[0] += person.pause()
      shown = [truth[clip] for clip in planned.clips]
      answers, ticked = person.answer(conduct.state(token)["task"], shown)
      conduct.vote(token, trial, list(planned.clips), answers, bool(ticked))
      number += 1
  return number
