"""Whether a prepared data set is as it was written."""

import os
import pathlib

from mmdiff_jax.data.clips import Segment
from mmdiff_jax.data.manifest import MANIFEST, Manifest
from mmdiff_jax.data.tfrecord import (
  CorruptRecordError,
  build_index,
  index_path,
  read_records,
)
from mmdiff_jax.disk.files import as_path
from mmdiff_jax.disk.progress import progress_bar


def verify_data_set(directory: str | os.PathLike) -> list[str]:
  """Reads everything and returns what is wrong, one line each.

  Raises:
    ValueError: if the directory holds no data set, or its `dataset.json` is
      not as it was written.
  """
  folder = as_path(directory)
  manifest = Manifest.load(folder)
  problems: list[str] = []
  with progress_bar(len(manifest.shards), "shard") as progress:
    for number, (name, _) in enumerate(manifest.shards):
      path = folder / name
      try:
        problems += _record_problems(path, manifest, number)
        problems += _index_problems(path)
      except FileNotFoundError:
        problems.append(f"{path}: the shard is missing")
      except CorruptRecordError as error:
        problems.append(str(error))
      progress.update()
  return problems


def find_unverified(directory: str | os.PathLike) -> list[str]:
  """What of a data set cannot be verified, one line each."""
  if Manifest.load(directory).is_sealed:
    return []
  return [
    f"an earlier version wrote {MANIFEST}, without a checksum: what the "
    "records do not repeat of it cannot be verified"
  ]


def _record_problems(
  path: pathlib.Path, manifest: Manifest, shard: int
) -> list[str]:
  """What differs between the records of a shard and the manifest."""
  expected = manifest.segments_of(shard)
  problems, count = [], 0
  for count, data in enumerate(read_records(path), 1):
    if count > len(expected):
      continue
    try:
      Segment(data, manifest.spec).check_place(*expected[count - 1])
    except ValueError as error:
      problems.append(f"{path}#{count - 1}: {error}")
  if count != len(expected):
    problems.append(
      f"{path} holds {count} records, {MANIFEST} describes {len(expected)}"
    )
  return problems


def _index_problems(path: pathlib.Path) -> list[str]:
  index = index_path(path)
  if not index.is_file():
    return [f"{index}: the index is missing"]
  wanted = "".join(f"{start} {size}\n" for start, size in build_index(path))
  if index.read_bytes() == wanted.encode():
    return []
  return [f"{index} does not fit its shard; delete it: it is not needed"]
