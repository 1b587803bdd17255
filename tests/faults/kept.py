"""What the program keeps: how it is read, and a loss that no checksum shows.

A planted loss is another value whose checksums are right. Whoever reads it must
find it to be another: else the comparison proves nothing.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import pathlib
import shutil
import sqlite3
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mmdiff_jax import checkpoint
from mmdiff_jax.data.sources import ClipList
from mmdiff_jax.data.sources.prepared import open_tfrecord
from mmdiff_jax.data.tfrecord import TFRecordWriter, read_records
from mmdiff_jax.disk.checksums import list_entry, read_list, write_list
from mmdiff_jax.disk.safetensors import load_safetensors, save_safetensors
from mmdiff_jax.evaluation import cache
from mmdiff_jax.evaluation.evaluate import evaluate
from mmdiff_jax.sampling.folder import verify_samples
from mmdiff_jax.study.folder import (
  ANSWERS,
  load_study,
  load_truth,
  write_study,
)
from mmdiff_jax.study.store import Store, answered


def plain(tree: Any) -> Any:
  """Arrays as texts, which compare whatever made them."""

  def text(leaf: Any) -> str:
    array = np.asarray(leaf)
    content = hashlib.sha256(np.ascontiguousarray(array).tobytes())
    return f"{array.dtype} {array.shape} {content.hexdigest()}"

  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): text(leaf) for path, leaf in leaves}


def read_newest(folder: pathlib.Path) -> Any:
  """The newest checkpoint of a run: its step, parameters and configuration."""
  newest = checkpoint.find_checkpoint(folder)
  average, config = checkpoint.read_average(newest)
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    average,
  )
  params = checkpoint.load_params(newest, shapes, ema=False)
  return newest.name, plain((average, params)), config.to_dict()


def read_export(folder: pathlib.Path) -> Any:
  """Parameters and configuration of an export."""
  average, config = checkpoint.read_average(folder)
  return plain(average), config.to_dict()


def read_weights(path: pathlib.Path) -> Any:
  """All tensors of a safetensors file."""
  return plain(load_safetensors(path))


def read_data_set(folder: pathlib.Path) -> Any:
  """All clips of a prepared data set, and which of them are held out."""
  source = open_tfrecord(folder)
  held_out = ClipList(source, split="heldout", holdout_fraction=0.5)
  return [
    (clip.origin(), plain((clip.video(), clip.audio())))
    for clips in (ClipList(source), held_out)
    for clip in clips
  ]


def read_samples(folder: pathlib.Path) -> Any:
  """The samples that a folder lists, if it is as it was written."""
  problems = verify_samples(folder)
  if problems:
    raise ValueError("; ".join(problems))
  listing = json.loads((folder / "samples.json").read_text())
  return [
    (sample, (folder / sample["file"]).read_bytes())
    for sample in listing["samples"]
  ]


def read_evaluation(folder: pathlib.Path) -> Any:
  """Figures by what the cache has of features."""
  report = evaluate(
    real=folder.parent / "real",
    fake=folder.parent / "fake",
    metrics=["fad_mel"],
    num_clips=6,
    asked={"frames": 8},
    cache_dir=folder,
    progress=False,
  )
  return report["metrics"]["fad_mel"]


def read_study(folder: pathlib.Path) -> Any:
  """What a study says of its clips, of its trials, and which clips they are."""
  study = load_study(folder)
  values = dataclasses.asdict(study)
  return values, load_truth(study)


def read_answers(folder: pathlib.Path) -> Any:
  """Who answered a study, and everything that they did."""
  try:
    with answered(folder / ANSWERS) as store:
      return store.raters(), store.events()
  except sqlite3.Error as error:
    raise OSError(str(error)) from error  # As the commands do.


def plant_in_run(folder: pathlib.Path) -> None:
  """Other parameters, as a run would have saved them."""
  newest = checkpoint.find_checkpoint(folder)
  average, config = checkpoint.read_average(newest)
  shutil.rmtree(newest)
  other = jax.tree.map(lambda x: x + 1, average)
  checkpoint.save_params(folder, other, config, step=int(newest.name))


def plant_in_export(folder: pathlib.Path) -> None:
  """Other parameters, as an export would have written them."""
  average, config = checkpoint.read_average(folder)
  shutil.rmtree(folder)
  other = jax.tree.map(lambda x: x + 1, average)
  checkpoint.write_checkpoint(folder, {"ema_params": other}, config)


def plant_in_weights(path: pathlib.Path) -> None:
  """One other number."""
  tensors = load_safetensors(path)
  next(iter(tensors.values())).reshape(-1)[0] += 1
  save_safetensors(path, tensors)


def plant_in_data_set(folder: pathlib.Path) -> None:
  """One other byte of a record, with its CRC."""
  path = min(folder.glob("*.tfrecord"))
  records = [bytearray(record) for record in read_records(path)]
  sound = records[0].index(b"audio/pcm16") + 200
  records[0][sound] ^= 1
  with TFRecordWriter(path) as writer:
    for record in records:
      writer.write(bytes(record))


def plant_in_samples(folder: pathlib.Path) -> None:
  """One other byte of a sample, with its checksum."""
  path = min(folder.glob("*.mp4"))
  path.write_bytes(path.read_bytes() + b"\0")
  files = read_list(folder) or {}
  write_list(folder, files | {path.name: list_entry(path)})


def plant_in_cache(folder: pathlib.Path) -> None:
  """Other numbers of a clip's feature, with their checksum."""
  path = min(p for p in folder.glob("features/*/*") if p.is_file())
  content = io.BytesIO()
  np.save(content, np.load(path) + 1)
  path.write_bytes(
    content.getvalue() + cache.checksum_of(path, content.getvalue())
  )


def plant_in_study(folder: pathlib.Path) -> None:
  """Another length of the clips."""
  study = load_study(folder)
  write_study(dataclasses.replace(study, seconds=study.seconds + 1))


def plant_in_answers(folder: pathlib.Path) -> None:
  """One more event, with its hash."""
  with contextlib.closing(Store(folder / ANSWERS)) as store:
    store.append(dataclasses.replace(store.events()[0], kind="play"))


@dataclasses.dataclass(frozen=True)
class Kept:
  """Files of one kind.

  Attributes:
    read: all that counts of them, as values that compare; raises for damage.
    place: of them among the inputs.
    plant: makes a loss that no checksum shows.
    pattern: of the files below it that are damaged; "" is `place` itself.
    needs: the inputs, where they are not called as `place` begins.
  """

  read: Callable[[pathlib.Path], Any]
  place: str
  plant: Callable[[pathlib.Path], None]
  pattern: str = "**/*"
  needs: tuple[str, ...] = ()

  @property
  def inputs(self) -> tuple[str, ...]:
    """What must be made of it; see `commands.make_inputs`."""
    return self.needs or (self.place.partition("/")[0],)


KEPT = {
  "newest checkpoint": Kept(
    read_newest, "run", plant_in_run, "checkpoints/4/**/*"
  ),
  "exported checkpoint": Kept(read_export, "export", plant_in_export),
  "safetensors file": Kept(
    read_weights, "model.safetensors", plant_in_weights, ""
  ),
  "data set": Kept(read_data_set, "records", plant_in_data_set),
  "samples": Kept(read_samples, "samples", plant_in_samples),
  "features": Kept(
    read_evaluation, "cache", plant_in_cache, needs=("real", "fake", "cache")
  ),
  "study": Kept(read_study, "study", plant_in_study, "*.json"),
  "answers of a study": Kept(
    read_answers, "study", plant_in_answers, "answers.db"
  ),
}
