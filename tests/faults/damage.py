"""One damage at a time: what reads it refuses it, or reads the same."""

import os
import pathlib
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tests.faults.kept import KEPT, Kept

# What the files of a folder hold, by path.
Files = Mapping[pathlib.Path, bytes]
# Changes one of the files; says what it did, or nothing where it cannot.
Damage = Callable[[Sequence[pathlib.Path], random.Random], str | None]


class HollowError(AssertionError):
  """The harness would not see a loss, or sees one where there is none."""


def flip_bit(files: Sequence[pathlib.Path], rng: random.Random) -> str | None:
  """Flips one bit."""
  path = rng.choice(files)
  data = bytearray(path.read_bytes())
  position = rng.randrange(8 * len(data))
  data[position // 8] ^= 1 << position % 8
  path.write_bytes(data)
  return f"bit {position} of {path}"


def change_digit(
  files: Sequence[pathlib.Path], rng: random.Random
) -> str | None:
  """Changes one digit of a text."""
  files = [path for path in files if path.suffix in (".json", ".idx")]
  if not files:
    return None
  path = rng.choice(files)
  text = path.read_text()
  place = rng.choice([i for i, c in enumerate(text) if c.isdigit()])
  digit = rng.choice([d for d in "0123456789" if d != text[place]])
  path.write_text(text[:place] + digit + text[place + 1 :])
  return f"character {place} of {path}: {digit} for {text[place]}"


def spoil_file(files: Sequence[pathlib.Path], rng: random.Random) -> str | None:
  """Removes, empties or cuts a file, or exchanges two."""
  path, how = rng.choice(files), rng.choice(["gone", "empty", "cut", "other"])
  content = path.read_bytes()
  if how == "gone":
    path.unlink()
  elif how == "empty":
    path.write_bytes(b"")
  elif how == "cut":
    path.write_bytes(content[: rng.randrange(len(content))])
  else:
    others = [p for p in files if p.suffix == path.suffix and p != path]
    if not others:
      return None
    other = rng.choice(others)
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)
    how = f"exchanged with {other}"
  return f"{path}: {how}"


DAMAGES: dict[str, Damage] = {
  "one bit flipped": flip_bit,
  "one digit changed": change_digit,
  "a file gone, empty, cut or exchanged": spoil_file,
}


def try_damage(
  name: str, damage: str, inputs: pathlib.Path, tries: int, seed: int
) -> tuple[int, list[str]]:
  """Damages files of a kind, again and again.

  Args:
    name: of `KEPT`.
    damage: of `DAMAGES`.
    inputs: folder that holds them.
    tries: so many times.
    seed: of what is damaged.

  Returns:
    How many tries met something, and what was read over, a line for each.

  Raises:
    HollowError: if undamaged files do not compare equal, or a planted loss is
      not found.
  """
  kept, rng = KEPT[name], random.Random(f"{seed} {name} {damage}")
  place = inputs / kept.place
  expected = kept.read(place)
  before = _contents(place)
  files = [p for p in _chosen(place, kept.pattern) if before[p]]
  check_harness(kept, place, expected)
  tried, lost = 0, []
  for _ in range(tries):
    try:
      what = DAMAGES[damage](files, rng)
      if what is not None:
        tried += 1
        lost += [what] if is_lost(kept, place, expected) else []
    finally:
      _restore(place, before)
    if kept.read(place) != expected:
      raise HollowError(f"{place}: undamaged, and not equal to itself.")
  return tried, lost


def is_lost(kept: Kept, place: pathlib.Path, expected: Any) -> bool:
  """Whether something else than expected is read without a word."""
  try:
    found = kept.read(place)
  except (ValueError, OSError):
    return False
  # Apart from the reading: an error of the comparison is not a find.
  return bool(found != expected)


def check_harness(kept: Kept, place: pathlib.Path, expected: Any) -> None:
  """Raises HollowError unless equal is equal and a planted loss is found."""
  if is_lost(kept, place, expected) or kept.read(place) != expected:
    raise HollowError(f"{place}: undamaged, and not equal to itself.")
  before = _contents(place)
  try:
    kept.plant(place)
    if not is_lost(kept, place, expected):
      raise HollowError(f"{place}: a planted loss is not found.")
  finally:
    _restore(place, before)


def _chosen(place: pathlib.Path, pattern: str) -> Iterator[pathlib.Path]:
  paths = sorted(place.glob(pattern)) if pattern else [place]
  return (path for path in paths if path.is_file())


def _contents(place: pathlib.Path) -> Files:
  everything = [place] if place.is_file() else place.rglob("*")
  return {path: path.read_bytes() for path in everything if path.is_file()}


def _restore(place: pathlib.Path, before: Files) -> None:
  """Puts the files back, and nothing else."""
  if not place.is_file():
    shutil.rmtree(place, ignore_errors=True)
  for path, content in before.items():
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if path.name == "admin_token":
      os.chmod(path, 0o600)
