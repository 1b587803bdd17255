"""Which files of a folder are media.

The one home of that question: preparation, training, evaluation and
conditioning all ask here.
"""

import json
import os
import pathlib

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".gif")
AUDIO_SUFFIXES = (".wav", ".mp3", ".flac", ".ogg", ".m4a", ".aac")
# What sampling writes beside its clips.
_LISTING = "samples.json"

# (name, path), and (name, why it was left out).
Found = list[tuple[str, str]]


def suffixes(sound_alone: bool = False) -> tuple[str, ...]:
  """Suffixes of files with pictures, or of all that may hold sound."""
  return VIDEO_SUFFIXES + AUDIO_SUFFIXES if sound_alone else VIDEO_SUFFIXES


def is_media(name: str, sound_alone: bool = False) -> bool:
  """Whether a file is taken for a medium.

  Args:
    name: of the file.
    sound_alone: files of sound without pictures count, too.
  """
  return name.lower().endswith(suffixes(sound_alone))


def find_media(
  directory: str | os.PathLike, sound_alone: bool = False
) -> tuple[Found, Found]:
  """Lists the media below a directory, links followed, sorted by name.

  Hidden files and folders are passed over. Of a folder that sampling wrote,
  the files that it lists as samples count, not their upsampled copies.

  Args:
    directory: where to look.
    sound_alone: see `is_media`.

  Returns:
    (name, path) of each file; (name, reason) of each one left out: a further
    link to another one, or a copy of a sample. The name is the path relative
    to the directory, with slashes.

  Raises:
    ValueError: if there is no such directory.
  """
  root = os.fspath(directory)
  if not os.path.isdir(root):
    raise ValueError(f"{root}: no such directory.")
  named: Found = []
  left_out: Found = []
  visited = set()
  for folder, subfolders, files in os.walk(root, followlinks=True):
    real = os.path.realpath(folder)
    if real in visited:
      # A link back up the tree, or a second way to a folder.
      subfolders.clear()
      continue
    visited.add(real)
    subfolders[:] = sorted(n for n in subfolders if not n.startswith("."))
    samples = _samples(folder) if _LISTING in files else None
    for file in files:
      if file.startswith(".") or not is_media(file, sound_alone):
        continue
      path = os.path.join(folder, file)
      name = os.path.relpath(path, root).replace(os.sep, "/")
      if samples is not None and file not in samples:
        left_out.append((name, f"{_LISTING} does not list it as a sample"))
      else:
        named.append((name, path))
  found, links = _without_links(sorted(named))
  return found, sorted(left_out + links)


def _samples(folder: str) -> set[str] | None:
  """Main files of the samples of a folder; None if it is no such listing."""
  try:
    content = json.loads((pathlib.Path(folder) / _LISTING).read_text())
    return {sample["file"] for sample in content["samples"]}
  except (OSError, ValueError, KeyError, TypeError):
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
