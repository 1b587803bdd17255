"""Whether a prepared data set is as it was written."""

import os
import pathlib

from mmdiff_jax.data.manifest import Manifest
from mmdiff_jax.data.tfrecord import (
  CorruptRecordError,
  build_index,
  index_path,
  read_records,
)
from mmdiff_jax.disk.files import as_path
from mmdiff_jax.progress import progress_bar


def verify_data_set(directory: str | os.PathLike) -> list[str]:
  """Reads everything and returns what is wrong, one line each.

  Raises:
    ValueError: if the directory holds no data set.
  """
  folder = as_path(directory)
  manifest = Manifest.load(folder)
  problems: list[str] = []
  records, unread = 0, 0
  with progress_bar(len(manifest.shards), "shard") as progress:
    for name, _ in manifest.shards:
      path = folder / name
      try:
        records += sum(1 for _ in read_records(path))
        problems += _index_problems(path)
      except FileNotFoundError:
        unread += 1
        problems.append(f"{path}: the shard is missing")
      except CorruptRecordError as error:
        unread += 1
        problems.append(str(error))
      progress.update()
  if not unread and records != manifest.num_records:
    problems.append(
      f"{folder} holds {records} records, dataset.json describes"
      f" {manifest.num_records}"
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
