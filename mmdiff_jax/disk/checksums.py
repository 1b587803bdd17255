"""Checksums: of files, of JSON values, and the list of those of a folder.

`checksums.json` lists the files of a folder, each with its size and CRC, and
carries the checksum of its own content. A file that changes after the list is
written carries its own checksum too; the list says where (`sealed`).
"""

import importlib
import json
import os
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from mmdiff_jax.disk.files import as_path, file_size, list_files, write_json

CHECKSUMS = "checksums.json"
# The key of a JSON object that holds the checksum of all others.
SEAL = "checksum"

_CHUNK = 1 << 20
# 1 was a flat table without a checksum of its own.
_VERSION = 2


class ChangedError(ValueError):
  """Content is not what its checksum was taken of."""


def json_checksum(value: Any) -> str:
  """Checksum of a JSON value, whatever the order of its keys."""
  return f"{zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
  """A JSON object with the checksum of its content, as it is read back."""
  # Through JSON: tuples become lists, and keys texts.
  plain = json.loads(json.dumps(dict(content)))
  return dict(content) | {SEAL: json_checksum(plain)}


def unseal(content: Mapping[str, Any]) -> dict[str, Any]:
  """A JSON object without its checksum, which is compared if there is one.

  Raises:
    ChangedError: if it differs.
  """
  values = dict(content)
  wanted = values.pop(SEAL, None)
  if wanted is not None and wanted != json_checksum(values):
    raise ChangedError("it is not what was written (its checksum differs)")
  return values


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


def list_entry(path: str | os.PathLike) -> dict[str, Any]:
  """What the list says of a file: its size and its checksum."""
  name = "crc32c" if _extend("crc32c") else "crc32"
  return {"bytes": file_size(path), name: checksum(path, name)}


def write_list(
  directory: str | os.PathLike, files: Mapping[str, Mapping[str, Any]]
) -> None:
  """Writes `checksums.json`: an entry for each file, by its name below."""
  content = {"version": _VERSION, "files": dict(files)}
  write_json(as_path(directory) / CHECKSUMS, seal(content))


def write_checksums(
  directory: str | os.PathLike,
  *,
  skip: Collection[str] = (),
  sealed: Mapping[str, Sequence[str]] | None = None,
) -> None:
  """Lists all files of a directory, those of its folders included.

  Args:
    directory: receives `checksums.json`.
    skip: names of files that are left out.
    sealed: JSON files that change afterwards, with the keys that lead to the
      object in them that carries its own checksum.
  """
  sealed = sealed or {}
  files: dict[str, Mapping[str, Any]] = {
    name: {"sealed": list(keys)} for name, keys in sealed.items()
  }
  for name, path in list_files(directory):
    if path.name not in (CHECKSUMS, *skip) and name not in files:
      files[name] = list_entry(path)
  write_list(directory, files)


def read_list(directory: str | os.PathLike) -> dict[str, dict] | None:
  """The list of a directory, or None where there is none.

  Raises:
    ValueError: if it is damaged.
  """
  path = as_path(directory) / CHECKSUMS
  if not path.exists():
    return None
  try:
    content = dict(json.loads(path.read_text()))
    # A table of the first version holds files alone, and at least one.
    if not content or {"version", "files", SEAL} & content.keys():
      files = unseal(content)["files"]
      if SEAL not in content:
        raise ChangedError("it has no checksum")
    else:
      files = content
    return {name: dict(entry) for name, entry in files.items()}
  except ChangedError as error:
    what = str(error)
  except (
    AttributeError,
    KeyError,
    RecursionError,
    TypeError,
    ValueError,
  ) as error:
    what = type(error).__name__
  raise ValueError(f"{CHECKSUMS} is damaged ({what})")
