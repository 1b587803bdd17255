"""Whether files are as they were written: checkpoints, data sets, samples."""

import os
import pathlib
from collections.abc import Iterator

from mmdiff_jax import checkpoint
from mmdiff_jax.data.manifest import MANIFEST
from mmdiff_jax.data.verify import verify_data_set
from mmdiff_jax.disk.checksums import find_changes
from mmdiff_jax.disk.files import as_path
from mmdiff_jax.sampling import folder as sample_folder


def verify(directory: str | os.PathLike) -> Iterator[tuple[str, list[str]]]:
  """Reads everything of a directory.

  Args:
    directory: a checkpoint or an export, a directory of checkpoints, a run's
      workdir, a prepared data set or a folder of samples.

  Yields:
    What was read, and what is wrong with it, a line for each file; nothing
    is where all is as it was written.

  Raises:
    ValueError: if it is none of them, or if nothing tells what was written.
  """
  path = as_path(directory)
  checkpoints = checkpoint.list_checkpoints(path)
  if checkpoints:
    for folder in checkpoints:
      yield f"checkpoint {folder}", _checkpoint_problems(folder)
  elif (path / MANIFEST).exists():
    yield f"data set {path}", verify_data_set(path)
  elif (path / sample_folder.INDEX).exists():
    yield f"folder of samples {path}", sample_folder.verify_samples(path)
  else:
    raise ValueError(
      f"{path} is no checkpoint, no run, no prepared data set and no folder of "
      "samples; give one of them."
    )


def _checkpoint_problems(folder: pathlib.Path) -> list[str]:
  changes = find_changes(folder)
  if changes is None:
    return [
      "has no checksums: an earlier version wrote it, nothing tells whether it "
      "is whole"
    ]
  if not changes:
    # The one file that is completed after the checksums has its own.
    try:
      checkpoint.load_config(folder)
    except ValueError as error:
      return [str(error)]
  return changes
