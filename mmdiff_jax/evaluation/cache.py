"""What was computed of clips, kept by their content."""

import hashlib
import io
import logging
import os
import pathlib
import zlib

import numpy as np

from mmdiff_jax.disk.files import replacing
from mmdiff_jax.disk.leftovers import remove_leftovers

_log = logging.getLogger(__name__)

# Hexadecimal digits of the checksum at the end of a file.
_CHECKSUM = 8
_DIGITS = 32


def default_cache_dir() -> pathlib.Path | None:
  """The user's cache folder: $XDG_CACHE_HOME or ~/.cache, `mmdiff_jax`.

  None for a user without a home directory.
  """
  base = os.environ.get("XDG_CACHE_HOME")
  try:
    return pathlib.Path(base or "~/.cache").expanduser() / "mmdiff_jax"
  except RuntimeError:
    return None


class ClipCache:
  """Arrays by clip, each in a file of its own.

  A file is found by the hash of the clip's content and of what it was made
  into, so that a changed clip or network is never taken for the old one, and
  the same clips in another order are the same. A file ends with a CRC-32 of
  its content and its name. One that is damaged is not there.
  """

  def __init__(self, cache_dir: str | os.PathLike | None, kind: str):
    """Keeps files in the folder `kind` of `cache_dir`; None keeps nothing."""
    self._folder = None
    self._is_writable = cache_dir is not None
    if cache_dir is None:
      return
    self._folder = pathlib.Path(cache_dir).expanduser() / kind
    remove_leftovers(self._folder, below=True)

  @property
  def is_used(self) -> bool:
    """Whether anything is kept."""
    return self._folder is not None

  def _path(self, name: str, version: str, digest: str) -> pathlib.Path | None:
    if self._folder is None:
      return None
    made = hashlib.sha256(f"{name}\n{version}".encode()).hexdigest()
    return self._folder / f"{name}-{made[:_DIGITS]}" / digest[:_DIGITS]

  def read(self, name: str, version: str, digest: str) -> np.ndarray | None:
    """An array, or None where there is none that is whole.

    Args:
      name: of what the clip was made into.
      version: of how.
      digest: of the clip.
    """
    path = self._path(name, version, digest)
    try:
      data = path.read_bytes() if path else b""
    except OSError:
      return None
    content, checksum = data[:-_CHECKSUM], data[-_CHECKSUM:]
    if path is None or checksum != checksum_of(path, content):
      return None
    return np.load(io.BytesIO(content), allow_pickle=False)

  def write(
    self, name: str, version: str, digest: str, values: np.ndarray
  ) -> None:
    """Keeps an array, if it is to be kept; see `read`."""
    path = self._path(name, version, digest)
    if path is None or not self._is_writable:
      return
    content = io.BytesIO()
    np.save(content, values, allow_pickle=False)
    data = content.getvalue()
    try:
      with replacing(path) as temporary:
        pathlib.Path(temporary).write_bytes(data + checksum_of(path, data))
    except OSError as error:
      self._is_writable = False
      _log.warning(
        "Nothing more is kept in the cache %s (%s): the next run computes it "
        "again.",
        self._folder,
        error.strerror or error,
      )


def checksum_of(path: pathlib.Path, content: bytes) -> bytes:
  """What a file of the cache ends with: of its content and its name."""
  name = f"{path.parent.name}/{path.name}".encode()
  return f"{zlib.crc32(content, zlib.crc32(name)):08x}".encode()
