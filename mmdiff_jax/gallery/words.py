"""Runs, settings and facts in the words of people."""

import pathlib
from collections.abc import Mapping
from typing import Any

from mmdiff_jax.configuration import flatten
from mmdiff_jax.gallery.folder import Run

# Condition -> heading, and what stands under the source and the result.
_CONDITIONS = {
  None: ("Picture and sound, made from nothing", "", ""),
  "audio": (
    "Pictures, made for a sound",
    "Source: its sound was used, its pictures were not.",
    "Result: the same sound, and the pictures made for it.",
  ),
  "video": (
    "Sound, made for pictures",
    "Source: its pictures were used, its sound was not.",
    "Result: the same pictures, and the sound made for them.",
  ),
  "continue": (
    "Beginnings, continued",
    "Source: its beginning was used.",
    "Result: the same beginning, and what was made after it.",
  ),
  "edit": (
    "Edited clips",
    "Source, as it was.",
    "Result: what is kept is the source's, the rest was made anew.",
  ),
}
_CONDITION_METHODS = {
  "clean": "the known values are in place, clean, at every step",
  "replacement": "the known values are put in place at every step",
  "gradient": "guided by the gradient of the misfit to the known values",
  "resampling": "the known values are put in place, with RePaint's jumps",
}
# Of a record: what other words or the file's name say, and what says nothing
# to people.
_UNSAID = (
  "name", "file", "index", "source", "source_sha256", "known", "given",
  "repairs", "crc32c", "upscaled",
)  # fmt: skip
_KNOWN = {"audio": "the sound", "video": "the pictures"}


def heading(run: Run) -> str:
  """What a run made, as a title."""
  if not run.is_sampled:
    return f"Clips of {run.name}" if run.name else "All clips"
  condition = run.settings.get("condition")
  if condition in _CONDITIONS:
    return _CONDITIONS[condition][0]
  return f"Clips made for known {condition}"


def captions(run: Run) -> tuple[str, str]:
  """What stands under the source and under the result of a clip."""
  condition = run.settings.get("condition")
  if condition in _CONDITIONS:
    return _CONDITIONS[condition][1:]
  return "Source.", "Result."


def model_name(path: object) -> str:
  """Name of the run or folder that a checkpoint's path belongs to."""
  parts = list(pathlib.PurePath(str(path)).parts)
  step = parts.pop() if parts and parts[-1].isdigit() else ""
  while len(parts) > 1 and parts[-1] in ("checkpoint", "checkpoints"):
    parts.pop()
  name = parts[-1] if parts else str(path)
  return f"{name}, step {step}" if step else name


def model_of(run: Run) -> str | None:
  """Name of the model that made a run; None where nothing says it."""
  checkpoint = run.settings.get("checkpoint")
  return model_name(checkpoint) if checkpoint else None


def method(run: Run) -> str:
  """How a run was made, in a sentence; "" where nothing says it."""
  parts = []
  model = model_of(run)
  if model:
    parts.append(f"model {model}")
  sample = run.settings.get("sample")
  if isinstance(sample, Mapping) and sample.get("sampler"):
    steps = sample.get("steps")
    how = [str(sample["sampler"])]
    if sample.get("method"):
      how.append(str(sample["method"]))
    if sample.get("order"):
      how.append(f"order {sample['order']}")
    parts.append(
      "sampler " + " ".join(how) + (f", {steps} steps" if steps else "")
    )
    if run.settings.get("condition"):
      name = str(sample.get("condition_method"))
      parts.append(_CONDITION_METHODS.get(name, name))
    if sample.get("cfg_scale"):
      parts.append(f"classifier-free guidance {sample['cfg_scale']:g}")
  if run.settings.get("seed") is not None:
    parts.append(f"seed {run.settings['seed']}")
  text = "; ".join(parts)
  return text[:1].upper() + text[1:] + "." if text else ""


def facts(record: Mapping[str, Any]) -> dict[str, Any]:
  """What is to be said of a clip: numbers and words by name."""
  said: dict[str, Any] = {}
  # Earlier versions wrote "given".
  known = record.get("known", record.get("given"))
  if isinstance(known, list) and known:
    said["known"] = " and ".join(_KNOWN.get(str(k), str(k)) for k in known)
  if record.get("source"):
    said["source"] = pathlib.PurePath(str(record["source"])).name
  if record.get("repairs"):
    said["repaired"] = words(record["repairs"])
  said |= settings({k: v for k, v in record.items() if k not in _UNSAID})
  return said


def settings(values: Mapping[str, Any]) -> dict[str, Any]:
  """What is set, by its dotted name: unset keys say nothing."""
  return {
    str(name): value if isinstance(value, int | float) else words(value)
    for name, value in flatten({str(k): v for k, v in values.items()}).items()
    if value is not None and value != []
  }


def words(value: object) -> str:
  """A value as people write it."""
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, float):
    return f"{value:.6g}"
  if isinstance(value, list | tuple):
    return ", ".join(map(words, value))
  return str(value)
