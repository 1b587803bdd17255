"""Where files lie: local paths and object stores (gs://, s3://).

The one home of paths. `as_path` turns what a user gave into a path object; a
file is written through `replacing`, whole or not at all, wherever it lies. An
object store has no folders, no renames and no appending: files are made on the
local disk and uploaded when they are complete.
"""

import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from typing import Any, cast

from mmdiff_jax.disk.leftovers import temporary_file

# What reaches an object store; each is an extra of that store's name.
_PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CHUNK = 1 << 20


def is_cloud(path: str | os.PathLike) -> bool:
  """Whether a path names a place in an object store, or would."""
  return _SCHEME.match(os.fspath(path)) is not None


def check_path(path: str | os.PathLike, flag: str = "") -> None:
  """Raises ValueError for a place that no installed package reaches.

  Args:
    path: local paths are fine.
    flag: what the user gave it as, such as "--output"; named in the error.
  """
  text = os.fspath(path)
  match = _SCHEME.match(text)
  if match is None:
    return
  where = f"{flag}={text}" if flag else text
  package = _PACKAGES.get(match[1])
  if package is None:
    known = " or ".join(f"{scheme}://BUCKET/..." for scheme in _PACKAGES)
    raise ValueError(
      f"{where}: {match[0]} is not known; give a local path, or {known}."
    )
  if not text[match.end() :].partition("/")[0]:
    raise ValueError(f"{where}: names no bucket; give {match[0]}BUCKET/... .")
  if importlib.util.find_spec(package) is None:
    raise ValueError(
      f"{where}: {match[0]} needs {package}: pip install {package}."
    )


def check_local(path: str | os.PathLike, flag: str) -> None:
  """Raises ValueError for a path that is not local where it must be."""
  if is_cloud(path):
    raise ValueError(
      f"{flag}={os.fspath(path)}: must be a local path; copy it from or to "
      "the object store."
    )


def as_path(path: str | os.PathLike) -> pathlib.Path:
  """The path object of a local path or of one in an object store.

  Raises:
    ValueError: see `check_path`.
  """
  if not is_cloud(path):
    return pathlib.Path(path)
  check_path(path)
  _configure_stores()
  from etils import epath

  # It has pathlib's methods, as far as a store can offer them.
  return cast(pathlib.Path, epath.Path(path))


@functools.cache
def _configure_stores() -> None:
  import fsspec

  # Other processes, and tensorstore in this one, write behind its back.
  for name in ("gs", "gcs", "s3"):
    fsspec.config.conf.setdefault(name, {})["use_listings_cache"] = False
  # epath prefers TensorFlow where it is installed, which knows no s3://.
  os.environ.setdefault("EPATH_USE_TF", "false")


def _store(path: str | os.PathLike) -> tuple[Any, str]:
  """The fsspec file system of a path, and its name there."""
  check_path(path)
  _configure_stores()
  import fsspec

  return fsspec.core.url_to_fs(os.fspath(path))


@contextlib.contextmanager
def unreachable(path: str | os.PathLike) -> Iterator[None]:
  """Turns whatever a store's client raises into an OSError of one line."""
  try:
    yield
  except Exception as error:
    what = str(error).strip().split("\n")[0][:200]
    raise OSError(
      f"{os.fspath(path)} cannot be reached ({type(error).__name__}: {what}); "
      "check the bucket's name and this machine's credentials."
    ) from error


def absolute(path: str | os.PathLike) -> pathlib.Path:
  """The path object, absolute where it is local; `~` is the user's home."""
  there = as_path(path)
  return there if is_cloud(path) else there.expanduser().absolute()


def file_size(path: str | os.PathLike) -> int:
  """Bytes of a file.

  Raises:
    FileNotFoundError: if there is none.
  """
  if not is_cloud(path):
    return os.path.getsize(path)
  store, name = _store(path)
  return int(store.info(name)["size"])


def read_range(path: str | os.PathLike, offset: int, size: int) -> bytes:
  """Bytes `offset` to `offset + size` of an object, in one request."""
  store, name = _store(path)
  return store.cat_file(name, start=offset, end=offset + size)


def list_files(folder: str | os.PathLike) -> list[tuple[str, pathlib.Path]]:
  """(name below the folder, path) of every file in it, sorted by name."""
  root = as_path(folder)
  if not is_cloud(folder):
    found = [path for path in root.rglob("*") if path.is_file()]
    return sorted((p.relative_to(root).as_posix(), p) for p in found)
  store, prefix = _store(folder)
  prefix = prefix.rstrip("/") + "/"
  names = [name.removeprefix(prefix) for name in store.find(prefix)]
  # Some tools mark a "folder" by an object whose name ends in a slash.
  return sorted((n, root / n) for n in names if n and not n.endswith("/"))


def remove_tree(folder: str | os.PathLike) -> None:
  """Removes a folder and all that is in it, if there is one."""
  if not is_cloud(folder):
    shutil.rmtree(folder, ignore_errors=True)
    return
  store, name = _store(folder)
  with contextlib.suppress(FileNotFoundError):
    store.rm(name, recursive=True)


