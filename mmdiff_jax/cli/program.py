"""From a command line to a command that runs, or to one clear line."""

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import flags
from absl import logging as absl_logging
from ml_collections import ConfigDict

import mmdiff_jax
from mmdiff_jax import configuration
from mmdiff_jax.cli import help_text, overrides, places
from mmdiff_jax.cli.commands import COMMANDS
from mmdiff_jax.cli.flags import parse_flags

_STORES = ("aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "s3fs")
_HELP = ("--help", "-h", "help")


class _UsageError(ValueError):
  """A command line that does not say what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command.

  Args:
    arguments: of the command line; None takes those of this process.

  Returns:
    The exit status: 0, 1 for a mistake (one line on stderr), or 130 where an
    interrupted command ended by itself.
  """
  program = _program()
  arguments = sys.argv[1:] if arguments is None else list(arguments)
  if arguments and arguments[0] in _HELP:
    print(help_text.overview(program))
    return 0
  if arguments and arguments[0] == "--version":
    print(f"mmdiff-jax {mmdiff_jax.__version__}")
    return 0
  traceback = "--traceback" in arguments
  name = arguments[0] if arguments else ""
  try:
    _check_name(name)
    if COMMANDS[name].own_parser:
      return _run_own_parser(program, name, arguments[1:])
    if any(argument in _HELP for argument in arguments[1:]):
      print(help_text.command(program, name))
      return 0
    return _run(name, arguments[1:])
  except _UsageError as error:
    if traceback:
      raise
    about = f"{program} {name} --help" if name in COMMANDS else None
    print(f"error: {error}", file=sys.stderr)
    print(f"See: {about or program + ' --help'}", file=sys.stderr)
    return 1
  except (ValueError, OSError, RuntimeError, ImportError) as error:
    if traceback:
      raise
    _leave_hosts(error)
    print(f"error: {error}", file=sys.stderr)
    return 1
  except Exception as error:
    # The clients of object stores have errors of their own.
    if traceback or type(error).__module__.split(".")[0] not in _STORES:
      raise
    print(f"error: object store: {error}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    _leave(COMMANDS[name].resumable)


def _program() -> str:
  """How this program is called, for messages that can be typed in again."""
  called = os.path.basename(sys.argv[0])
  return "python main.py" if called == "main.py" else "mmdiff-jax"


def _check_name(name: str) -> None:
  if name in COMMANDS:
    return
  if not name or name.startswith("-"):
    raise _UsageError(f"name a command first: {', '.join(COMMANDS)}.")
  close = difflib.get_close_matches(name, COMMANDS, 1)
  hint = f" Did you mean {close[0]!r}?" if close else ""
  raise _UsageError(f"unknown command {name!r}.{hint}")


def _run_own_parser(program: str, name: str, arguments: Sequence[str]) -> int:
  _set_up_logging()
  configuration.add_top_level()
  for argument in arguments:
    places.check_argument(name, argument)
  return COMMANDS[name].run(arguments, f"{program} {name}") or 0


def _run(name: str, arguments: Sequence[str]) -> int:
  command = COMMANDS[name]
  options, config, argument = _parse(name, arguments)
  _set_up_logging()
  places.check_flags(options)
  inputs: list[object] = [options]
  if config is not None:
    if name != "config":
      places.check_config(config)
    _keep_compiled_programs(config.compilation_cache)
    inputs.append(config)
  if argument:
    if name != "config":
      places.check_argument(name, argument)
    inputs.append(argument)
  _join_hosts(options)
  return command.run(*inputs) or 0


def _parse(
  name: str, arguments: Sequence[str]
) -> tuple[argparse.Namespace, ConfigDict | None, str]:
  """Reads a command's flags, configuration, and argument ("" for none)."""
  command = COMMANDS[name]
  flags = (
    *command.flags,
    *(("config",) if command.config else ()),
    "traceback",
  )
  try:
    changes, arguments = overrides.split_overrides(arguments)
    options, others = parse_flags(flags, arguments)
    _check_others(name, others)
    if changes and not command.config:
      raise ValueError(f"{name} reads no configuration; leave --config out.")
    if command.argument == "DIR" and not others:
      raise ValueError(f"{name} takes one directory: {name} DIR.")
    options.overridden = {key for key, _ in changes}
    config = None
    if command.config:
      config = configuration.load_config(options.config or "default")
      for key, text in changes:
        overrides.override(config, key, text)
  except ValueError as error:
    raise _UsageError(*error.args) from error
  return options, config, others[0] if others else ""


def _check_others(name: str, others: Sequence[str]) -> None:
  """Raises ValueError for what is neither a flag nor a wanted argument."""
  command = COMMANDS[name]
  for argument in others:
    if not argument.startswith("-"):
      continue
    flag = argument.lstrip("-").split("=")[0]
    if flag == "config":
      raise ValueError(f"{name} reads no configuration; leave --config out.")
    if not argument.startswith("--"):
      raise ValueError(f"{argument}: flags begin with two dashes: -{argument}.")
    takers = [other for other, row in COMMANDS.items() if flag in row.flags]
    if takers:
      raise ValueError(
        f"--{flag} is a flag of {', '.join(takers)}, not of {name}; leave it "
        "out."
      )
    close = difflib.get_close_matches(flag, (*command.flags, "config"), 1)
    hint = f"Did you mean --{close[0]}?" if close else "There is no such flag."
    raise ValueError(f"unknown flag --{flag}. {hint}")
  if len(others) > bool(command.argument):
    raise ValueError(f"unexpected argument {others[-1]!r}.")


def _join_hosts(options: argparse.Namespace) -> None:
  """Makes the processes of all hosts one run, whose devices share the work.

  That run is in a child of this process, which watches over it.
  """
  if not hasattr(options, "distributed"):
    return
  ours = ("coordinator", "num_hosts", "host")
  values = [getattr(options, name) for name in ours]
  if not options.distributed:
    for name, value in zip(ours, values, strict=True):
      if value is not None:
        raise ValueError(f"--{name} goes with --distributed; add that flag.")
    return
  from mmdiff_jax.devices import hosts

  hosts.check_given(*values)
  if not hosts.is_watched():
    hosts.run_watched()
  hosts.watch_parent()
  from mmdiff_jax.devices.mesh import join_hosts

  join_hosts(*values)


def _leave_hosts(error: Exception) -> None:
  """Ends this process at once where it is one of several hosts of a run."""
  from mmdiff_jax.devices import hosts

  if hosts.is_watched():
    hosts.leave(error)


def _set_up_logging() -> None:
  """Our own messages from INFO on, everybody else's from WARNING on."""
  flags.FLAGS.mark_as_parsed()  # absl has flags for its logging.
  # XLA tells of slow compilations, which we announce, as if they were errors.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  absl_logging.use_absl_handler()
  absl_logging.set_verbosity(absl_logging.WARNING)
  # Orbax logs each failure several times, with tracebacks, and raises it too.
  absl_logging.get_absl_logger().addFilter(
    lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname
  )
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(message)s"))
  logger = logging.getLogger("mmdiff_jax")
  logger.addHandler(handler)
  logger.setLevel(logging.INFO)
  logger.propagate = False


def _keep_compiled_programs(folder: str) -> None:
  """Lets JAX find in `folder` what an earlier process compiled."""
  if folder and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Read by JAX when it is imported, which few commands need to be.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.expanduser(folder)


def _leave(resumable: bool) -> NoReturn:
  """Ends the process as shells report a SIGINT."""
  hint = ": the same command continues" if resumable else ""
  print(f"Interrupted{hint}.", file=sys.stderr, flush=True)
  sys.stdout.flush()
  # After an interrupted compilation, the usual exit ends in a segmentation
  # fault of XLA's.
  os._exit(130)
