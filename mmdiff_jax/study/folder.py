"""A study's folder.

study.json   settings, design, hashes: what the server reads
truth.json   which clip is what: never read by the server
clips/       ID.mp4
texts/       what raters read
admin_token  of the page of counts and exports
answers.db   what raters did
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

from mmdiff_jax.disk.checksums import SEAL, seal, unseal
from mmdiff_jax.disk.files import file_sha256, write_json
from mmdiff_jax.study.settings import Settings, settings_from

STUDY, TRUTH, CLIPS, TEXTS = "study.json", "truth.json", "clips", "texts"
TOKEN, ANSWERS = "admin_token", "answers.db"


@dataclasses.dataclass(frozen=True)
class Trial:
  """One question: "training", "regular", "repeat" or "trap", and its clips."""

  kind: str
  clips: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Slot:
  """One rater's place: a task and its trials in order."""

  task: str
  trials: tuple[Trial, ...]


@dataclasses.dataclass(frozen=True)
class Study:
  """A study as it was built.

  Attributes:
    path: its folder.
    settings: of the YAML file.
    seconds: length of every clip.
    size: height and width of every clip.
    clips: sha256 of each clip by its id.
    texts: sha256 of each text by its file's name.
    slots: the raters' places.
    truth_sha256: of truth.json, so that it cannot be changed unnoticed.
  """

  path: pathlib.Path
  settings: Settings
  seconds: float
  size: tuple[int, int]
  clips: dict[str, str]
  texts: dict[str, str]
  slots: tuple[Slot, ...]
  truth_sha256: str

  def clip_path(self, clip: str) -> pathlib.Path:
    """Where the clip of an id lies."""
    return self.path / CLIPS / f"{clip}.mp4"


def write_study(study: Study) -> None:
  """Writes study.json, with a checksum of its content."""
  values = dataclasses.asdict(study)
  del values["path"]
  for slot in values["slots"]:
    slot["trials"] = [[t["kind"], *t["clips"]] for t in slot["trials"]]
  write_json(study.path / STUDY, seal(values))


def load_study(path: str | os.PathLike) -> Study:
  """Reads a folder that `study build` made.

  Raises:
    ValueError: if there is no study in it, or it is not as it was built.
  """
  path = pathlib.Path(path)
  try:
    values = json.loads((path / STUDY).read_text())
    if SEAL not in values:
      raise ValueError("it has no checksum; another version built it")
    values = unseal(values)
  except FileNotFoundError as error:
    raise ValueError(
      f"{path} holds no {STUDY}; make it by `study build`"
    ) from error
  except (ValueError, TypeError, AttributeError, RecursionError) as error:
    raise ValueError(
      f"{path / STUDY} is not what was built: {error}. Put the original back."
    ) from error
  values["settings"] = settings_from(values["settings"])
  values["size"] = tuple(values["size"])
  values["slots"] = tuple(
    Slot(s["task"], tuple(Trial(k, tuple(c)) for k, *c in s["trials"]))
    for s in values["slots"]
  )
  return Study(path=path, **values)


def load_truth(study: Study) -> dict[str, dict[str, Any]]:
  """What each clip is: {"system", "source", "file", "trap"} by its id.

  Raises:
    ValueError: if truth.json is not the one that was built.
  """
  path = study.path / TRUTH
  if file_sha256(path) != study.truth_sha256:
    raise ValueError(
      f"{path} is not the file that {STUDY} was built with: its sha256 "
      "differs. Put the original back."
    )
  return json.loads(path.read_text())["clips"]
