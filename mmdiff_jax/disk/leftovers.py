"""Temporary files, and those that killed processes left.

A temporary file is locked for as long as somebody writes to it. Its lock, not
its name or its age, tells whether it is left over: that holds in containers
that share a volume, whatever they call themselves.
"""

import contextlib
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Iterator

from mmdiff_jax.disk.flock import NoLocksError, is_at, try_lock

# .NAME.RANDOM.tmp is the locked file; of a folder, its content follows.
_TEMPORARY = re.compile(r"(\..+\.[0-9a-f]{16}\.tmp)(\.folder.*)?", re.DOTALL)
# Of the final name, which is for people and may be as long as names can be.
_NAME_LENGTH = 40
# Folders below the one that is cleared: previews/STEP of a run.
_DEPTH = 2


@contextlib.contextmanager
def temporary_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields an empty, locked file beside `path`; removes what is left of it."""
  temporary, file = _create(path)
  try:
    yield temporary
  finally:
    temporary.unlink(missing_ok=True)
    os.close(file)


@contextlib.contextmanager
def temporary_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a free name beside `path` for a folder; removes what is left there.

  Names that begin with it count too. The lock is that of a file beside it: not
  every file system locks folders.
  """
  with temporary_file(path) as beside:
    folder = beside.with_name(f"{beside.name}.folder")
    try:
      yield folder
    finally:
      _remove_folders(beside)


def _create(path: pathlib.Path) -> tuple[pathlib.Path, int]:
  """A new locked file beside `path`, and its descriptor."""
  while True:
    name = f".{path.name[:_NAME_LENGTH]}.{secrets.token_hex(8)}.tmp"
    temporary = path.with_name(name)
    file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
      # Where there are no locks, nobody can find it unlocked either.
      with contextlib.suppress(NoLocksError):
        try_lock(file)
      if is_at(file, temporary):
        return temporary, file
    except BaseException:
      os.close(file)
      temporary.unlink(missing_ok=True)
      raise
    # Another process took it for left over ahead of its lock.
    os.close(file)


def remove_leftovers(folder: str | os.PathLike, *, below: bool = False) -> None:
  """Removes temporary files that nobody writes to any more.

  What cannot be locked or removed stays.

  Args:
    folder: local; need not exist.
    below: whether its folders, and those in them, count too.
  """
  for entry in _entries(folder, _DEPTH if below else 0):
    match = _TEMPORARY.fullmatch(entry.name)
    if match is not None:
      _remove_if_left(pathlib.Path(entry.path).with_name(match[1]))


def _entries(folder: str | os.PathLike, depth: int) -> Iterator[os.DirEntry]:
  try:
    entries = list(os.scandir(os.fspath(folder)))
  except OSError:
    return
  for entry in entries:
    yield entry
    if depth and entry.is_dir(follow_symlinks=False):
      yield from _entries(entry.path, depth - 1)


def _remove_if_left(path: pathlib.Path) -> None:
  """Removes a temporary file, and the folder of it, unless it is locked."""
  with contextlib.ExitStack() as stack:
    try:
      file = _open(path)
    except FileNotFoundError:
      # The folder of a file that is gone: its writer, too.
      _remove_folders(path)
      return
    except OSError:
      return
    stack.callback(os.close, file)
    with contextlib.suppress(OSError):
      if try_lock(file):
        _remove_folders(path)
        path.unlink(missing_ok=True)


def _open(path: pathlib.Path) -> int:
  flags = os.O_NOFOLLOW | os.O_NONBLOCK
  try:
    # NFS locks only what is open for writing.
    return os.open(path, os.O_RDWR | flags)
  except PermissionError:
    return os.open(path, os.O_RDONLY | flags)


def _remove_folders(beside: pathlib.Path) -> None:
  for entry in _entries(beside.parent, 0):
    if entry.name.startswith(f"{beside.name}.folder"):
      shutil.rmtree(entry.path, ignore_errors=True)
