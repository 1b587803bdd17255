"""What the programs share: flags, numbers as arguments, text in one line."""

import argparse
from collections.abc import Callable
from typing import NoReturn

# Bounds of frames per second, and of audio samples per second. Below, no
# sample may be left of a short sound; above, a typing error would run for ever.
FPS = (0.01, 1000.0)
SAMPLE_RATE = (1000, 192_000)

_NAMES = {int: "a whole number", float: "a number"}


class Parser(argparse.ArgumentParser):
  """A parser that names a mistake in one line, without all flags."""

  def error(self, message: str) -> NoReturn:
    """Ends the program."""
    message = message.removeprefix("argument ")
    self.exit(2, f"error: {one_line(message)}\nSee: {self.prog} --help\n")


def bounded(
  kind: type, low: float, high: float = float("inf")
) -> Callable[[str], float]:
  """Returns a `type` for argparse: an int or float from `low` to `high`."""
  span = f"of at least {low:g}"
  if high < float("inf"):
    span = f"from {low:g} to {high:.10g}"

  def parse(text: str):
    try:
      value = kind(text)
    except ValueError:
      value = float("nan")
    # NaN is within no bounds.
    if not low <= value <= high:
      raise argparse.ArgumentTypeError(
        f"must be {_NAMES[kind]} {span}, got {text}"
      )
    return value

  return parse


def one_line(text: object) -> str:
  """Text that every terminal shows in one line; the rest is escaped.

  File names may hold line breaks, and bytes that are no text.
  """
  return "".join(
    c if c.isprintable() else c.encode("unicode_escape").decode()
    for c in str(text)
  )