def move(source: str | os.PathLike, target: str | os.PathLike) -> None:
  """Moves a file over another one; both are local, or both in one store."""
  if not is_cloud(target):
    os.replace(source, target)
    return
  store, name = _store(target)
  # A copy within the store: an object has no name that could be changed.
  store.mv(_store(source)[1], name)


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
  """Names the file of an OSError that does not: a full disk says not where."""
  try:
    yield
  except OSError as error:
    if error.filename is None:
      error.filename = str(path)
    raise


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[str]:
  """Yields a local name whose file becomes `path` if the body succeeds."""
  if is_cloud(path):
    store, name = _store(path)
    with tempfile.TemporaryDirectory() as folder:
      local = os.path.join(folder, os.path.basename(name))
      yield local
      store.put_file(local, name)
    return
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with naming(path), temporary_file(path) as temporary:
    yield str(temporary)
    os.replace(temporary, path)


@contextlib.contextmanager
def local_copy(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a local file or folder with the content of `path`.

  That of an object store is downloaded, and removed in the end.
  """
  if not is_cloud(path):
    yield pathlib.Path(path)
    return
  with tempfile.TemporaryDirectory() as folder:
    local = pathlib.Path(folder) / as_path(path).name
    download(path, local)
    yield local


def download(path: str | os.PathLike, local: str | os.PathLike) -> None:
  """Copies a file or folder of an object store to a local path.

  Raises:
    FileNotFoundError: if there is none.
  """
  store, name = _store(path)
  if store.isfile(name):
    store.get_file(name, os.fspath(local))
    return
  files = list_files(path)
  if not files:
    raise FileNotFoundError(f"{os.fspath(path)}: no such file or folder.")
  for below, file in files:
    target = pathlib.Path(local) / below
    target.parent.mkdir(parents=True, exist_ok=True)
    store.get_file(_store(file)[1], os.fspath(target))


def upload(
  local: str | os.PathLike, path: str | os.PathLike, last: Collection[str] = ()
) -> None:
  """Copies a local folder to an object store.

  Args:
    local: the folder.
    path: where it goes.
    last: names of files that go after all others.
  """
  store, name = _store(path)
  files = sorted(list_files(local), key=lambda file: file[0] in last)
  for below, file in files:
    store.put_file(os.fspath(file), f"{name.rstrip('/')}/{below}")


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes a value as indented JSON, whole or not at all."""
  with replacing(path) as temporary:
    pathlib.Path(temporary).write_text(json.dumps(value, indent=2) + "\n")


def file_sha256(path: str | os.PathLike) -> str:
  """Hex digest of a file's content."""
  digest = hashlib.sha256()
  with as_path(path).open("rb") as file:
    while data := file.read(_CHUNK):
      digest.update(data)
  return digest.hexdigest()


def check_directory(path: str | os.PathLike, flag: str = "--output") -> None:
  """Finds out, ahead of the work, whether its results can be written.

  Args:
    path: a folder, which need not exist; none is made.
    flag: what the user gave it as; named in the error.

  Raises:
    NotADirectoryError: if a file is in the way.
    OSError: if it is read-only, or its store refuses.
  """
  _check_writable(path, flag, f"{flag}={os.fspath(path)}")


def check_file(path: str | os.PathLike, flag: str = "--output") -> None:
  """The same for a file, whose folder need not exist.

  Raises:
    IsADirectoryError: if it is a folder.
    OSError: see `check_directory`.
  """
  where = f"{flag}={os.fspath(path)}"
  if not is_cloud(path) and os.path.isdir(path):
    raise IsADirectoryError(f"{where} is a folder; name a file.")
  _check_writable(as_path(path).parent, flag, where)


def _check_writable(folder: str | os.PathLike, flag: str, where: str) -> None:
  if is_cloud(folder):
    check_path(folder, flag)
    store, name = _store(folder)
    with unreachable(folder):
      probe = f"{name.rstrip('/')}/.probe"
      store.pipe_file(probe, b"")
      store.rm_file(probe)
    return
  folder = pathlib.Path(folder)
  # A link to nothing is in the way too.
  there = next(p for p in (folder, *folder.parents) if os.path.lexists(p))
  if not there.is_dir():
    raise NotADirectoryError(
      f"{where}: {there} is not a folder; choose another {flag}. "
      "It is created if absent."
    )
  try:
    # It has no name, and is gone with this process.
    with tempfile.TemporaryFile(dir=there):
      pass
  except OSError as error:
    raise OSError(
      f"{where} cannot be written: {there}: {error.strerror}; choose another "
      f"{flag}."
    ) from error


class Mirror:
  """A local folder whose files are uploaded now and then.

  For logs, which grow: an object store cannot append.
  """

  def __init__(self, folder: str | os.PathLike):
    """Starts with an empty local folder, or with `folder` itself if local."""
    self._target = os.fspath(folder)
    self._temporary = None
    if is_cloud(folder):
      self._temporary = tempfile.TemporaryDirectory()
    self.local = pathlib.Path(
      self._temporary.name if self._temporary else self._target
    )
    self._sizes: dict[str, int] = {}

  def push(self) -> None:
    """Uploads the files that have grown since the last call."""
    if self._temporary is None:
      return
    store, prefix = _store(self._target)
    for below, file in list_files(self.local):
      size = file.stat().st_size
      if self._sizes.get(below) != size:
        store.put_file(os.fspath(file), f"{prefix.rstrip('/')}/{below}")
        self._sizes[below] = size

  def close(self) -> None:
    """Uploads what is left and removes the local copy."""
    self.push()
    if self._temporary is not None:
      self._temporary.cleanup()
