"""Whether the files of a folder are those that its `checksums.json` lists."""

import json
import os
import pathlib
from typing import Any

from mmdiff_jax.disk.checksums import SEAL, checksum, read_list, unseal
from mmdiff_jax.disk.files import as_path, file_size


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
  try:
    files = read_list(directory)
  except ValueError as error:
    return [str(error)]
  if files is None:
    return None
  folder, changes = as_path(directory), []
  for name, entry in files.items():
    try:
      change = find_change(folder / name, entry, largest)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      change = f"has a damaged entry ({type(error).__name__})"
    if change:
      changes.append(f"{name} {change}")
  return changes


def find_change(
  path: pathlib.Path, entry: dict[str, Any], largest: int | None = None
) -> str | None:
  """What has become of a file since its entry was made, if anything.

  Args:
    path: the file.
    entry: of a list of checksums.
    largest: see `find_changes`.

  Raises:
    KeyError, TypeError, ValueError, ...: if the entry is not of that form.
  """
  if "sealed" in entry:
    return _seal_change(path, entry["sealed"])
  (name,) = entry.keys() - {"bytes"}
  try:
    found = file_size(path)
    # Lists of old folders of samples have no sizes.
    size = int(entry.get("bytes", found))
    if found != size:
      return f"has {found} bytes of {size}"
    if largest is not None and size > largest:
      return None
    value = checksum(path, name)
  except (FileNotFoundError, NotADirectoryError):
    return "is missing"
  except OSError as error:
    return f"cannot be read ({error.strerror or error})"
  # None: this machine cannot tell, or the one that wrote it could not.
  if None not in (value, entry[name]) and value != entry[name]:
    return "is not what was written (its checksum differs)"
  return None


def _seal_change(path: pathlib.Path, keys: list[str]) -> str | None:
  """Whether the object that carries its own checksum is as it was."""
  try:
    content = json.loads(path.read_text())
    for key in keys:
      content = content[key]
    if SEAL not in content:
      return "is not what was written (it has no checksum)"
    unseal(content)
  except (FileNotFoundError, NotADirectoryError):
    return "is missing"
  except OSError as error:
    return f"cannot be read ({error.strerror or error})"
  except (KeyError, RecursionError, TypeError, ValueError):
    return "is not what was written (its checksum differs)"
  return None
