"""Arrays from .npz files, whatever somebody wrote into them.

The headers are read first: they must agree with the size of the data, so that
a few bytes cannot ask for terabytes. Nothing that is pickled is ever loaded.
"""

import contextlib
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np

from mmdiff_jax.disk.files import as_path

# No deflated member holds more bytes to a byte of the file.
_MOST_DEFLATED = 1032
_SUFFIX = ".npy"
_HEADERS = {
  (1, 0): np.lib.format.read_array_header_1_0,
  (2, 0): np.lib.format.read_array_header_2_0,
}


class Header(NamedTuple):
  """What a file says of an array."""

  shape: tuple[int, ...]
  dtype: np.dtype


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """All arrays of an .npz file by name.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if it is damaged, holds Python objects, or does not fit into
      memory; one line that names the file.
  """
  arrays = {}
  with _opened(path) as archive:
    for member in archive.infolist():
      with archive.open(member) as file:
        _read_header(file, member)
      with archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):
          raise ValueError(f"{member.filename} is longer than its array")
      arrays[member.filename.removesuffix(_SUFFIX)] = array
  return arrays


def npz_headers(path: str | os.PathLike) -> dict[str, Header]:
  """Shapes and types of the arrays of an .npz file, which are not read.

  Raises:
    FileNotFoundError, ValueError: see `read_npz`.
  """
  with _opened(path) as archive:
    headers = {}
    for member in archive.infolist():
      with archive.open(member) as file:
        name = member.filename.removesuffix(_SUFFIX)
        headers[name] = _read_header(file, member)
    return headers


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[zipfile.ZipFile]:
  """The members of a file; whatever they raise becomes one line."""
  try:
    with as_path(path).open("rb") as file, zipfile.ZipFile(file) as archive:
      yield archive
  except FileNotFoundError:
    raise
  except MemoryError as error:
    raise ValueError(f"{path} does not fit into memory.") from error
  except (
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
  ) as error:
    what = str(error).split("\n")[0] or type(error).__name__
    raise ValueError(
      f"{path} is not a whole .npz file of plain arrays ({what})."
    ) from error


def _read_header(file: IO[bytes], member: zipfile.ZipInfo) -> Header:
  """The header of a member, if the member can hold such an array.

  Raises:
    ValueError: if it cannot.
  """
  name = member.filename
  version = np.lib.format.read_magic(file)
  if version not in _HEADERS:
    raise ValueError(f"{name} is of an unknown version")
  try:
    shape, _, dtype = _HEADERS[version](file)
  except Exception as error:
    # A Python literal: what is wrong with it may be anything.
    raise ValueError(f"{name} has a damaged header") from error
  if dtype.hasobject:
    raise ValueError(f"{name} holds Python objects; save arrays of numbers")
  size = math.prod(shape) * dtype.itemsize
  there = member.file_size - file.tell()
  if min(shape, default=0) < 0 or size != there:
    raise ValueError(
      f"{name} declares {'x'.join(map(str, shape))} values of {dtype}, "
      f"{size:,} bytes, and has {there:,}"
    )
  if member.file_size > _MOST_DEFLATED * max(member.compress_size, 1) + 64:
    raise ValueError(f"{name} has fewer bytes than it declares")
  return Header(shape, dtype)
