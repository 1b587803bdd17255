"""What a finished run says of itself, in words."""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from mmdiff_jax.disk.files import as_path
from mmdiff_jax.training import metrics

_HELD_OUT = "heldout_"
_QUARTERS = ("_q1", "_q2", "_q3", "_q4")


def summarise(workdir: str | os.PathLike) -> str:
  """Losses and previews of a run, in lines.

  Args:
    workdir: of the run; its log and its previews are read.
  """
  folder = as_path(workdir)
  records = metrics.read_jsonl(folder / metrics.LOG)
  learnt = [record for record in records if "loss" in record]
  held_out = [record for record in records if f"{_HELD_OUT}loss" in record]
  lines = []
  if learnt:
    lines.append(f"Loss on the training clips: {_course(learnt, '')}")
    lines += _quarters(learnt[-1], "")
  if held_out:
    lines.append(f"Loss on held-out clips: {_course(held_out, _HELD_OUT)}")
    lines += _quarters(held_out[-1], _HELD_OUT)
  else:
    lines.append(
      "Nothing is held out (config.data.holdout_fraction): the loss does not "
      "tell clips that are learnt by heart."
    )
  lines.append(_previews(folder / "previews"))
  return "\n".join(lines)


def _course(records: list[dict[str, Any]], prefix: str) -> str:
  """First, lowest and last value of a loss."""
  name = f"{prefix}loss"
  first, last = records[0], records[-1]
  lowest = min(records, key=lambda record: record[name])
  text = f"{last[name]:.4g} at step {last['step']}"
  if len(records) > 1:
    text += f", {first[name]:.4g} at step {first['step']}"
  if lowest[name] < last[name] and lowest is not first:
    text += f", lowest {lowest[name]:.4g} at step {lowest['step']}"
  return f"{text}."


def _quarters(record: Mapping[str, Any], prefix: str) -> list[str]:
  """A loss by quarter of the noise levels, or those of the streams."""
  names = [
    name.removesuffix("_q1").removeprefix(prefix)
    for name in record
    if name.endswith("_q1") and name.startswith(prefix)
  ]
  if prefix == "":
    names = [name for name in names if not name.startswith(_HELD_OUT)]
  chosen = ["loss"] if "loss" in names else sorted(names)
  lines = []
  for name in chosen:
    values = [record.get(f"{prefix}{name}{q}") for q in _QUARTERS]
    shown = ", ".join(
      "-" if v is None or math.isnan(v) else f"{v:.4g}" for v in values
    )
    what = "" if name == "loss" else f" of {name}"
    lines.append(f"  by quarter{what}, from little noise to much: {shown}")
  return lines


def _previews(folder: pathlib.Path) -> str:
  steps = [path.name for path in folder.iterdir()] if folder.is_dir() else []
  if not steps:
    return "Previews: none (config.train.preview_every)."
  return f"Previews: {folder}, the newest in {max(steps)}."
