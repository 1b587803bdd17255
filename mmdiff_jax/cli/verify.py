"""Whether files are as they were written, whatever the program wrote."""

import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from mmdiff_jax import checkpoint
from mmdiff_jax.data.manifest import MANIFEST
from mmdiff_jax.data.verify import find_unverified, verify_data_set
from mmdiff_jax.disk.checksums import CHECKSUMS
from mmdiff_jax.disk.files import as_path, local_copy
from mmdiff_jax.disk.safetensors import verify_safetensors
from mmdiff_jax.disk.verify import find_changes
from mmdiff_jax.sampling import folder as sample_folder
from mmdiff_jax.study.folder import STUDY
from mmdiff_jax.study.verify import verify_study


class Verified(NamedTuple):
  """Something that was read.

  Attributes:
    what: its kind, and where it lies.
    problems: what is not as it was written, a line each.
    notes: what cannot be told, a line each.
  """

  what: str
  problems: list[str]
  notes: list[str] = []


def verify(place: str | os.PathLike) -> Iterator[Verified]:
  """Reads everything that lies at a place.

  Args:
    place: a checkpoint or an export, a directory of checkpoints, a run's
      workdir, a `.safetensors` file, a prepared data set, a folder of samples
      or of such folders, a study, or another one with `checksums.json`.

  Raises:
    FileNotFoundError: if nothing lies there.
    ValueError: if it is none of them.
  """
  path = as_path(place)
  checkpoints = checkpoint.list_checkpoints(path)
  samples = [path] if (path / sample_folder.INDEX).exists() else []
  if checkpoints:
    for folder in checkpoints:
      yield Verified(f"checkpoint {folder}", _checkpoint_problems(folder))
  elif path.suffix == ".safetensors" and not path.is_dir():
    with local_copy(place) as file:
      yield Verified(f"weight file {path}", verify_safetensors(file))
  elif (path / MANIFEST).exists():
    problems = verify_data_set(path)
    yield Verified(f"data set {path}", problems, find_unverified(path))
  elif (path / STUDY).exists():
    yield Verified(f"study {path}", verify_study(place))
  elif samples or (samples := _folders_of_samples(path)):
    for folder in samples:
      problems = sample_folder.verify_samples(folder)
      yield Verified(f"folder of samples {folder}", problems)
  elif (path / CHECKSUMS).exists():
    yield Verified(f"folder {path}", find_changes(path) or [])
  elif not path.exists():
    raise FileNotFoundError(f"{path} does not exist.")
  else:
    raise ValueError(
      f"{path} is not a checkpoint, a run, a .safetensors file, a prepared "
      "data set, a folder of samples or a study; give one of them."
    )


def _folders_of_samples(path: pathlib.Path) -> list[pathlib.Path]:
  """Those below a folder: one of each checkpoint and seed."""
  return sorted(p.parent for p in path.glob(f"*/{sample_folder.INDEX}"))


def _checkpoint_problems(folder: pathlib.Path) -> list[str]:
  problems = checkpoint.find_problems(folder)
  if problems is None:
    return [
      "has no checksums: an earlier version wrote it, nothing tells whether it "
      "is whole"
    ]
  return problems
