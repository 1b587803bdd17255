"""Programs that are compiled, or were in an earlier run."""

import logging
import time
from collections.abc import Mapping

import jax

_log = logging.getLogger(__name__)

# What JAX reports where it finds a program in the compilation cache.
_HIT = "/jax/compilation_cache/cache_hits"
_hits: list[str] = []


def _listen(event: str, **details: str | int) -> None:
  del details
  if event == _HIT:
    _hits.append(event)


jax.monitoring.register_event_listener(_listen)


def announce(what: str) -> None:
  """Says that a program is made ready, which may take a while."""
  _log.info(
    "Preparing %s: a minute or two where no earlier run has compiled it.", what
  )


def compile_lowered(
  lowered: jax.stages.Lowered,
  what: str,
  options: Mapping[str, str | bool] | None = None,
) -> jax.stages.Compiled:
  """Compiles a program, or loads it, and says which.

  Args:
    lowered: the program.
    what: it is, for the log.
    options: of the compiler.
  """
  started, hits = time.perf_counter(), len(_hits)
  compiled = lowered.compile(compiler_options=dict(options or {}) or None)
  done = "loaded" if len(_hits) > hits else "compiled"
  _log.info("%s: %s in %.0f s.", what, done, time.perf_counter() - started)
  return compiled
