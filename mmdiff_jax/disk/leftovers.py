"""Names of what is being written, and what the dead have left under them."""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import time
import zlib
from collections.abc import Iterator

# .NAME.HOST.PID.tmp; what orbax makes of it until all is written follows.
_TEMPORARY = re.compile(
  r"\..+\.([0-9a-f]{8})\.([0-9]+)\.tmp(\.orbax-checkpoint-tmp.*)?", re.DOTALL
)
# After so long (seconds) nobody elsewhere is taken to be writing still.
_LONG = 86_400.0
# Folders below the one that is cleared: previews/STEP of a run.
_DEPTH = 2


def temporary_path(path: pathlib.Path) -> pathlib.Path:
  """A name beside `path` that tells which process uses it, and where."""
  return path.with_name(f".{path.name}.{_host()}.{os.getpid()}.tmp")


def remove_leftovers(folder: str | os.PathLike, *, below: bool = False) -> None:
  """Removes what processes that ended were writing to a folder.

  Those of this machine are asked for; what others were writing goes when it
  has been left alone for a day. What cannot be removed stays.

  Args:
    folder: local; need not exist.
    below: whether its folders, and those in them, count too.
  """
  for entry in _entries(folder, _DEPTH if below else 0):
    match = _TEMPORARY.fullmatch(entry.name)
    if match is None or not _is_left(entry, match[1], int(match[2])):
      continue
    if entry.is_dir(follow_symlinks=False):
      shutil.rmtree(entry.path, ignore_errors=True)
    else:
      with contextlib.suppress(OSError):
        os.unlink(entry.path)


def _entries(folder: str | os.PathLike, depth: int) -> Iterator[os.DirEntry]:
  try:
    entries = list(os.scandir(os.fspath(folder)))
  except OSError:
    return
  for entry in entries:
    yield entry
    if depth and entry.is_dir(follow_symlinks=False):
      yield from _entries(entry.path, depth - 1)


def _is_left(entry: os.DirEntry, host: str, process: int) -> bool:
  """Whether nobody writes to a temporary file or folder any more."""
  if host == _host():
    return not _is_alive(process)
  try:
    return time.time() - entry.stat(follow_symlinks=False).st_mtime > _LONG
  except OSError:
    return False


def _is_alive(process: int) -> bool:
  try:
    os.kill(process, 0)
  except (ProcessLookupError, OverflowError):
    return False
  except PermissionError:
    pass  # Somebody else's.
  return True


def _host() -> str:
  """This machine, in eight digits: a whole name may be too long for a file."""
  return f"{zlib.crc32(socket.gethostname().encode()):08x}"
