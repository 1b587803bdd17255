"""Answers joined with the truth, as flat arrays."""

import dataclasses
import os

import numpy as np

from mmdiff_jax.study.folder import ANSWERS, Study, load_study, load_truth
from mmdiff_jax.study.settings import SCALES
from mmdiff_jax.study.store import Store, answered


@dataclasses.dataclass(frozen=True)
class Votes:
  """Answers of one task; N votes.

  Attributes:
    task: name of the task.
    rater: `[N]` names.
    kind: `[N]` training, regular, repeat or trap.
    source: `[N]` what the clips are versions of.
    system: `[N]` of the clip, or of A.
    other: `[N]` of B; "" where there is none.
    stimulus: `[N]` ids of the clips shown, those of a pair in one order.
    trap: `[N]` fault of the clip; "" for none.
    trap_side: `[N]` 0 if the faulty clip was A (or the only one), 1 if B.
    fault: `[N]` whether the rater ticked a fault.
    seconds: `[N]` from the clip's end to the answer.
    values: `[N]` answers by scale.
  """

  task: str
  rater: np.ndarray
  kind: np.ndarray
  source: np.ndarray
  system: np.ndarray
  other: np.ndarray
  stimulus: np.ndarray
  trap: np.ndarray
  trap_side: np.ndarray
  fault: np.ndarray
  seconds: np.ndarray
  values: dict[str, np.ndarray]

  def __len__(self) -> int:
    return len(self.rater)

  def where(self, mask: np.ndarray) -> "Votes":
    """The votes of a mask `[N]`."""
    fields = {
      f.name: getattr(self, f.name)[mask]
      for f in dataclasses.fields(self)
      if f.name not in ("task", "values")
    }
    values = {scale: v[mask] for scale, v in self.values.items()}
    return Votes(task=self.task, values=values, **fields)


def answers_of(path: str | os.PathLike) -> dict[str, Votes]:
  """The votes in a study's folder.

  Raises:
    ValueError: if there is no study in it, or nobody has answered.
  """
  study = load_study(path)
  with answered(study.path / ANSWERS) as store:
    return load_votes(study, store)


def load_votes(study: Study, store: Store) -> dict[str, Votes]:
  """The votes of each task that has any.

  Raises:
    ValueError: if truth.json is not the study's.
  """
  truth = load_truth(study)
  rows: dict[str, list[dict]] = {}
  for event in store.events(kind="vote"):
    data = event.data
    shown = [truth[clip] for clip in data["clips"]]
    spoilt = [i for i, clip in enumerate(shown) if clip["trap"]]
    rows.setdefault(data["task"], []).append({
      "rater": event.rater,
      "kind": data["kind"],
      "source": shown[0]["source"],
      "system": shown[0]["system"],
      "other": shown[1]["system"] if len(shown) > 1 else "",
      "stimulus": " ".join(sorted(data["clips"])),
      "trap": shown[spoilt[0]]["trap"] if spoilt else "",
      "trap_side": spoilt[0] if spoilt else 0,
      "fault": data["fault"],
      "seconds": data["seconds"],
      **data["answers"],
    })  # fmt: skip
  result = {}
  for task, entries in rows.items():
    columns = {k: np.array([e[k] for e in entries]) for k in entries[0]}
    values = {scale: columns.pop(scale) for scale in SCALES[task]}
    result[task] = Votes(task=task, values=values, **columns)
  return result
