"""Files that appear whole or not at all, and folders to write them to."""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[str]:
  """Yields a name beside `path` that becomes `path` if the body succeeds."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    yield str(temporary)
    os.replace(temporary, path)
  except OSError as error:
    if error.filename is None:
      error.filename = str(path)  # A full disk does not say where it is.
    raise
  finally:
    temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes a value as indented JSON, whole or not at all."""
  with replacing(path) as temporary:
    pathlib.Path(temporary).write_text(json.dumps(value, indent=2) + "\n")


def file_sha256(path: str | os.PathLike) -> str:
  """Hex digest of a file's content."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def check_directory(path: str | os.PathLike) -> None:
  """Raises NotADirectoryError if a file is in the way of an output folder."""
  path = pathlib.Path(path)
  # A link to nothing is in the way too.
  there = next(p for p in (path, *path.parents) if os.path.lexists(p))
  if not there.is_dir():
    raise NotADirectoryError(
      f"--output={path}: {there} is no folder; choose another --output, it is "
      "made if absent."
    )
