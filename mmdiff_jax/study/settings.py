"""What a study asks, of how many, and whom it leaves out: one YAML file."""

import dataclasses
import os
import pathlib
from typing import Any

_PRESETS = pathlib.Path(__file__).parent / "presets"

# Scales of each task, and the number of points of a scale.
SCALES = {
  "turing": {"origin": 6},
  "opinion": {"video": 5, "audio": 5, "match": 5},
  "preference": {"preferred": 3},
}
# Faults of trap clips, and the scale of the opinion task that each spoils.
FAULTS = {"foreign": "match", "frozen": "video", "muted": "audio"}
MATCHES = ("auto", "name", "order", "none")


@dataclasses.dataclass(frozen=True)
class ClipSettings:
  """What every clip is brought to; None is the least of all clips."""

  size: int | None
  fps: float | None
  seconds: float | None
  sample_rate: int | None
  loudness: float


@dataclasses.dataclass(frozen=True)
class TaskSettings:
  """Raters of each stimulus, and stimuli of each rater."""

  votes: int
  per_rater: int


@dataclasses.dataclass(frozen=True)
class Exclusion:
  """Limits beyond which a rater is left out; see presets/default.yaml."""

  min_completed: float
  max_failed_traps: float
  max_same_answer: float
  max_repeat_gap: float
  min_seconds: float
  max_false_faults: float


@dataclasses.dataclass(frozen=True)
class Settings:
  """A study's settings; presets/default.yaml explains every field."""

  title: str
  seed: int
  languages: tuple[str, ...]
  texts: str | None
  match: str
  clips_per_system: int | None
  clip: ClipSettings
  tasks: dict[str, TaskSettings]
  training: int
  repeats: float
  traps: float
  patience: float
  exclusion: Exclusion

  def __post_init__(self):
    _require(self.languages, "languages must name at least one.")
    _require(
      self.match in MATCHES,
      f"match must be one of {MATCHES}, got {self.match!r}.",
    )
    _require(
      self.tasks and set(self.tasks) <= set(SCALES),
      f"tasks must be some of {tuple(SCALES)}, got {tuple(self.tasks)}.",
    )
    for name, task in self.tasks.items():
      _require(
        task.votes > 0 and task.per_rater > 0,
        f"tasks.{name}: votes and per_rater must be positive, got {task}.",
      )
    _require(
      0 <= self.repeats < 1 and 0 <= self.traps < 1 and self.training >= 0,
      "repeats and traps are shares in [0, 1) and training a count, got "
      f"{self.repeats}, {self.traps}, {self.training}.",
    )


def _require(condition: Any, message: str) -> None:
  if not condition:
    raise ValueError(message)


def load_settings(preset: str | os.PathLike = "default") -> Settings:
  """Reads a preset, or a YAML file of one's own, over the default's keys.

  Args:
    preset: "default", "paper", or the path of a .yaml file. A mapping
      `tasks` replaces the default's one, other sections are merged.

  Raises:
    ValueError: for a missing file, an unknown key or a value out of range.
  """
  import yaml

  path = _PRESETS / f"{preset}.yaml"
  if not path.exists():
    path = pathlib.Path(preset)
  if not path.is_file():
    known = ", ".join(sorted(p.stem for p in _PRESETS.glob("*.yaml")))
    raise ValueError(
      f"--preset={preset}: no such preset or file; choose one of {known}, or "
      "give the path of a .yaml file."
    )
  values = yaml.safe_load((_PRESETS / "default.yaml").read_text())
  try:
    own = yaml.safe_load(path.read_text()) or {}
  except yaml.YAMLError as error:
    raise ValueError(f"{path} is no YAML: {error}") from error
  if not isinstance(own, dict):
    raise ValueError(f"{path} must hold keys and values, got {own!r}.")
  for key, value in own.items():
    if key in ("clip", "exclusion") and isinstance(value, dict):
      values[key] = values[key] | value
    else:
      values[key] = value
  return settings_from(values)


def settings_from(values: dict[str, Any]) -> Settings:
  """Settings of plain values, as YAML and JSON give them.

  Raises:
    ValueError: for an unknown or missing key, or a value out of range.
  """
  values = dict(values)
  try:
    values["clip"] = ClipSettings(**values["clip"])
    values["exclusion"] = Exclusion(**values["exclusion"])
    values["tasks"] = {n: TaskSettings(**t) for n, t in values["tasks"].items()}
    values["languages"] = tuple(values["languages"])
    return Settings(**values)
  except (TypeError, KeyError, AttributeError) as error:
    raise ValueError(f"The study's settings: {error}") from error
