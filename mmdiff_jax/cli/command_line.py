"""From the words of a command line to a command, its flags and configuration.

A mistake is a `UsageError` whose cure can be typed in as it stands.
"""

import argparse
import difflib
from collections.abc import Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from mmdiff_jax.cli import overrides
from mmdiff_jax.cli.commands import COMMANDS, flags_of
from mmdiff_jax.cli.parser import parse_flags, program_name
from mmdiff_jax.configuration import check_seed, load_config


class UsageError(ValueError):
  """A command line that does not say what to do."""


class CommandLine(NamedTuple):
  """What a command line says.

  Attributes:
    name: of the command.
    options: its flags; `argument` is the argument that is not a flag, "" for
      none, and `overridden` are the keys of the configuration that are set.
    config: the configuration, None where the command reads none.
  """

  name: str
  options: argparse.Namespace
  config: ConfigDict | None


def split_name(arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
  """The name of the command, and what follows it.

  Raises:
    UsageError: if there is no such command.
  """
  for count in (2, 1):
    name = " ".join(arguments[:count])
    if name in COMMANDS and len(arguments) >= count:
      return name, arguments[count:]
  if not arguments or arguments[0].startswith("-"):
    raise UsageError(f"name a command first: {', '.join(COMMANDS)}.")
  group = group_of(arguments[0])
  if group and (len(arguments) == 1 or arguments[1].startswith("-")):
    raise UsageError(f"{arguments[0]} is one of {', '.join(group)}.")
  given = " ".join(arguments[: 2 if group else 1])
  close = difflib.get_close_matches(given, group or COMMANDS, 1)
  hint = f" Did you mean {close[0]!r}?" if close else ""
  raise UsageError(f"unknown command {given!r}.{hint}")


def group_of(word: str) -> list[str]:
  """The commands whose names begin with a word and go on: `study build`."""
  return [name for name in COMMANDS if name.startswith(f"{word} ")]


def read(arguments: Sequence[str]) -> CommandLine:
  """Reads a command line.

  Raises:
    UsageError: for an unknown command, flag or key, a value that a flag or
      key cannot have, and an argument that the command does not take.
  """
  name, rest = split_name(arguments)
  command = COMMANDS[name]
  try:
    changes, rest = overrides.split_overrides(rest)
    options, others = parse_flags(flags_of(name), rest)
    config = None
    if command.config:
      config = load_config(options.config or "default")
    elif changes:
      raise ValueError(_no_configuration(name, *changes[0]))
    _check_others(name, others, config)
    for key, text in changes:
      assert config is not None
      overrides.override(config, key, text)
      if not _reads(name, key):
        raise ValueError(_unread(name, key, text))
    if config is not None:
      check_seed(config.seed, "--config.seed")
  except ValueError as error:
    raise UsageError(*error.args) from error
  options.argument = others[0] if others else ""
  options.overridden = {key for key, _ in changes}
  return CommandLine(name, options, config)


def check_complete(line: CommandLine) -> None:
  """Raises UsageError where a flag or an argument is missing."""
  name, command = line.name, COMMANDS[line.name]
  for flag in command.needs:
    if getattr(line.options, flag) in (None, "", []):
      raise UsageError(f"{name} needs --{flag}.")
  wanted = command.argument
  if wanted and not wanted.startswith("[") and not line.options.argument:
    raise UsageError(f"{name} needs {wanted}: {program_name()} {name} {wanted}")


def _check_others(
  name: str, others: Sequence[str], config: ConfigDict | None
) -> None:
  """Raises ValueError for what is neither a flag nor a wanted argument."""
  for place, argument in enumerate(others):
    if not argument.startswith("-"):
      continue
    if not argument.startswith("--"):
      raise ValueError(f"{argument}: flags begin with two dashes: -{argument}.")
    flag, equals, value = argument[2:].partition("=")
    following = others[place + 1 : place + 2]
    if not equals and following and not following[0].startswith("-"):
      value = following[0]
    raise ValueError(_unknown_flag(name, flag, value, config))
  if len(others) > bool(COMMANDS[name].argument):
    raise ValueError(f"unexpected argument {others[-1]!r}.")


def _unknown_flag(
  name: str, flag: str, value: str, config: ConfigDict | None
) -> str:
  """What to say of a flag that the command does not have."""
  if flag == "config":
    return _no_configuration(name, flag, value)
  command = COMMANDS[name]
  keys: dict[str, list[str]] = {}
  if config is not None:
    keys = {
      bare: [key for key in found if _reads(name, key)] or found
      for bare, found in overrides.bare_keys(config, command.keys).items()
    }
    if "." in flag:
      overrides.find_key(config, flag)
      keys[flag] = [flag]
  if flag in keys and not any(_reads(name, key) for key in keys[flag]):
    return _unread(name, keys[flag][0], value)
  takers = [other for other, row in COMMANDS.items() if flag in row.flags]
  if takers and flag not in keys:
    return (
      f"--{flag} is a flag of {', '.join(takers)}, not of {name}; leave it out."
    )
  close = difflib.get_close_matches(flag, [*command.flags, *keys], 1)
  if not close:
    return f"{name} has no flag --{flag}."
  meant = [f"--config.{key}={value or '...'}" for key in keys.get(close[0], [])]
  if close[0] in command.flags:
    meant = [f"--{close[0]}"]
  return f"unknown flag --{flag}. Did you mean {' or '.join(meant)}?"


def _reads(name: str, key: str) -> bool:
  """Whether a key of the configuration says anything to a command."""
  reads = COMMANDS[name].reads
  return not reads or f"{key}.".startswith(tuple(f"{r}." for r in reads))


def _unread(name: str, key: str, text: str) -> str:
  """What to say of a key that would be ignored."""
  row = COMMANDS[name]
  why = f": {row.otherwise}" if row.otherwise else ""
  return (
    f"--config.{key}={text} has no effect on {name}{why}; leave it out. "
    f"{name} reads {', '.join(row.reads)}."
  )


def _no_configuration(name: str, key: str, value: str) -> str:
  """What to say of a key to a command without a configuration."""
  command = COMMANDS[name]
  bare = key.split(".")[-1]
  own = command.instead.get(bare, bare)
  hint = "leave --config out."
  if own in command.flags:
    hint = f"did you mean --{own}={value or '...'}?"
  return f"{name} reads no configuration; {hint}"
