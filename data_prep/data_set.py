"""The data set as a whole: whether it is there already, and its files."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence

from data_prep import clip_task
from data_prep.clip_task import ClipTask
from data_prep.command_line import one_line
from mmdiff_jax.data.clips import segments
from mmdiff_jax.data.manifest import MANIFEST, Manifest, Video
from mmdiff_jax.data.tfrecord import (
  CorruptRecordError,
  TFRecordWriter,
  index_path,
  read_index,
  read_records,
)
from mmdiff_jax.files import is_cloud, move, remove_tree

PARTS = ".parts"
# What the parts are called while they are removed: never taken for work done.
_GONE = ".parts.gone"
# Videos per shard where their number is not given.
_VIDEOS_PER_SHARD = 64

# (source, reason) of videos that take no part.
LeftOut = Sequence[tuple[str, str]]


def fingerprint(
  tasks: Sequence[ClipTask], left_out: LeftOut, shards: int
) -> str:
  """Hash of everything that a data set depends on."""
  text = repr(([task.key for task in tasks], list(left_out), shards))
  data = text.encode("utf-8", "surrogateescape")
  return hashlib.sha256(data).hexdigest()


def remove_parts(output: pathlib.Path) -> None:
  """Removes the parts: all at once, should a kill come in the midst of it."""
  remove_tree(output / _GONE)
  if is_cloud(output):
    remove_tree(output / PARTS)
  elif (output / PARTS).exists():
    os.replace(output / PARTS, output / _GONE)
    remove_tree(output / _GONE)


def remove_leftovers(output: pathlib.Path) -> None:
  """Removes what a killed run left and no run reads; parts stay."""
  remove_tree(output / _GONE)
  for path in output.glob(f".{MANIFEST}.*.tmp"):
    path.unlink()


def forget_incomplete(tasks: Sequence[ClipTask]) -> None:
  """Removes reports that are damaged or whose part is missing: work to do."""
  for task in tasks:
    if not task.report.exists():
      continue
    try:
      report = clip_task.read_report(task)
      whole = "reason" in report or ("frames" in report and task.part.exists())
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError):
      whole = False
    if not whole:
      task.report.unlink()


def find_finished(output: pathlib.Path, wanted: str) -> Manifest | None:
  """The data set that is there if it is whole and the wanted one.

  Args:
    output: where to look.
    wanted: its fingerprint.

  Raises:
    ValueError: if there is another one.
  """
  if not (output / MANIFEST).exists():
    return None
  try:
    manifest = Manifest.load(output)
  except ValueError:
    manifest = None
  if manifest is None or manifest.fingerprint != wanted:
    raise ValueError(
      f"{output} holds a data set of other videos or options; choose another"
      " --output, or give --overwrite to replace it."
    )
  problem = _damage(output, manifest)
  if problem is not None:
    print(one_line(f"{problem}; preparing the videos again."))
    return None
  print(one_line(f"{output} is already prepared; nothing to do."))
  return manifest


def _damage(output: pathlib.Path, manifest: Manifest) -> str | None:
  """What sizes alone tell of a shard that is not whole."""
  first = 0
  for name, count in manifest.shards:
    path = output / name
    videos = manifest.videos[first : first + count]
    first += count
    wanted = sum(len(segments(v.frames, manifest.spec.frames)) for v in videos)
    if not path.exists():
      return f"{path}: the shard is missing"
    try:
      found = len(read_index(path))
    except CorruptRecordError as error:
      return f"{path}: {error.reason}"
    if found != wanted:
      return f"{path}: {found} records of {wanted} are there"
  return None


def assemble(
  output: pathlib.Path,
  tasks: Sequence[ClipTask],
  left_out: LeftOut,
  shards: int,
  classes: Sequence[str] = (),
) -> Manifest:
  """Joins the parts into shards, then writes dataset.json.

  Args:
    output: folder of the data set.
    tasks: the videos, all of them done.
    left_out: videos that took no part.
    shards: their number, at most one per video; 0 takes one per 64.
    classes: names of the labels.

  Returns:
    What dataset.json holds.

  Raises:
    ValueError: if no video can be used.
  """
  skipped = list(left_out)
  used: list[tuple[ClipTask, Video]] = []
  for task in tasks:
    report = clip_task.read_report(task)
    if "reason" in report:
      skipped.append((task.source, report["reason"]))
    else:
      video = Video(
        task.source,
        report["frames"],
        tuple(report["repaired"]),
        tuple((begin, end) for begin, end in report["left_out"]),
        report["empty"],
      )
      used.append((task, video))
  if not used:
    reasons = "; ".join(f"{s}: {r}" for s, r in skipped[:5])
    raise ValueError(
      f"none of the {len(skipped)} videos can be used ({reasons}"
      f"{'; ...' if len(skipped) > 5 else ''})."
    )
  table = _write_shards(output / PARTS, [task for task, _ in used], shards)
  # All is written: only now the old data set goes.
  _replace_shards(output, [name for name, _ in table])
  options = tasks[0].options
  manifest = Manifest(
    spec=options.spec,
    frame_format=options.frame_format,
    jpeg_quality=options.jpeg_quality,
    videos=tuple(video for _, video in used),
    shards=tuple(table),
    skipped=tuple(sorted(skipped)),
    options={
      "channels": options.channels,
      "missing_audio": options.missing_audio,
      "hdr": options.reading.hdr,
      "fit": options.reading.fit,
      "hwaccel": options.reading.hwaccel,
      "max_pixels": options.reading.max_pixels,
      "time_limit": options.reading.time_limit,
      **dataclasses.asdict(options.limits),
    },
    classes=tuple(classes),
    fingerprint=fingerprint(tasks, left_out, shards),
  )
  manifest.save(output)
  return manifest


def _replace_shards(output: pathlib.Path, names: Sequence[str]) -> None:
  """Removes the data set that is there and moves new shards to its place."""
  (output / MANIFEST).unlink(missing_ok=True)
  for old in [*output.glob("clips-*.tfrecord"), *output.glob("clips-*.idx")]:
    old.unlink()
  for name in names:
    for part in (index_path(output / PARTS / name), output / PARTS / name):
      move(part, output / part.name)


def _write_shards(
  folder: pathlib.Path, used: Sequence[ClipTask], shards: int
) -> list[tuple[str, int]]:
  """Writes the shards; returns the name and number of videos of each."""
  count = min(shards or -(-len(used) // _VIDEOS_PER_SHARD), len(used))
  table = []
  for shard in range(count):
    group = used[shard * len(used) // count : (shard + 1) * len(used) // count]
    name = f"clips-{shard:05d}-of-{count:05d}.tfrecord"
    with TFRecordWriter(folder / name) as writer:
      for task in group:
        for record in read_records(task.part):
          writer.write(record)
    table.append((name, len(group)))
  return table
