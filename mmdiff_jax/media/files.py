"""Which files of a folder are media.

The one home of that question: preparation, training, evaluation and
conditioning all ask here.
"""

import codecs
import collections
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from mmdiff_jax.av import AVSpec
from mmdiff_jax.disk.checksums import unseal
from mmdiff_jax.disk.files import as_path, is_cloud, list_files
from mmdiff_jax.media.container import (
  ANIMATED_WEBP,
  CLOSED,
  MediaError,
  ReadOptions,
  irregular,
  opened,
  why_closed,
)
from mmdiff_jax.media.streams import STILL, has_film, is_still

# Files that are taken for media by name, so that one that is damaged is listed
# as such; all others are looked into.
VIDEO_SUFFIXES = (
  ".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".gif", ".ts", ".mts",
  ".m2ts", ".mpg", ".mpeg", ".vob", ".flv", ".f4v", ".wmv", ".asf", ".ogv",
  ".3gp", ".3g2", ".rm", ".rmvb", ".mxf", ".m1v", ".m2v", ".swf",
)  # fmt: skip
AUDIO_SUFFIXES = (".wav", ".mp3", ".flac", ".ogg", ".m4a", ".aac")
# What sampling writes beside its clips.
_LISTING = "samples.json"
# What `synthetic` does.
_TRUTH = ("truth.json", "captions.jsonl")
# Bytes that show whether a file is text, which FFmpeg takes for text art.
_HEAD = 4096
# Formats of single pictures and of text art, by FFmpeg's names.
_NO_FILM = ("image2", "ico", "tty", "bin", "xbin", "adf", "idf", "txd")

# What is said of a file without a medium; others are counted.
_SAID = (CLOSED, STILL, ANIMATED_WEBP)
_IRREGULAR = "not a regular file"

_T = TypeVar("_T")
# (name, path), and (name, why it was left out).
Found = list[tuple[str, str]]


def is_named_media(name: str, sound_alone: bool = False) -> bool:
  """Whether a file is taken for a medium by its name."""
  known = VIDEO_SUFFIXES + AUDIO_SUFFIXES if sound_alone else VIDEO_SUFFIXES
  return name.lower().endswith(known)


def why_not_media(
  path: str | os.PathLike, sound_alone: bool = False
) -> str | None:
  """Why the content of a file is not taken; None for a film.

  Args:
    path: of a regular file.
    sound_alone: sound without pictures counts, too.

  Returns:
    "" for a file of another kind, else the reason.
  """
  try:
    with open(path, "rb") as file:
      head = file.read(_HEAD)
    if _is_text(head):
      return ""
    with opened(path) as container:
      if is_still(container):
        return STILL
      formats = container.format.name.split(",")
      if any(f in _NO_FILM or f.endswith("_pipe") for f in formats):
        return ""
      sound = sound_alone and bool(container.streams.audio)
      return None if sound or has_film(container) else ""
  except OSError as error:
    return why_closed(error)
  except MediaError as error:
    return error.reason if error.reason == ANIMATED_WEBP else ""


def _is_text(head: bytes) -> bool:
  try:
    # A character may be cut at the end.
    text = codecs.getincrementaldecoder("utf-8")().decode(head)
  except UnicodeDecodeError:
    return False
  return "\0" not in text


def find_media(
  directory: str | os.PathLike, sound_alone: bool = False
) -> tuple[Found, Found]:
  """Lists the media below a directory, links followed, sorted by name.

  Hidden files and folders are passed over. In an object store a file is taken
  for a medium by its name alone. Of a folder that sampling wrote,
  the files that it lists as samples count, not their upsampled copies.

  Args:
    directory: where to look.
    sound_alone: files of sound without pictures count, too.

  Returns:
    (name, path) of each file; (name, reason) of each one left out: a further
    link to another one, a copy of a sample, a FIFO or a device, what may not
    be read, folders included. The name is the path relative to the directory,
    with slashes. Files that hold no medium are counted by kind: ("*.txt", "3
    files without a video").

  Raises:
    ValueError: if there is no such directory, or it may not be read.
  """
  if is_cloud(directory):
    return _find_in_store(directory, sound_alone)
  root = os.fspath(directory)
  if not os.path.isdir(root):
    raise ValueError(f"{root}: no such directory.")
  named: Found = []
  left_out: Found = []
  others: collections.Counter[str] = collections.Counter()
  for folder, files in _walk(root, left_out):
    samples = _samples(folder) if _LISTING in files else None
    for file in files:
      path = os.path.join(folder, file)
      name = _name(path, root)
      known = is_named_media(file, sound_alone)
      problem = irregular(path)
      if file.startswith(".") or _is_by_product(
        pathlib.Path(path), lambda folder: (folder / _LISTING).exists()
      ):
        continue
      if samples is not None and file not in samples:
        if known:
          left_out.append((name, f"{_LISTING} does not list it as a sample"))
        continue
      if problem is None and not known:
        problem = why_not_media(path, sound_alone)
      if problem is None or (known and not problem.endswith(_IRREGULAR)):
        named.append((name, path))
      elif problem.startswith(_SAID) or problem.endswith(_IRREGULAR):
        left_out.append((name, problem))
      else:
        others[os.path.splitext(file)[1].lower()] += 1
  found, links = _without_links(sorted(named))
  return found, sorted(left_out + links + _counted(others, sound_alone))


