"""What was computed of clips, kept by their content."""

import hashlib
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from mmdiff_jax.disk.files import replacing
from mmdiff_jax.disk.leftovers import remove_leftovers
from mmdiff_jax.evaluation.clip_sets import ClipSet

# Clips of one cache file; a run that is interrupted repeats at most so many.
BLOCK = 64


def default_cache_dir() -> pathlib.Path:
  """The user's cache folder: $XDG_CACHE_HOME or ~/.cache, `mmdiff_jax`."""
  base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(base) / "mmdiff_jax"


def split_blocks(count: int) -> list[range]:
  """Indices of `count` clips by cache file."""
  return [
    range(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)
  ]


class BlockCache:
  """Arrays with a row per clip, a file per block of clips.

  A file is named by the hashes of its clips and what they were made into, so
  that a changed clip or network is never taken for the old one.
  """

  def __init__(self, cache_dir: str | os.PathLike | None, kind: str):
    """Keeps files in the folder `kind` of `cache_dir`; None keeps nothing."""
    self._folder = None
    if cache_dir is not None:
      self._folder = pathlib.Path(cache_dir).expanduser() / kind
      remove_leftovers(self._folder)

  def paths(
    self, versions: Mapping[str, str], clips: ClipSet, indices: range
  ) -> dict[str, pathlib.Path | None]:
    """Where a block is kept, by name; None if nowhere.

    Args:
      versions: of how each thing is computed, by its name.
      clips: the set.
      indices: of the block's clips.

    Raises:
      ValueError, OSError: if a clip's data cannot be read.
    """
    if self._folder is None:
      return dict.fromkeys(versions)
    digests = [clips.digest(i) for i in indices]
    out: dict[str, pathlib.Path | None] = {}
    for name, version in versions.items():
      text = "\n".join([name, version, *digests])
      key = hashlib.sha256(text.encode()).hexdigest()
      out[name] = self._folder / f"{name}-{key[:32]}.npy"
    return out


def read_block(path: pathlib.Path | None, count: int) -> np.ndarray | None:
  """A kept block of `count` rows, or None where there is none that is whole."""
  if path is None or not path.exists():
    return None
  try:
    values = np.load(path, allow_pickle=False)
  except (ValueError, EOFError, OSError):
    return None
  return values if len(values) == count else None


def write_block(path: pathlib.Path | None, values: np.ndarray) -> None:
  """Keeps a block, if it is to be kept."""
  if path is not None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
      np.save(file, values)
