"""Answers as flat rows, for CSV and JSON."""

import csv
import io
import json
import os
import pathlib
from typing import Any

from mmdiff_jax.disk.files import check_local, replacing
from mmdiff_jax.study.folder import ANSWERS, load_study, load_truth
from mmdiff_jax.study.store import Store, answered

_COLUMNS = (
  "time", "rater", "slot", "task", "trial", "kind", "clips", "scale", "value",
  "fault", "seconds",
)  # fmt: skip
_TRUTH = ("systems", "sources", "trap")


def votes_rows(store: Store) -> list[dict[str, Any]]:
  """One row per vote and scale, without the truth."""
  slots = {r.rater: r.slot for r in store.raters()}
  return [
    {
      "time": round(event.time, 3),
      "rater": event.rater,
      "slot": slots[event.rater],
      "task": event.data["task"],
      "trial": event.trial,
      "kind": event.data["kind"],
      "clips": " ".join(event.data["clips"]),
      "scale": scale,
      "value": value,
      "fault": int(event.data["fault"]),
      "seconds": event.data["seconds"],
    }
    for event in store.events(kind="vote")
    for scale, value in event.data["answers"].items()
  ]


def rows_csv(rows: list[dict[str, Any]], truth: bool = False) -> str:
  """Rows as CSV; with columns of the truth if they have them."""
  text = io.StringIO()
  columns = _COLUMNS + (_TRUTH if truth else ())
  writer = csv.DictWriter(text, columns, lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue()


def export(
  path: str | os.PathLike, output: str | os.PathLike, truth: bool = False
) -> int:
  """Writes all answers to a file.

  Args:
    path: folder of the study.
    output: the file, by its suffix .csv or .json.
    truth: adds the clips' systems, sources and fault, "|" between those of a
      pair.

  Returns:
    The number of rows.

  Raises:
    ValueError: for another suffix, or a study without answers.
  """
  check_local(output, "--output")
  study, suffix = load_study(path), pathlib.Path(output).suffix
  if suffix not in (".csv", ".json"):
    raise ValueError(f"--output={output}: give a name ending in .csv or .json.")
  with answered(study.path / ANSWERS) as store:
    rows = votes_rows(store)
  if truth:
    known = load_truth(study)
    for row in rows:
      shown = [known[clip] for clip in row["clips"].split()]
      row["systems"] = "|".join(clip["system"] for clip in shown)
      row["sources"] = "|".join(clip["source"] for clip in shown)
      row["trap"] = "".join(clip["trap"] or "" for clip in shown)
  text = rows_csv(rows, truth) if suffix == ".csv" else json.dumps(rows)
  with replacing(output) as temporary:
    pathlib.Path(temporary).write_text(text, encoding="utf-8")
  return len(rows)
