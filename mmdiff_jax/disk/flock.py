"""The kernel's locks on open files: they end with the process, however it ends.

They tell machines apart where the file system carries them (NFS and Lustre do);
buckets that are mounted as folders mostly keep them to one machine.
"""

import errno
import fcntl
import os
import pathlib

# What file systems answer that cannot lock at all.
_UNABLE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class NoLocksError(OSError):
  """The file system has no locks."""


def try_lock(file: int) -> bool:
  """Locks an open file; returns whether nobody else holds its lock.

  Raises:
    NoLocksError: where nothing can be locked.
    OSError: if locking fails otherwise.
  """
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError as error:
    if error.errno not in _UNABLE:
      raise
    raise NoLocksError(error.errno, error.strerror) from error
  return True


def is_at(file: int, path: str | os.PathLike) -> bool:
  """Whether an open file is the one that lies at `path`."""
  try:
    return os.path.samestat(os.fstat(file), os.stat(pathlib.Path(path)))
  except FileNotFoundError:
    return False
