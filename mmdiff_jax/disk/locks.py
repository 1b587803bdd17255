"""One writer to a directory."""

import contextlib
import logging
import os
import pathlib
import socket
from collections.abc import Iterator

from mmdiff_jax.disk.files import as_path, is_cloud, naming, unreachable
from mmdiff_jax.disk.flock import NoLocksError, is_at, try_lock
from mmdiff_jax.disk.leftovers import remove_leftovers

_log = logging.getLogger(__name__)

LOCK = ".lock"


class InUseError(OSError):
  """Another process writes to the directory."""


class Lock:
  """A directory of which this process is the only writer.

  The lock is the kernel's (see `flock`), on `<directory>/.lock`. An object
  store has none: `.lock` then says who writes, and keeps nobody out.
  """

  def __init__(self, directory: str | os.PathLike, file: int | None):
    """`file` is the open lock; None where there are no locks."""
    self._directory = directory
    self._file = file

  def check(self) -> None:
    """Raises FileNotFoundError if the directory was deleted or replaced."""
    if self._file is None:
      return
    if not is_at(self._file, pathlib.Path(self._directory) / LOCK):
      raise FileNotFoundError(
        f"{self._directory} was deleted or replaced while this process wrote "
        "to it; run the same command again."
      )


@contextlib.contextmanager
def locked(directory: str | os.PathLike) -> Iterator[Lock]:
  """Makes a directory if need be, and keeps other processes from writing to it.

  What earlier ones left unfinished is removed.

  Raises:
    InUseError: if one does already; the message names it.
    OSError: if the directory cannot be made or written to.
  """
  if is_cloud(directory):
    with _announced(directory):
      yield Lock(directory, None)
    return
  folder = pathlib.Path(directory)
  path = folder / LOCK
  while True:
    # Also after another process that removed what it had made.
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
      _lock(file, folder)
      if is_at(file, path):
        break
    except BaseException:
      os.close(file)
      raise
    # Its holder removed the file between our two calls.
    os.close(file)
  try:
    with naming(path):
      os.ftruncate(file, 0)
      os.pwrite(file, _who().encode(), 0)
    remove_leftovers(folder, below=True)
    yield Lock(folder, file)
  finally:
    if is_at(file, path):
      path.unlink()
    os.close(file)


def _who() -> str:
  return f"process {os.getpid()} on {socket.gethostname()}"


@contextlib.contextmanager
def _announced(directory: str | os.PathLike) -> Iterator[None]:
  """Says in an object store who writes there; warns of somebody who does.

  It also shows, ahead of the work, whether the place can be written to.
  """
  path = as_path(directory) / LOCK
  with unreachable(directory):
    if path.exists():
      _log.warning(
        "%s: %s writes there, or was killed. Object stores have no locks: take "
        "care that it does not.",
        directory,
        path.read_text(),
      )
    path.write_text(_who())
  try:
    yield
  finally:
    path.unlink(missing_ok=True)


def _lock(file: int, folder: pathlib.Path) -> None:
  try:
    if try_lock(file):
      return
  except NoLocksError as error:
    _log.warning(
      "%s cannot be locked (%s): take care that no other process writes to it.",
      folder,
      error.strerror,
    )
    return
  holder = os.pread(file, 200, 0).decode(errors="replace").strip()
  raise InUseError(
    f"{folder} is in use by {holder or 'another process'}; wait until it "
    "ends, stop it, or choose another directory."
  )
