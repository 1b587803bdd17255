"""What --help prints."""

import textwrap
from collections.abc import Sequence

from mmdiff_jax.cli import config_help
from mmdiff_jax.cli.commands import COMMANDS
from mmdiff_jax.cli.flags import describe_flags

_WIDTH = 80
_INDENT = 26


def overview(program: str) -> str:
  """Help of the program: its commands.

  Args:
    program: how it is called.
  """
  rows = [(name, row.summary) for name, row in COMMANDS.items()]
  return (
    "MM-Diffusion: generate video and its sound together.\n\n"
    f"usage: {program} COMMAND [--flag=value ...]\n\n"
    f"commands:\n{_table(rows)}\n\n"
    f"{program} COMMAND --help   shows the flags of a command\n"
    f"{program} config [KEY]     lists the keys of the configuration\n\n"
    "Every key can be set by any command that reads a configuration:\n"
    "--config.train.batch_size=8; an optional one is unset by\n"
    "--config.sample.steps=None."
  )


def command(program: str, name: str) -> str:
  """Help of a command: an example, its flags, the keys that matter to it.

  Args:
    program: how it is called.
    name: of the command.
  """
  row = COMMANDS[name]
  called = f"{program} {name}"
  argument = f" {row.argument}" if row.argument else ""
  parts = [
    f"usage: {called}{argument} [--flag=value ...]",
    f"{row.summary[0].upper()}{row.summary[1:]}.",
    f"example:\n{_example(called, row.example)}",
  ]
  flags = (*row.flags, *(("config",) if row.config else ()), "traceback")
  parts.append(f"flags:\n{_table(describe_flags(flags))}")
  if row.keys:
    parts.append(
      f"keys that matter first (all of them: {program} config):\n"
      f"{_table(config_help.summarise(row.keys))}"
    )
  return "\n\n".join(parts)


def _example(called: str, flags: str) -> str:
  """A command line, broken as in a shell where it is long."""
  lines = textwrap.wrap(
    f"{called} {flags}", _WIDTH - 4, break_on_hyphens=False,
    break_long_words=False, initial_indent="  ", subsequent_indent="    ",
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
