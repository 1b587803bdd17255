"""Keys of a configuration that are set on the command line."""

import ast
import difflib
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict, FieldReference

from mmdiff_jax.cli.parser import program_name

# How the user writes a key.
Spell = Callable[[str], str]

_KEY = re.compile(r"--config\.([\w.]+)(?:=(.*))?", re.DOTALL)
# What else people call some keys.
_ALIASES = {
  "data": "data.source",
  "lr": "train.learning_rate",
  "steps": "train.num_steps",
}
# No size, count or seed is as large.
_BOUND = 2**32
_BOOLS = {"true": True, "1": True, "false": False, "0": False}
_WANTED = {
  int: "a whole number",
  float: "a number",
  bool: "true or false",
  tuple: "whole numbers with commas between them",
}


def split_overrides(
  arguments: Sequence[str],
) -> tuple[list[tuple[str, str]], list[str]]:
  """Tells --config.KEY=VALUE from the other arguments.

  Returns:
    The keys with the texts of their values, and the other arguments.

  Raises:
    ValueError: for a key without a value.
  """
  overrides: list[tuple[str, str]] = []
  others: list[str] = []
  remaining = iter(arguments)
  for argument in remaining:
    match = _KEY.fullmatch(argument)
    if not match:
      others.append(argument)
      continue
    key, text = match.groups()
    if text is None:
      text = next(remaining, None)
      if text is None or text.startswith("--"):
        raise ValueError(f"--config.{key} needs a value: --config.{key}=VALUE.")
    overrides.append((key, text))
  return overrides, others


def override(config: ConfigDict, key: str, text: str) -> None:
  """Sets a key to the value that a text means.

  Args:
    config: where the key is.
    key: with its sections: `train.batch_size`.
    text: of the type that the key has; `None` unsets an optional key.

  Raises:
    ValueError: for a key that does not exist, or a text that is not a value of
      its type.
  """
  section, name = find_key(config, key, lambda k: f"--config.{k}={text}")
  fields = dict(section.items(preserve_field_references=True))
  optional = isinstance(fields[name], FieldReference)
  kind = section.get_type(name)
  flag = f"--config.{key}={text}"
  if isinstance(section[name], ConfigDict):
    raise ValueError(
      f"{flag}: {key} is a section; name one of its keys: "
      f"{', '.join(section[name])}."
    )
  if text == "None":
    if not optional:
      raise ValueError(f"{flag}: only optional keys can be unset.")
    section[name] = None
    return
  try:
    section[name] = _parse(text, kind, section[name])
  except (ValueError, SyntaxError, TypeError, OverflowError) as error:
    wanted = _WANTED.get(kind, f"a value of type {kind.__name__}")
    if isinstance(error, OverflowError):
      wanted += f" below {_BOUND}"
    example = section[name]
    if kind is tuple and example is None:
      wanted = "numbers with commas between them"
    now = "" if example in (None, ()) else f", such as {_show(example)}"
    raise ValueError(f"{flag}: give {wanted}{now}.") from None


def find_key(
  config: ConfigDict, key: str, spell: Spell = "--config.{}".format
) -> tuple[ConfigDict, str]:
  """The section that has a key, and the key's name in it.

  Args:
    config: where it is looked for.
    key: with its sections.
    spell: how the user writes a key.

  Raises:
    ValueError: if there is no such key, with the most similar one.
  """
  section = config
  *parents, name = key.split(".")
  for depth, part in enumerate([*parents, name]):
    if not isinstance(section, ConfigDict):
      raise ValueError(
        f"{spell(key)}: {'.'.join(parents[:depth])} is not a section."
      )
    if part not in section:
      raise ValueError(_unknown(config, key, parents[:depth], part, spell))
    if depth < len(parents):
      section = section[part]
  return section, name


def all_keys(config: ConfigDict, prefix: str = "") -> list[str]:
  """Every key with its sections."""
  keys = []
  for name in config:
    if isinstance(config[name], ConfigDict):
      keys += all_keys(config[name], f"{prefix}{name}.")
    else:
      keys.append(prefix + name)
  return keys


def bare_keys(
  config: ConfigDict, preferred: Sequence[str]
) -> dict[str, list[str]]:
  """The keys that a name without its section may mean.

  Args:
    config: whose keys are meant.
    preferred: keys that are meant rather than others of the same name.
  """
  found: dict[str, list[str]] = {}
  for key in all_keys(config):
    found.setdefault(key.split(".")[-1], []).append(key)
  found |= {key.split(".")[-1]: [key] for key in reversed(preferred)}
  aliases = {n: [key] for n, key in _ALIASES.items() if key in preferred}
  return found | aliases


def _unknown(
  config: ConfigDict, key: str, parents: Sequence[str], part: str, spell: Spell
) -> str:
  section = config
  for parent in parents:
    section = section[parent]
  where = f"{'.'.join(parents)} has" if parents else "the configuration has"
  listed = f" {'.'.join(parents)}" if parents else ""
  close = difflib.get_close_matches(part, list(section), 1)
  if close:
    rest = key.split(".")[len(parents) + 1 :]
    hint = f"Did you mean {spell('.'.join([*parents, close[0], *rest]))}?"
  else:
    elsewhere = [k for k in all_keys(config) if k.split(".")[-1] == part]
    hint = (
      f"Did you mean {' or '.join(map(spell, elsewhere))}?"
      if elsewhere
      else f"Its keys: {', '.join(section)}."
      if len(section) < 10
      else f"`{program_name()} config{listed}` lists its keys."
    )
  return f"{spell(key)}: {where} no key {part}. {hint}"


def _parse(text: str, kind: type, example: Any) -> Any:
  """The value of a text; raises where it is none of that type."""
  if kind is bool:
    if text.lower() not in _BOOLS:
      raise ValueError(text)
    return _BOOLS[text.lower()]
  if kind is int:
    return _whole(int(text))
  if kind is float:
    number = float(text)
    if not math.isfinite(number):
      raise ValueError(text)
    return number
  if kind is str:
    return text
  if kind is tuple:
    value = ast.literal_eval(text) if text else ()
    value = tuple(value) if isinstance(value, tuple | list) else (value,)
    types = {type(element) for element in example or ()} or {int}
    if example is None:  # Unset, and of numbers of any kind.
      types |= {float}
    if not {type(element) for element in value} <= types:
      raise TypeError(text)
    return tuple(_whole(v) if isinstance(v, int) else v for v in value)
  raise TypeError(text)


def _whole(value: int) -> int:
  """A whole number, if it is not absurdly large."""
  if abs(value) >= _BOUND:
    raise OverflowError(value)
  return value


def _show(value: Any) -> str:
  if isinstance(value, tuple):
    return ",".join(map(str, value)) or "()"
  return str(value).lower() if isinstance(value, bool) else str(value)
