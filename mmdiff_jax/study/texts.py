"""What raters read: text files, one per language."""

import functools
import pathlib

from mmdiff_jax.study.settings import SCALES

_FOLDER = pathlib.Path(__file__).parent / "texts"
NAMES = {"en": "English", "de": "Deutsch", "zh": "中文"}


def paragraphs(name: str, language: str) -> list[str]:
  """Paragraphs of texts/NAME_LANGUAGE.txt, which blank lines divide."""
  text = (_FOLDER / f"{name}_{language}.txt").read_text(encoding="utf-8")
  return [" ".join(p.split()) for p in text.strip().split("\n\n")]


@functools.cache
def labels(language: str) -> dict[str, str]:
  """Words of buttons and messages: lines `key: words` of a text file."""
  text = (_FOLDER / f"labels_{language}.txt").read_text(encoding="utf-8")
  pairs = (line.split(":", 1) for line in text.splitlines() if line.strip())
  return {key.strip(): words.strip() for key, words in pairs}


def scales(task: str, language: str) -> list[dict]:
  """The scales of a task: name, question and the words of their points."""
  words = labels(language)
  points = {
    "turing": [f"turing {i}" for i in range(1, 7)],
    "opinion": [f"opinion {i}" for i in range(1, 6)],
    "preference": [f"preference {i}" for i in range(1, 4)],
  }[task]
  return [
    {
      "name": scale,
      "question": words[f"question {scale}"],
      "points": [words[point] for point in points],
    }
    for scale in SCALES[task]
  ]
