"""The report's paragraph on how the study was done."""

from collections import Counter

from mmdiff_jax.study.folder import Study, load_truth
from mmdiff_jax.study.statistics.exclusion import limits
from mmdiff_jax.study.store import Store

_TASKS = {
  "turing": "real or generated, with three levels of certainty",
  "opinion": "5-point scores (absolute category rating) of picture, sound and "
  "how they match",
  "preference": "which of two versions of a source is better, or no difference",
}


def methods(study: Study, store: Store) -> list[str]:
  """Sentences with the study's figures, as a paper would have them.

  Args:
    study: as built.
    store: of its answers, whoever gave them.
  """
  return [_people(study, store), _clips(study), _design(study), _rules(study)]


def _people(study: Study, store: Store) -> str:
  raters = store.raters()
  heard = {
    e.rater for e in store.events(kind="tones") if e.data["outcome"] == "passed"
  }
  votes = Counter(event.rater for event in store.events(kind="vote"))
  ended = sum(votes[r.rater] == len(study.slots[r.slot].trials) for r in raters)
  return (
    f"{len(raters)} people agreed to take part; {len(heard)} counted the tones "
    f"of the sound check right, {len(votes)} answered at least one item, "
    f"{ended} all of theirs; {votes.total()} answers in all."
  )


def _clips(study: Study) -> str:
  truth = load_truth(study).values()
  number = Counter(clip["system"] for clip in truth if not clip["trap"])
  faulty = sum(bool(clip["trap"]) for clip in truth)
  each = ", ".join(f"{count} {system}" for system, count in number.items())
  height, width = study.size
  return (
    f"The clips ({each}; {faulty} with a planted fault) last "
    f"{study.seconds:.2f} s each and were brought to {width} × {height} "
    f"pixels, {study.settings.clip.loudness:g} LUFS and one encoding (H.264 "
    "and AAC, files of equal size under random names)."
  )


def _design(study: Study) -> str:
  settings = study.settings
  tasks = "; ".join(
    f"{_TASKS[name]} ({task.per_rater} items of a rater, {task.votes} raters "
    "of an item)"
    for name, task in settings.tasks.items()
  )
  return (
    f"A rater did one task: {tasks}. Items were divided into balanced "
    "incomplete blocks with at most one version of a source per rater, in an "
    "order drawn for each rater, each system equally often over all raters, "
    f"after {settings.training} training items; {settings.repeats:.0%} came "
    f"twice and {settings.traps:.0%} (at least three) had a fault. An answer "
    "counted after the clip had played to its end with sound."
  )


def _rules(study: Study) -> str:
  stated = limits(study.settings.exclusion)
  return (
    "The design, the seed and the rules of exclusion were sealed when the "
    f"study was built. Of a rater who is kept: {stated}."
  )
