"""Checksums of all files of a directory, kept in a file beside them."""

import importlib
import json
import os
import pathlib
import zlib
from collections.abc import Callable, Collection
from typing import Any

from mmdiff_jax.disk.files import as_path, file_size, list_files, write_json

CHECKSUMS = "checksums.json"

_CHUNK = 1 << 20


def json_checksum(value: Any) -> str:
  """Checksum of a JSON value, whatever the order of its keys."""
  return f"{zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"


def _extend(name: str) -> Callable[[int, bytes], int] | None:
  """The function `(checksum so far, bytes) -> checksum`, where there is one."""
  if name == "crc32":
    return lambda value, data: zlib.crc32(data, value)
  # Late and optional: a bare accelerator machine lacks it. It reads 4 GB/s.
  try:
    return importlib.import_module("google_crc32c").extend
  except ImportError:
    return None


def checksum(path: str | os.PathLike, name: str = "crc32c") -> str | None:
  """Checksum of a file's content in hexadecimal digits, read in pieces.

  Args:
    path: the file.
    name: "crc32c" or "crc32".

  Returns:
    None where this machine cannot compute it (crc32c without google-crc32c).
  """
  extend = _extend(name)
  if extend is None:
    return None
  value = 0
  with as_path(path).open("rb") as file:
    while data := file.read(_CHUNK):
      value = extend(value, data)
  return f"{value:08x}"


def write_checksums(
  directory: str | os.PathLike, *, skip: Collection[str] = ()
) -> None:
  """Writes `checksums.json`: size and checksum of each file of a directory.

  Args:
    directory: the files of its folders count too.
    skip: names of files that are left out.
  """
  name = "crc32c" if _extend("crc32c") else "crc32"
  files = {
    below: {"bytes": file_size(path), name: checksum(path, name)}
    for below, path in list_files(directory)
    if path.name not in (CHECKSUMS, *skip)
  }
  write_json(as_path(directory) / CHECKSUMS, files)


def find_changes(
  directory: str | os.PathLike, *, largest: int | None = None
) -> list[str] | None:
  """Compares a directory with its checksums.

  Args:
    directory: where `write_checksums` was called.
    largest: files of more bytes are not read, only their size is compared.

  Returns:
    What differs, a line for each file; None where no checksums were written.
  """
  folder = as_path(directory)
  path = folder / CHECKSUMS
  if not path.exists():
    return None
  try:
    entries = dict(json.loads(path.read_text()))
    return [
      f"{name} {change}"
      for name, entry in entries.items()
      if (change := _change(folder / name, dict(entry), largest))
    ]
  except (ValueError, TypeError, KeyError) as error:
    return [f"{CHECKSUMS} is damaged ({type(error).__name__})"]


def _change(path: pathlib.Path, entry: dict, largest: int | None) -> str | None:
  """What has become of a file since its checksum was taken, if anything."""
  size = int(entry.pop("bytes"))
  ((name, wanted),) = entry.items()
  try:
    found = file_size(path)
  except FileNotFoundError:
    return "is missing"
  if found != size:
    return f"has {found} bytes of {size}"
  if largest is not None and size > largest:
    return None
  value = checksum(path, name)
  # None: this machine cannot tell.
  if value is not None and value != wanted:
    return "is not what was written (its checksum differs)"
  return None
