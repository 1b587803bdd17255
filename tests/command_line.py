"""Command lines that are run in the process of a test."""

from unittest import mock

from mmdiff_jax.cli import main, program


def call(*arguments):
  """Runs a command line; returns its exit status.

  Logging and the cache of compiled programs, which would outlive the test,
  stay as they are; an interrupted command does not take the process with it.
  """
  with (
    mock.patch.object(program, "_set_up_logging"),
    mock.patch.object(program, "_keep_compiled_programs"),
    mock.patch.object(program.os, "_exit"),
  ):
    return main([str(argument) for argument in arguments])
