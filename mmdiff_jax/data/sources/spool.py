"""Long arrays that grow: in memory while they are short, then in a file."""

import tempfile
from typing import Any

import numpy as np


class Spool:
  """Arrays in a row, whatever they add up to in little memory.

  The file has no name: it is gone with the array, or with the process.
  """

  def __init__(self, limit: int):
    """Holds up to `limit` bytes in memory."""
    self._limit, self._size, self._count = limit, 0, 0
    self._parts: list[np.ndarray] = []
    self._file: Any = None
    self._like = np.zeros(0)

  def add(self, part: np.ndarray) -> None:
    """Appends `[n, ...]`, all of one type and of one shape but for n."""
    self._like = part[:0]
    self._count += len(part)
    self._size += part.nbytes
    self._parts.append(part)
    if self._file is None and self._size > self._limit:
      self._file = tempfile.TemporaryFile()
    if self._file is not None:
      for held in self._parts:
        self._file.write(np.ascontiguousarray(held).data)
      self._parts.clear()

  def joined(self) -> np.ndarray:
    """All of it; read from the file as it is looked at, if there is one."""
    if self._file is None:
      return np.concatenate(self._parts) if self._parts else self._like
    self._file.flush()
    shape = (self._count, *self._like.shape[1:])
    return np.memmap(self._file, self._like.dtype, "r", shape=shape)
