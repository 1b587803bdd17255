"""One process that watches another, so that a lost host is one line.

JAX ends a process whose fellow host died from native code, with a dump that
Python can neither catch nor precede. So on several hosts the command runs in a
child, and the process that was started passes on its output and judges how it
ended.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from types import FrameType
from typing import IO, NoReturn

# As sysexits.h: what failed may succeed when it is tried again.
LOST_HOST = 75
_WATCHED = "MMDIFF_JAX_WATCHED_BY"
# Native lines on a lost host; the dump follows them.
_FATAL = re.compile(
  rb"[EFW]\d{4} .*(?:coordination_service|distributed/client|client\.h:"
  rb"|Failed to retrieve preemption notice)"
)
# Python errors of a collective whose other side is gone.
_BROKEN = re.compile(
  r"gloo|nccl|coordination service|connection (closed|reset)|socket closed",
  re.I,
)
_LOST = re.compile(
  rb"detected fatal errors|stopped sending heartbeats|is lost \(it ended"
)
_SILENT = re.compile(rb"stopped sending heartbeats\):\s*([\d, \n]+)")


def check_given(
  coordinator: str | None, num_hosts: int | None, host: int | None
) -> None:
  """Raises ValueError unless all three are given and fit, or none is."""
  given = {"coordinator": coordinator, "num_hosts": num_hosts, "host": host}
  missing = [f"--{name}" for name, value in given.items() if value is None]
  if 0 < len(missing) < len(given):
    raise ValueError(
      f"--distributed: {', '.join(missing)} is missing; give "
      f"{', '.join(f'--{name}' for name in given)} together, or none of them."
    )
  if host is not None and num_hosts is not None and host >= num_hosts:
    raise ValueError(f"--host={host} must be below --num_hosts={num_hosts}.")


def is_watched() -> bool:
  """Whether this process is the child that does the work."""
  return _WATCHED in os.environ


def run_watched() -> NoReturn:
  """Runs this very command in a child and exits as it does.

  Signals go to both from a terminal, and are passed on otherwise. Where the
  child was ended by native code because another host is lost, one line says so
  in place of the dump, and the status is `LOST_HOST`.
  """
  ours, theirs = os.pipe()
  child = subprocess.Popen(
    [sys.executable, *sys.orig_argv[1:]],
    env=os.environ | {_WATCHED: str(ours)},
    stderr=subprocess.PIPE,
    pass_fds=[ours],
  )
  os.close(ours)

  def forward(signum: int, frame: FrameType | None) -> None:
    del frame
    child.send_signal(signum)

  signal.signal(signal.SIGTERM, forward)
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  assert child.stderr is not None
  held = pass_on(child.stderr, sys.stderr.buffer)
  status = child.wait()
  os.close(theirs)
  # The child may have said so itself among the native words, or have failed of
  # the lost host, as in a save, before it was ended.
  if held and (status < 0 or (status and _LOST.search(held))):
    print(lost_line(held), file=sys.stderr, flush=True)
    sys.exit(LOST_HOST)
  sys.stderr.buffer.write(held)
  sys.stderr.flush()
  sys.exit(status if status >= 0 else 128 - status)


def watch_parent() -> None:
  """Ends this process when the one that watches it is gone."""
  pipe = int(os.environ[_WATCHED])

  def wait() -> None:
    os.read(pipe, 1)  # Nothing is ever written: it ends with the other side.
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()


def leave(error: Exception) -> NoReturn:
  """Prints an error and ends, without waiting for the other hosts.

  JAX's own exit waits for them, and they may be waiting for this one. Where the
  error is that another host is lost, it is told as such.
  """
  message, status = f"error: {error}", 1
  if _BROKEN.search(str(error)):
    cause = str(error).strip().split("\n")[0][:120]
    message, status = f"{lost_line(b'')} ({cause})", LOST_HOST
  print(message, file=sys.stderr, flush=True)
  sys.stdout.flush()
  os._exit(status)


def pass_on(source: IO[bytes], sink: IO[bytes]) -> bytes:
  """Copies a stream as it comes, up to native words on a lost host.

  Returns:
    Those words and what follows them.
  """
  line = held = b""
  while chunk := os.read(source.fileno(), 2**16):
    if held:
      held += chunk
      continue
    # What is looked at is the line that is not over yet, and the chunk.
    text = line + chunk
    match = _FATAL.search(text)
    if match:
      held = text[match.start() :]
      chunk = text[len(line) : match.start()]
      if not text[: match.start()].endswith(b"\n"):
        chunk += b"\n"  # Behind a progress bar.
    sink.write(chunk)
    sink.flush()
    line = text[text.rfind(b"\n") + 1 :]
  return held


def lost_line(words: bytes) -> str:
  """What is told of a lost host, by the native words on it."""
  found = _SILENT.search(words)
  numbers = re.findall(r"\d+", found[1].decode()) if found else []
  which = f"host {', '.join(numbers)}" if numbers else "another host"
  return (
    f"error: {which} is lost (it ended, or its connection did), so this host "
    "ends too. The same command on all hosts continues from the last "
    "checkpoint."
  )
