"""One flipped bit at a time: what reads it refuses it, or reads the same."""

import pathlib
import random
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mmdiff_jax import checkpoint
from mmdiff_jax.data.sources import ClipList
from mmdiff_jax.data.sources.prepared import open_tfrecord
from mmdiff_jax.disk.safetensors import load_safetensors
from mmdiff_jax.sampling.folder import verify_samples
from mmdiff_jax.study.folder import load_study, load_truth


def read_run(folder: pathlib.Path) -> Any:
  """Everything of the newest checkpoint of a run."""
  newest = checkpoint.list_checkpoints(folder)[-1]
  config = checkpoint.load_config(newest).to_dict()
  return jax.tree.leaves(checkpoint.read_average(newest)[0]), config


def read_data_set(folder: pathlib.Path) -> Any:
  """All clips of a prepared data set."""
  clips = ClipList(open_tfrecord(folder))
  return [(clip.origin(), clip.video(), clip.audio()) for clip in clips]


def read_samples(folder: pathlib.Path) -> None:
  """Compares a folder of samples with its checksums."""
  problems = verify_samples(folder)
  if problems:
    raise ValueError("; ".join(problems))


def read_study(folder: pathlib.Path) -> Any:
  """What a study says of its clips, and which they are."""
  study = load_study(folder)
  return study.clips, load_truth(study)


# Reader, what it reads, and the files that count.
FOLDERS: dict[str, tuple[Callable, str, str]] = {
  "checkpoint files": (read_run, "run/checkpoints/4", "**/*"),
  "exported checkpoint": (read_run, "export", "**/*"),
  "safetensors file": (load_safetensors, "model.safetensors", ""),
  "data set": (read_data_set, "records", "*"),
  "sample files": (read_samples, "samples", "sample_*"),
  "truth of a study": (read_study, "study", "truth.json"),
}


def flip(name: str, inputs: pathlib.Path, tries: int, seed: int) -> list[str]:
  """Flips bits of a folder's files; what was read over, a line for each."""
  read, place, pattern = FOLDERS[name]
  folder, rng = inputs / place, random.Random(seed)
  expected = read(folder)
  files = [folder] if folder.is_file() else sorted(folder.glob(pattern))
  files = [p for p in files if p.is_file() and p.stat().st_size]
  lost = []
  for _ in range(tries):
    path = rng.choice(files)
    content = path.read_bytes()
    position = rng.randrange(8 * len(content))
    data = bytearray(content)
    data[position // 8] ^= 1 << position % 8
    path.write_bytes(data)
    try:
      np.testing.assert_equal(read(folder), expected)
      if name == "sample files":
        lost.append(f"bit {position} of {path}")
    except AssertionError:
      lost.append(f"bit {position} of {path}")
    except (ValueError, OSError):
      pass
    finally:
      path.write_bytes(content)
  return lost
