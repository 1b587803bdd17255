"""TFRecord files: writing, reading in order, and random access, with CRCs.

A record is: length (uint64, little endian), masked CRC-32C of those 8 bytes
(uint32), the data, masked CRC-32C of the data (uint32). The mask rotates the
CRC right by 15 bits and adds a constant. Beside `x.tfrecord` lies
`x.tfrecord.idx`: a line "offset size" per record, header and CRCs included.
"""

import concurrent.futures
import contextlib
import os
import pathlib
import struct
import threading
from collections.abc import Iterator, Sequence

import google_crc32c

from mmdiff_jax.disk.files import (
  as_path,
  file_size,
  is_cloud,
  read_range,
  replacing,
)

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
OVERHEAD = _HEADER.size + _FOOTER.size
# Indices that are fetched from an object store at a time.
_FETCHERS = 32

_CURE = (
  "copy the shard again from a good copy, or delete it with dataset.json and"
  " rerun the preparation"
)


class CorruptRecordError(ValueError):
  """A damaged record; the message names shard, record and cure."""

  def __init__(self, path: str | os.PathLike, record: int, reason: str):
    super().__init__(f"{os.fspath(path)}#{record}: {reason}; {_CURE}.")
    self.reason = reason
    self._args = (os.fspath(path), record, reason)

  def __reduce__(self):
    return (CorruptRecordError, self._args)


def masked_crc(data: bytes) -> int:
  """CRC-32C of `data`, masked as the format wants."""
  crc = google_crc32c.value(data)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def index_path(path: str | os.PathLike) -> pathlib.Path:
  """Path of the index beside a shard."""
  return as_path(f"{os.fspath(path)}.idx")


class TFRecordWriter:
  """Writes a shard and its index; both appear whole or not at all.

  Use as a context manager: leaving it without an exception renames the files
  into place.
  """

  def __init__(self, path: str | os.PathLike):
    self._path = path
    self._pending = contextlib.ExitStack()
    temporary = self._pending.enter_context(replacing(path))
    self._pending.push(self._finish)
    self._file = open(temporary, "wb")
    self._offset = 0
    self._index: list[str] = []

  @property
  def num_records(self) -> int:
    """Records written so far."""
    return len(self._index)

  def write(self, data: bytes) -> None:
    """Appends a record."""
    length = struct.pack("<Q", len(data))
    self._file.write(length + _FOOTER.pack(masked_crc(length)))
    self._file.write(data)
    self._file.write(_FOOTER.pack(masked_crc(data)))
    size = len(data) + OVERHEAD
    self._index.append(f"{self._offset} {size}\n")
    self._offset += size

  def __enter__(self) -> "TFRecordWriter":
    return self

  def __exit__(self, kind, value, traceback) -> None:
    self._pending.__exit__(kind, value, traceback)

  def _finish(self, kind, value, traceback) -> None:
    """What goes ahead of the shard's getting its name."""
    if kind is None:
      self._file.flush()
      os.fsync(self._file.fileno())
    self._file.close()
    if kind is None:
      # The index first: a shard is never seen without one.
      with replacing(index_path(self._path)) as temporary:
        pathlib.Path(temporary).write_text("".join(self._index))


def read_records(path: str | os.PathLike) -> Iterator[bytes]:
  """Yields the records of a file in order, checking both CRCs.

  Raises:
    CorruptRecordError: if a CRC differs or the file ends within a record.
  """
  left = file_size(path)
  with as_path(path).open("rb") as file:
    record = 0
    while header := file.read(_HEADER.size):
      if len(header) < _HEADER.size:
        raise CorruptRecordError(path, record, "the file ends in a header")
      length = _checked_length(header, path, record)
      left -= length + OVERHEAD
      if left < 0:  # Ahead of asking for so many bytes.
        raise CorruptRecordError(
          path, record, "the file ends within the record"
        )
      rest = file.read(length + _FOOTER.size)
      yield _checked_data(rest, length, path, record)
      record += 1


def build_index(path: str | os.PathLike) -> list[tuple[int, int]]:
  """(offset, size) of every record of a file, from its headers alone.

  Raises:
    CorruptRecordError: if a header is damaged or the file is truncated.
  """
  entries: list[tuple[int, int]] = []
  offset = 0
  end = file_size(path)
  with as_path(path).open("rb") as file:
    while offset < end:
      file.seek(offset)
      header = file.read(_HEADER.size)
      if len(header) < _HEADER.size:
        raise CorruptRecordError(
          path, len(entries), "the file ends in a header"
        )
      size = _checked_length(header, path, len(entries)) + OVERHEAD
      if offset + size > end:
        raise CorruptRecordError(
          path,
          len(entries),
          f"truncated: the record ends at byte {offset + size}, the file at"
          f" {end}",
        )
      entries.append((offset, size))
      offset += size
  return entries


