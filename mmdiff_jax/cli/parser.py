"""What a flag is, and a parser whose errors are one line."""

import argparse
import dataclasses
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

# Entry points of a checkout; what is installed has one of its own name.
_SCRIPTS = ("main.py", "videos_to_tfrecord.py")


def program_name() -> str:
  """How this program is called, for messages that can be typed in again."""
  called = os.path.basename(sys.argv[0])
  return "python main.py" if called in _SCRIPTS else "mmdiff-jax"


@dataclasses.dataclass(frozen=True)
class Flag:
  """One flag.

  Attributes:
    text: what it is for, as help shows it in front of the default.
    metavar: what its value is called; "" for a switch, which takes none.
    kind: makes a value of a text, or raises `argparse.ArgumentTypeError`.
    default: its value where it is left out.
    repeated: whether it may be set several times; its value is a list then.
  """

  text: str
  metavar: str = ""
  kind: Callable[[str], Any] = str
  default: Any = None
  repeated: bool = False

  @property
  def options(self) -> dict[str, Any]:
    """What argparse is told of it."""
    if not self.metavar:
      return {"action": "store_true"}
    if self.repeated:
      return {"action": "append", "default": [], "type": self.kind}
    return {"default": self.default, "type": self.kind}

  def describe(self) -> str:
    """What help says of it."""
    value = self.default
    if isinstance(value, list | tuple):
      value = ",".join(map(str, value))
    elif isinstance(value, float):
      value = f"{value:g}"
    return self.text if value in (None, "") else f"{self.text} [{value}]"


def number(
  low: float = -math.inf, high: float = math.inf, kind: type = float
) -> Callable[[str], Any]:
  """The kind of a flag that takes a number from `low` to `high`."""
  wanted = "a whole number" if kind is int else "a number"
  if high < math.inf:
    wanted += f" from {low:g} to {high:.10g}"
  elif low > -math.inf:
    wanted += f" of at least {low:g}"

  def parse(text: str) -> Any:
    try:
      value = kind(text)
    except ValueError:
      value = math.nan
    # No size, count or seed is as large as 2**32.
    if not low <= value <= high or not abs(value) < 2**32:
      raise argparse.ArgumentTypeError(f"give {wanted}, not {text!r}")
    return value

  return parse


def whole(low: float = -math.inf, high: float = math.inf) -> Any:
  """The kind of a flag that takes a whole number from `low` to `high`."""
  return number(low, high, int)


def wholes(text: str) -> list[int]:
  """The kind of a flag that takes several whole numbers."""
  return [whole(1)(part) for part in names(text)]


def names(text: str) -> list[str]:
  """The kind of a flag that takes several names, separated by commas."""
  return [name.strip() for name in text.split(",")] if text else []


def size(text: str) -> tuple[int, int]:
  """The kind of a flag that takes a height and a width in pixels."""
  try:
    sides = [int(side) for side in text.lower().split("x")]
  except ValueError:
    sides = []
  if len(sides) not in (1, 2) or min(sides) < 1:
    raise argparse.ArgumentTypeError(
      f"give N or HxW, such as 64 or 48x64, not {text!r}"
    )
  return sides[0], sides[-1]


def span(text: str) -> tuple[float, float]:
  """The kind of a flag that takes a stretch of time in seconds."""
  try:
    start, stop = (float(part) for part in text.split(":"))
  except ValueError:
    raise argparse.ArgumentTypeError(
      f"give seconds FROM:TO, such as 0.4:0.9, not {text!r}"
    ) from None
  return start, stop


def box(text: str) -> tuple[int, int, int, int]:
  """The kind of a flag that takes a rectangle in pixels."""
  try:
    left, top, width, height = (int(part) for part in text.split(","))
  except ValueError:
    raise argparse.ArgumentTypeError(
      f"give X,Y,WIDTH,HEIGHT in pixels, such as 0,8,16,8, not {text!r}"
    ) from None
  return left, top, width, height


def one_of(text: str, *allowed: str, default: str | None = None) -> Flag:
  """A flag with a few possible values."""

  def parse(value: str) -> str:
    if value not in allowed:
      raise argparse.ArgumentTypeError(
        f"give one of {', '.join(allowed)}, not {value!r}"
      )
    return value

  return Flag(text, "|".join(allowed), parse, default)


class _Parser(argparse.ArgumentParser):
  """A parser whose errors are exceptions, in our words."""

  def error(self, message: str) -> NoReturn:
    message = message.removeprefix("argument ")
    if "ignored explicit argument" in message:
      message = f"{message.split(':')[0]} takes no value"
    elif message.endswith("expected one argument"):
      message = f"{message.split(':')[0]} needs a value"
    raise ValueError(f"{message}.")


def parse_flags(
  flags: Mapping[str, Flag], arguments: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
  """Reads flags.

  Args:
    flags: by name.
    arguments: of a command line.

  Returns:
    The flags' values, and the arguments that are none of these flags.

  Raises:
    ValueError: for a value that a flag does not take.
  """
  parser = _Parser(add_help=False, allow_abbrev=False)
  for name, flag in flags.items():
    parser.add_argument(f"--{name}", dest=name, **flag.options)
  return parser.parse_known_args(arguments)
