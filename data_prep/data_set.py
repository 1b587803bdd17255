"""The data set as a whole: whether it is there already, and its files."""

import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Sequence

from data_prep import clip_task
from data_prep.clip_task import ClipOptions, ClipTask
from mmdiff_jax.data.clips import segments
from mmdiff_jax.data.descriptions import TextEncoder
from mmdiff_jax.data.manifest import MANIFEST, Manifest, Video
from mmdiff_jax.data.tfrecord import (
  CorruptRecordError,
  TFRecordWriter,
  index_path,
  read_index,
  read_records,
)
from mmdiff_jax.disk.files import is_cloud, move, remove_tree
from mmdiff_jax.disk.names import one_line

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
  except ValueError as error:
    raise ValueError(f"{error} Give --overwrite to replace it.") from error
  if manifest.fingerprint != wanted:
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


@dataclasses.dataclass(frozen=True)
class Shard:
  """A shard to write: its name, and the videos in it."""

  name: str
  tasks: Sequence[ClipTask]


@dataclasses.dataclass(frozen=True)
class PreparationPlan:
  """What becomes of the parts.

  Attributes:
    videos: those that are used.
    skipped: (source, reason) of all others.
    shards: what is in which.
  """

  videos: tuple[Video, ...]
  skipped: tuple[tuple[str, str], ...]
  shards: tuple[Shard, ...]


def make_plan(
  tasks: Sequence[ClipTask],
  reports: Sequence[dict],
  left_out: LeftOut,
  shards: int,
) -> PreparationPlan:
  """Decides which videos go into which shard.

  Args:
    tasks: the videos, all of them done.
    reports: of each one.
    left_out: videos that took no part.
    shards: their number, at most one per video; 0 takes one per 64.

  Raises:
    ValueError: if no video can be used.
  """
  skipped = list(left_out)
  used: list[ClipTask] = []
  videos: list[Video] = []
  for task, report in zip(tasks, reports, strict=True):
    if "reason" in report:
      skipped.append((task.source, report["reason"]))
      continue
    used.append(task)
    videos.append(
      Video(
        task.source,
        report["frames"],
        tuple(report["repaired"]),
        tuple((begin, end) for begin, end in report["left_out"]),
        report["empty"],
        len(task.description.captions),
        tuple(report.get("bars", ())),
      )
    )
  if not used:
    reasons = "; ".join(f"{s}: {r}" for s, r in skipped[:5])
    raise ValueError(
      f"none of the {len(skipped)} videos can be used ({reasons}"
      f"{'; ...' if len(skipped) > 5 else ''})."
    )
  count = min(shards or -(-len(used) // _VIDEOS_PER_SHARD), len(used))
  edges = [shard * len(used) // count for shard in range(count + 1)]
  return PreparationPlan(
    tuple(videos),
    tuple(sorted(skipped)),
    tuple(
      Shard(f"clips-{shard:05d}-of-{count:05d}.tfrecord", used[begin:end])
      for shard, (begin, end) in enumerate(itertools.pairwise(edges))
    ),
  )


def write_shard(path: pathlib.Path, parts: Sequence[pathlib.Path]) -> None:
  """Joins parts into a shard."""
  with TFRecordWriter(path) as writer:
    for part in parts:
      for record in read_records(part):
        writer.write(record)


def remove_old(output: pathlib.Path) -> None:
  """Removes the data set that is there, if there is one."""
  (output / MANIFEST).unlink(missing_ok=True)
  for old in [*output.glob("clips-*.tfrecord"), *output.glob("clips-*.idx")]:
    old.unlink()


def move_shard(output: pathlib.Path, name: str) -> None:
  """Moves a shard from the parts to its place."""
  for part in (index_path(output / PARTS / name), output / PARTS / name):
    move(part, output / part.name)


def save_manifest(
  output: pathlib.Path,
  plan: PreparationPlan,
  options: ClipOptions,
  classes: Sequence[str],
  mark: str,
  encoder: TextEncoder | None = None,
) -> Manifest:
  """Writes dataset.json, the last file; returns what it holds.

  Args:
    output: folder of the data set.
    plan: what is in it.
    options: of its preparation.
    classes: names of the labels.
    mark: the `fingerprint`.
    encoder: of the captions, if there are any.
  """
  manifest = Manifest(
    spec=options.spec,
    frame_format=options.frame_format,
    jpeg_quality=options.jpeg_quality,
    videos=plan.videos,
    shards=tuple((shard.name, len(shard.tasks)) for shard in plan.shards),
    skipped=plan.skipped,
    options={
      "channels": options.channels,
      "missing_audio": options.missing_audio,
      "hdr": options.reading.hdr,
      "fit": options.reading.fit,
      "hwaccel": options.reading.hwaccel,
      "max_pixels": options.reading.max_pixels,
      "time_limit": options.reading.time_limit,
      "crop_bars": options.crop_bars,
      **dataclasses.asdict(options.limits),
    },
    classes=tuple(classes),
    vectors=_vectors(plan.shards, encoder),
    fingerprint=mark,
  )
  manifest.save(output)
  return manifest


def _vectors(
  shards: Sequence[Shard], encoder: TextEncoder | None
) -> dict[str, dict]:
  """What the manifest says of vectors; see `Manifest.vectors`."""
  known = [task.description for shard in shards for task in shard.tasks]
  vectors: dict[str, dict] = {}
  captioned = sum(bool(each.captions) for each in known)
  if encoder is not None and captioned:
    vectors["text"] = {
      "width": encoder.width,
      "videos": captioned,
      "encoder": encoder.sha256,
    }
  widths = [len(x.embedding) for x in known if x.embedding is not None]
  if widths:
    vectors["embedding"] = {"width": widths[0], "videos": len(widths)}
  return vectors
