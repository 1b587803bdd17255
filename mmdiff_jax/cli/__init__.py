"""The command line: `mmdiff-jax COMMAND` and `main.py COMMAND`."""

from mmdiff_jax.cli.program import main

__all__ = ["main"]
