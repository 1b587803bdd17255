"""Whether a study's folder is as it was built, and its answers as given."""

import contextlib
import os
import pathlib
import sqlite3

from mmdiff_jax.disk.files import file_sha256
from mmdiff_jax.study.folder import ANSWERS, TEXTS, load_study, load_truth
from mmdiff_jax.study.store import open_checked


def verify_study(directory: str | os.PathLike) -> list[str]:
  """Reads everything and returns what is wrong, one line each.

  Raises:
    ValueError: if there is no study, or its study.json is damaged.
  """
  study = load_study(directory)
  wanted = {study.clip_path(clip): sha for clip, sha in study.clips.items()}
  for name, sha in study.texts.items():
    wanted[study.path / TEXTS / name] = sha
  problems = []
  for path, sha in wanted.items():
    if not path.is_file():
      problems.append(f"{path} is missing")
    elif file_sha256(path) != sha:
      problems.append(f"{path} is not what was built (its sha256 differs)")
  try:
    load_truth(study)
  except (OSError, ValueError) as error:
    problems.append(str(error))
  return problems + _answer_problems(study.path / ANSWERS)


def _answer_problems(path: pathlib.Path) -> list[str]:
  if not path.exists():
    return []  # Nobody has answered yet.
  try:
    with contextlib.closing(open_checked(path)):
      return []
  except (ValueError, sqlite3.Error) as error:
    return [str(error)]