def read_index(path: str | os.PathLike) -> list[tuple[int, int]]:
  """The index of a shard from its file, or by a scan where that is missing.

  Raises:
    CorruptRecordError: if index and shard do not fit each other.
  """
  index = index_path(path)
  if not index.exists():
    return build_index(path)
  try:
    lines = index.read_text().splitlines()
    entries = [(int(a), int(b)) for a, b in (line.split() for line in lines)]
  except ValueError:
    return build_index(path)
  end, actual = sum(entries[-1]) if entries else 0, file_size(path)
  if actual < end:
    whole = sum(offset + size <= actual for offset, size in entries)
    raise CorruptRecordError(
      path, whole, f"truncated: {actual} bytes of {end} are there"
    )
  # A longer file than indexed: the index is stale.
  return entries if actual == end else build_index(path)


class TFRecordSource:
  """Random access to the records of several shards; thread-safe.

  Has the interface of grain's `RandomAccessDataSource`.
  """

  def __init__(self, paths: Sequence[str | os.PathLike]):
    """Reads the indices.

    Raises:
      ValueError: if a shard is missing, or truncated.
    """
    self._paths = [os.fspath(path) for path in paths]
    self._records: list[tuple[int, int, int, int]] = []
    for shard, entries in enumerate(_read_indices(self._paths)):
      for number, (offset, size) in enumerate(entries):
        self._records.append((shard, number, offset, size))
    self._files: dict[int, int] = {}
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> bytes:
    """Data of record `index`; raises CorruptRecordError."""
    shard, number, offset, size = self._records[index]
    path = self._paths[shard]
    if is_cloud(path):
      data = read_range(path, offset, size)
    else:
      data = os.pread(self._descriptor(shard), size, offset)
    header = data[: _HEADER.size]
    if len(header) < _HEADER.size:
      raise CorruptRecordError(path, number, "the file ends in a header")
    length = _checked_length(header, path, number)
    if length + OVERHEAD != size:
      raise CorruptRecordError(
        path, number, "the length differs from the index's"
      )
    return _checked_data(data[_HEADER.size :], length, path, number)

  def location(self, index: int) -> tuple[str, int]:
    """Shard and number within it of record `index`."""
    shard, number, _, _ = self._records[index]
    return self._paths[shard], number

  def close(self) -> None:
    """Closes the files; they open again when needed."""
    with self._lock:
      for descriptor in self._files.values():
        os.close(descriptor)
      self._files.clear()

  def __del__(self) -> None:
    if hasattr(self, "_lock"):
      self.close()

  def __getstate__(self) -> dict:
    return {"_paths": self._paths, "_records": self._records}

  def __setstate__(self, state: dict) -> None:
    self.__dict__.update(state, _files={}, _lock=threading.Lock())

  def __repr__(self) -> str:
    # grain writes the source into its checkpoints' metadata.
    return f"TFRecordSource({len(self._paths)} shards, {len(self)} records)"

  def _descriptor(self, shard: int) -> int:
    with self._lock:
      if shard not in self._files:
        self._files[shard] = os.open(self._paths[shard], os.O_RDONLY)
      return self._files[shard]


def _read_indices(paths: Sequence[str]) -> list[list[tuple[int, int]]]:
  """The indices of several shards; raises ValueError for a missing one."""

  def read(path: str) -> list[tuple[int, int]]:
    try:
      return read_index(path)
    except FileNotFoundError:
      raise ValueError(f"{path}: the shard is missing; {_CURE}.") from None

  if not any(map(is_cloud, paths)):
    return [read(path) for path in paths]
  with concurrent.futures.ThreadPoolExecutor(_FETCHERS) as threads:
    return list(threads.map(read, paths))


def _checked_length(header: bytes, path: str | os.PathLike, record: int) -> int:
  length, crc = _HEADER.unpack(header)
  if masked_crc(header[:8]) != crc:
    raise CorruptRecordError(path, record, "length crc mismatch")
  return length


def _checked_data(
  rest: bytes, length: int, path: str | os.PathLike, record: int
) -> bytes:
  if len(rest) < length + _FOOTER.size:
    raise CorruptRecordError(path, record, "the file ends within the record")
  data = rest[:length]
  (crc,) = _FOOTER.unpack(rest[length : length + _FOOTER.size])
  if masked_crc(data) != crc:
    raise CorruptRecordError(path, record, "data crc mismatch")
  return data
