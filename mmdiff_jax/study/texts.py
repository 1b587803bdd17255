"""What raters read: text files, one per language.

`study build` copies them into the study's folder, so that its record says
what raters read, and a text may be changed without touching the program.
"""

import pathlib
import shutil
from collections.abc import Iterable

from mmdiff_jax.study.settings import SCALES

INCLUDED = pathlib.Path(__file__).parent / "texts"


def names(tasks: Iterable[str]) -> tuple[str, ...]:
  """Names of the text files, without language, that tasks need."""
  return ("labels", "consent", *(f"instructions_{task}" for task in tasks))


def copy_texts(
  source: pathlib.Path,
  target: pathlib.Path,
  languages: Iterable[str],
  tasks: Iterable[str],
) -> list[pathlib.Path]:
  """Copies the texts of some languages and tasks; returns the copies.

  Raises:
    ValueError: if one is missing, or labels lack a key that English has.
  """
  target.mkdir(parents=True, exist_ok=True)
  copies = []
  for language in languages:
    for name in names(tasks):
      file = source / f"{name}_{language}.txt"
      if not file.is_file():
        raise ValueError(
          f"languages: there is no {file}; write it, or leave {language!r} out."
        )
      copies.append(target / file.name)
      shutil.copyfile(file, copies[-1])
    lacking = labels(INCLUDED, "en").keys() - labels(target, language).keys()
    if lacking:
      raise ValueError(
        f"{source}/labels_{language}.txt lacks {', '.join(sorted(lacking))}."
      )
  return copies


def paragraphs(folder: pathlib.Path, name: str, language: str) -> list[str]:
  """Paragraphs of NAME_LANGUAGE.txt, which blank lines divide."""
  text = (folder / f"{name}_{language}.txt").read_text(encoding="utf-8")
  return [" ".join(p.split()) for p in text.strip().split("\n\n")]


def labels(folder: pathlib.Path, language: str) -> dict[str, str]:
  """Words of buttons and messages: lines `key: words` of a text file."""
  text = (folder / f"labels_{language}.txt").read_text(encoding="utf-8")
  pairs = (line.partition(":") for line in text.splitlines() if line.strip())
  return {key.strip(): words.strip() for key, _, words in pairs}


def scales(task: str, words: dict[str, str]) -> list[dict]:
  """The scales of a task: name, question and the words of their points.

  Args:
    task: its name.
    words: the labels of a language.
  """
  # The points of all scales of a task have the same words.
  points = max(SCALES[task].values())
  return [
    {
      "name": scale,
      "question": words[f"question {scale}"],
      "points": [words[f"{task} {point}"] for point in range(1, points + 1)],
    }
    for scale in SCALES[task]
  ]
