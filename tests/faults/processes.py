"""Work in forked processes, which can be ended or held at chosen points.

What the work imports is imported once, ahead of the fork: a try takes what the
work takes. JAX must not have started its threads by then.
"""

import contextlib
import fcntl
import mmap
import os
import pickle
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# What may come out wrong if the process ends ahead of it; with os.fsync.
_EVENTS = {"os.rename", "os.remove", "os.rmdir"}
_PIPE_SIZE = 1 << 20
# Seconds after which a process counts as hanging.
PATIENCE = 240.0
# Seconds in which the processes of an ended one must end too.
_GRACE = 10.0


class Point(NamedTuple):
  """A signal ahead of the n-th rename, removal or fsync, from 0."""

  number: int
  signal: int = signal.SIGKILL


class Child:
  """A process that runs a function; its status is the function's result."""

  def __init__(
    self,
    work: Callable[[], int | None],
    *,
    point: Point | None = None,
    file_limit: int | None = None,
    environment: Mapping[str, str] | None = None,
  ):
    """Starts it.

    Args:
      work: returns an exit status, or raises SystemExit.
      point: where it gets a signal.
      file_limit: bytes that a file may grow to; a write beyond fails, as on a
        disk that is full.
      environment: variables to set.
    """
    self._counter = mmap.mmap(-1, 8)
    self._output, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    self.pid = os.fork()
    if self.pid == 0:
      os.setpgid(0, 0)
      os.environ.update(environment or {})
      os.dup2(write_end, 1)
      os.dup2(write_end, 2)
      self._run(work, point, file_limit)
    os.close(write_end)

  def _run(
    self, work: Callable, point: Point | None, file_limit: int | None
  ) -> None:
    status = 1
    try:
      self._watch(point)
      if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
      status = work() or 0
    except SystemExit as error:
      status = error.code if isinstance(error.code, int) else bool(error.code)
      if isinstance(error.code, str):
        print(error.code, file=sys.stderr)
    except BaseException:
      traceback.print_exc()
    finally:
      with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
      os._exit(status)

  def _watch(self, point: Point | None) -> None:
    """Counts the events, and sends the signal at one of them."""
    seen = 0

    def tick() -> None:
      nonlocal seen
      if point is not None and seen == point.number:
        os.kill(os.getpid(), point.signal)
      seen += 1
      self._counter[:8] = struct.pack("q", seen)

    def audit(event: str, arguments: Any) -> None:
      if event in _EVENTS:
        tick()

    original = os.fsync

    def fsync(file: int) -> None:
      tick()
      original(file)

    sys.addaudithook(audit)
    os.fsync = fsync

  @property
  def events(self) -> int:
    """Renames, removals and fsyncs so far."""
    return struct.unpack("q", self._counter[:8])[0]

  def wait(self, seconds: float = PATIENCE) -> int | None:
    """Status, negative for a signal; None if it has not ended by then."""
    deadline = time.monotonic() + seconds
    while True:
      pid, status = os.waitpid(self.pid, os.WNOHANG)
      if pid:
        return os.waitstatus_to_exitcode(status)
      if time.monotonic() > deadline:
        return None
      time.sleep(0.01)

  def wait_until_held(self) -> bool:
    """Waits for a SIGSTOP; False if it ended first."""
    pid, status = os.waitpid(self.pid, os.WUNTRACED)
    return os.WIFSTOPPED(status)

  def text(self) -> str:
    """What it has printed; once it has ended."""
    with open(self._output, errors="replace") as file:
      return file.read()

  def has_orphans(self) -> bool:
    """Whether processes that it started live on; they are ended then."""
    deadline = time.monotonic() + _GRACE
    while time.monotonic() < deadline:
      try:
        os.killpg(self.pid, 0)
      except ProcessLookupError:
        return False
      time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self.pid, signal.SIGKILL)
    return True


def call(function: Callable, *arguments: Any) -> Any:
  """Result of a function in a process of its own.

  Raises:
    RuntimeError: if it raises; the message is the traceback.
  """
  with tempfile.TemporaryFile() as file:

    def work() -> int:
      pickle.dump(function(*arguments), file)
      file.flush()
      return 0

    child = Child(work)
    if child.wait(10 * PATIENCE) != 0:
      raise RuntimeError(child.text())
    file.seek(0)
    return pickle.load(file)
