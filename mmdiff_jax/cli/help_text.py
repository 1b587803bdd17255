"""What --help prints."""

import textwrap
from collections.abc import Iterable, Sequence

from mmdiff_jax.cli import config_help
from mmdiff_jax.cli.commands import COMMANDS, flags_of
from mmdiff_jax.cli.parser import Flag, program_name

_WIDTH = 80
_INDENT = 26


def overview() -> str:
  """Help of the program: its commands."""
  program = program_name()
  return (
    "MM-Diffusion: generate video and its sound together.\n\n"
    f"usage: {program} COMMAND [--flag=value ...]\n\n"
    f"commands:\n{_commands(COMMANDS)}\n\n"
    f"{program} COMMAND --help   shows the flags of a command\n"
    f"{program} config [KEY]     lists the keys of the configuration\n\n"
    "Every key can be set by any command that reads a configuration:\n"
    "--config.train.batch_size=8; an optional one is unset by\n"
    "--config.sample.steps=None."
  )


def group(names: Sequence[str]) -> str:
  """Help of commands that belong together."""
  program = program_name()
  return (
    f"usage: {program} {names[0].split()[0]} COMMAND [--flag=value ...]\n\n"
    f"commands:\n{_commands(names)}\n\n"
    f"{program} {names[0]} --help   shows the flags of a command"
  )


def command(name: str) -> str:
  """Help of a command: an example, its flags, the keys that matter to it."""
  program, row = program_name(), COMMANDS[name]
  called = f"{program} {name}"
  flags = flags_of(name)
  needs = [_written(flag, flags[flag]) for flag in row.needs]
  argument = [row.argument] if row.argument else []
  parts = [
    _broken(["usage:", called, *argument, *needs, "[--flag=value ...]"], ""),
    f"{row.summary[0].upper()}{row.summary[1:]}.",
    f"example:\n{_broken([called, row.example], '  ')}",
  ]
  rows = [(_written(n, flag), flag.describe()) for n, flag in flags.items()]
  parts.append(f"flags:\n{_table(rows)}")
  if row.keys:
    parts.append(
      f"keys that matter first (all of them: {program} config):\n"
      f"{_table(config_help.summarise(row.keys))}"
    )
  return "\n\n".join(parts)


def _commands(names: Iterable[str]) -> str:
  return _table([(name, COMMANDS[name].summary) for name in names])


def _written(name: str, flag: Flag) -> str:
  return f"--{name}={flag.metavar}" if flag.metavar else f"--{name}"


def _broken(words: Sequence[str], indent: str) -> str:
  """A command line, broken as in a shell where it is long."""
  lines = textwrap.wrap(
    " ".join(words), _WIDTH - 4, break_on_hyphens=False,
    break_long_words=False, initial_indent=indent,
    subsequent_indent=f"{indent}  ",
  )  # fmt: skip
  return " \\\n".join(lines)


def _table(rows: Sequence[tuple[str, str]]) -> str:
  """Two columns; what is too wide for the first has a line of its own."""
  lines = []
  for left, right in rows:
    wrapped = textwrap.wrap(right, _WIDTH - _INDENT, break_on_hyphens=False)
    left = f"  {left}"
    if len(left) > _INDENT - 2 or not wrapped:
      lines.append(left)
    else:
      lines.append(left.ljust(_INDENT) + wrapped.pop(0))
    lines += [" " * _INDENT + line for line in wrapped]
  return "\n".join(lines)
