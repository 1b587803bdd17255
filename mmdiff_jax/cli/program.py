"""From a command line to a command that runs, or to one clear line."""

import argparse
import logging
import os
import select
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from absl import flags
from absl import logging as absl_logging

import mmdiff_jax
from mmdiff_jax import configuration
from mmdiff_jax.cli import command_line, help_text, places
from mmdiff_jax.cli.command_line import CommandLine, UsageError
from mmdiff_jax.cli.commands import COMMANDS
from mmdiff_jax.cli.parser import program_name
from mmdiff_jax.disk.names import one_line

_STORES = ("aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "s3fs")
# As shells report a program that SIGPIPE ends.
_UNREAD = 128 + 13
_HELP = ("--help", "-h", "help")


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command.

  Args:
    arguments: of the command line; None takes those of this process.

  Returns:
    The exit status: 0, 1 for a mistake (one line on stderr), or 130 where an
    interrupted command ended by itself.
  """
  arguments = sys.argv[1:] if arguments is None else list(arguments)
  traceback = "--traceback" in arguments
  try:
    if any(argument in _HELP for argument in arguments):
      print(_help(arguments), flush=True)
      return 0
    if arguments[:1] == ["--version"]:
      print(f"mmdiff-jax {mmdiff_jax.__version__}")
      return 0
    return _run(command_line.read(arguments))
  except UsageError as error:
    if traceback:
      raise
    print(f"error: {one_line(error)}", file=sys.stderr)
    print(f"See: {_about(arguments)} --help", file=sys.stderr)
    return 1
  except (ValueError, OSError, RuntimeError, ImportError) as error:
    if isinstance(error, BrokenPipeError) and _is_unread(sys.stdout):
      return _UNREAD
    if traceback:
      raise
    _leave_hosts(error)
    print(f"error: {one_line(error)}", file=sys.stderr)
    return 1
  except Exception as error:
    # The clients of object stores have errors of their own.
    if traceback or type(error).__module__.split(".")[0] not in _STORES:
      raise
    print(f"error: object store: {one_line(error)}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    return _interrupted(arguments)


def _is_unread(stream: TextIO) -> bool:
  """Whether the reader of a pipe has ended, as `head` does.

  What is left to be written is dropped then.
  """
  poll = select.poll()
  poll.register(stream.fileno(), 0)  # An error is always reported.
  if not any(event & select.POLLERR for _, event in poll.poll(0)):
    return False
  os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
  return True


def _help(arguments: Sequence[str]) -> str:
  """Help of the program, of a group of commands or of one."""
  if arguments[0] in _HELP:
    return help_text.overview()
  group = command_line.group_of(arguments[0])
  if group and arguments[1] in _HELP:
    return help_text.group(group)
  return help_text.command(command_line.split_name(arguments)[0])


def _about(arguments: Sequence[str]) -> str:
  """What has help of the command that was meant."""
  try:
    name = command_line.split_name(arguments)[0]
  except UsageError:
    name = ""
    if arguments and command_line.group_of(arguments[0]):
      name = arguments[0]
  return f"{program_name()} {name}".rstrip()


def _run(line: CommandLine) -> int:
  command_line.check_complete(line)
  _set_up_logging()
  configuration.add_top_level()
  places.check_flags(line)
  places.check_target(line)
  inputs: list[Any] = [line.options]
  if line.config is not None:
    if line.name != "config":
      places.check_config(line.config)
    _keep_compiled_programs(line.config.compilation_cache)
    inputs.append(line.config)
  _join_hosts(line.options)
  command = COMMANDS[line.name]
  if command.devices and os.environ.get("JAX_PLATFORMS"):
    from mmdiff_jax.devices.mesh import find_devices

    find_devices()  # Fails here rather than in the middle of the work.
  status = command.run(*inputs) or 0
  # Where nobody reads any more, this fails, not the end of the process.
  sys.stdout.flush()
  return status


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


def _interrupted(arguments: Sequence[str]) -> int:
  """Says whether the same command continues; the status is that of a SIGINT."""
  resumable = COMMANDS[command_line.split_name(arguments)[0]].resumable
  hint = ": the same command continues" if resumable else ""
  print(f"Interrupted{hint}.", file=sys.stderr, flush=True)
  sys.stdout.flush()
  if "jax" in sys.modules:
    # After an interrupted compilation, the usual exit ends in a segmentation
    # fault of XLA's.
    os._exit(130)
  return 130