def _is_by_product(
  path: pathlib.Path, is_listed: Callable[[pathlib.Path], bool]
) -> bool:
  """Whether one of our commands wrote it beside the clips.

  `sample` and `gallery` draw what a folder lists as samples; `synthetic` writes
  down what its clips show.

  Args:
    path: of the file.
    is_listed: whether a folder has a listing.
  """
  if path.name in _TRUTH:
    return True
  if path.name == "grid.gif":
    return is_listed(path.parent)
  drawn = path.suffix == ".png" and path.parent.name == "gallery"
  return drawn and is_listed(path.parent.parent)


def _counted(others: collections.Counter[str], sound_alone: bool) -> Found:
  """What is said of files that hold no medium, by suffix."""
  kind = "a video or sound" if sound_alone else "a video"
  return [
    (
      f"*{suffix}" if suffix else "files without a suffix",
      f"{count} file{'s' if count > 1 else ''} without {kind}",
    )
    for suffix, count in others.items()
  ]


def _find_in_store(
  directory: str | os.PathLike, sound_alone: bool
) -> tuple[Found, Found]:
  """The same of an object store, by names alone: looking into files costs."""
  files = [
    (name, path)
    for name, path in list_files(directory)
    if not any(part.startswith(".") for part in name.split("/"))
  ]
  listed = {
    path.parent: _samples(path.parent)
    for name, path in files
    if path.name == _LISTING
  }
  found: Found = []
  left_out: Found = []
  others: collections.Counter[str] = collections.Counter()
  for name, path in files:
    samples = listed.get(path.parent)
    if _is_by_product(path, listed.__contains__):
      continue
    if not is_named_media(name, sound_alone):
      others[path.suffix.lower()] += 1
    elif samples is not None and path.name not in samples:
      left_out.append((name, f"{_LISTING} does not list it as a sample"))
    else:
      found.append((name, os.fspath(path)))
  return found, sorted(left_out + _counted(others, sound_alone))


def _name(path: str, root: str) -> str:
  return os.path.relpath(path, root).replace(os.sep, "/")


def _walk(root: str, closed: Found) -> Iterator[tuple[str, list[str]]]:
  """Yields folders and their files; every folder once, whatever the links.

  Args:
    root: where to begin.
    closed: takes the folders that may not be read.
  """
  visited = set()

  def note(error: OSError) -> None:
    if error.filename == root:
      raise ValueError(f"{root} {why_closed(error)}.")
    closed.append((f"{_name(error.filename, root)}/", why_closed(error)))

  for folder, subfolders, files in os.walk(
    root, onerror=note, followlinks=True
  ):
    real = os.path.realpath(folder)
    if real in visited:
      # A link back up the tree, or a second way to a folder.
      subfolders.clear()
      continue
    visited.add(real)
    subfolders[:] = sorted(n for n in subfolders if not n.startswith("."))
    yield folder, files


def read_listing(folder: str | os.PathLike) -> set[str] | None:
  """Main files of the samples that a folder lists; None without a listing.

  Raises:
    ValueError: if there is a `samples.json` that lists no samples.
  """
  return _read(folder, lambda content: _files(content["samples"]))


def _files(samples: list[dict]) -> set[str]:
  files = {sample["file"] for sample in samples}
  if not all(isinstance(file, str) for file in files):
    raise TypeError("a file's name is not text")
  return files


def listed_geometry(folder: str | os.PathLike) -> dict[str, Any] | None:
  """Geometry of the samples that a folder lists, and how it was fitted.

  Returns:
    The fields of `AVSpec`, and "fit"; None without a listing, or with one of
    an earlier version, which says nothing of it.

  Raises:
    ValueError: as `read_listing`.
  """
  return _read(
    folder, lambda content: _geometry(content["settings"].get("geometry"))
  )


def _geometry(content: dict[str, Any] | None) -> dict[str, Any] | None:
  if content is None:
    return None
  known = dict(content)
  spec = AVSpec(**{k: v for k, v in known.items() if k != "fit"})
  return dataclasses.asdict(spec) | {"fit": ReadOptions(fit=known["fit"]).fit}


def _read(folder: str | os.PathLike, take: Callable[[Any], _T]) -> _T | None:
  """What `take` finds in a folder's listing; None without one."""
  path = as_path(folder) / _LISTING
  if not path.is_file():
    return None
  try:
    return take(unseal(json.loads(path.read_text())))
  except (
    AttributeError,
    OSError,
    KeyError,
    TypeError,
    ValueError,
    RecursionError,
  ) as error:
    raise ValueError(
      f"{path} is not a listing of samples ({type(error).__name__}: {error}); "
      "sample again, or remove it to take all videos of the folder."
    ) from error


def _samples(folder: str | os.PathLike) -> set[str] | None:
  """As `read_listing`; a file of that name may be anybody's."""
  try:
    return read_listing(folder)
  except ValueError:
    return None


def _without_links(named: Found) -> tuple[Found, Found]:
  """Keeps one name of every file."""
  # A plain file stands for itself, however its links are called.
  plain = {p: n for n, p in named if not os.path.islink(p)}
  owners = {os.path.realpath(p): n for p, n in plain.items()}
  found, links = [], []
  for name, path in named:
    owner = owners.setdefault(os.path.realpath(path), name)
    if owner == name:
      found.append((name, path))
    else:
      links.append((name, f"a link to {owner}"))
  return found, links
