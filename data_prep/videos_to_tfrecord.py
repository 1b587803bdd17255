"""Prepares a folder of videos: TFRecord shards of clips and a dataset.json.

  python -m data_prep.videos_to_tfrecord --input VIDEOS --output DIR

Every video below VIDEOS is resampled to a regular grid of frames with the
audio of the same time span. An interrupted run continues where it stopped
when the same command is run again. Damaged or unsuitable files are left out
and listed with the reason in dataset.json.
"""

import argparse
import contextlib
import hashlib
import os
import pathlib
import shutil
import sys
from collections.abc import Sequence

from data_prep import clip_task, runners
from data_prep.clip_task import ClipOptions, ClipTask
from data_prep.command_line import FPS, SAMPLE_RATE, bounded, one_line
from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.clips import (
  FRAME_FORMATS,
  MANIFEST,
  Clip,
  Manifest,
  segments,
)
from mmdiff_jax.data.media import CHANNELS
from mmdiff_jax.data.tfrecord import (
  CorruptRecordError,
  TFRecordWriter,
  index_path,
  read_index,
  read_records,
)
from mmdiff_jax.files import check_directory

EXTENSIONS = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".gif")
PARTS = ".parts"
# Videos per shard where --shards is not given.
_CLIPS_PER_SHARD = 64
# Frames up to this size (pixels) are stored uncompressed by default.
_RAW_SIZE = 64


def prepare(
  source_dir: str | os.PathLike,
  output_dir: str | os.PathLike,
  options: ClipOptions,
  *,
  workers: int = 1,
  shards: int = 0,
  runner: str = "processes",
  overwrite: bool = False,
) -> Manifest:
  """Prepares all videos below a directory.

  Args:
    source_dir: directory of videos, searched recursively.
    output_dir: directory of the data set, made if necessary.
    options: geometry, formats and rules.
    workers: processes; the result does not depend on it.
    shards: number of shards, at most one per video; 0 takes one per 64.
    runner: "processes", or "beam" for Apache Beam's DirectRunner.
    overwrite: replace a data set that is there; it stays until the new one
      is ready.

  Returns:
    What dataset.json holds.

  Raises:
    ValueError: if no video can be used, or another data set is in the way.
    MissingAudioError: if a video has no sound and that is an error.
    NotADirectoryError: if a file is in the way of `output_dir`.
  """
  output = pathlib.Path(output_dir)
  check_directory(output)
  files, duplicates = find_videos(source_dir)
  if not files:
    raise ValueError(
      f"no video below {source_dir}; looked for {' '.join(EXTENSIONS)}."
    )
  parts = output / PARTS
  tasks = [
    ClipTask(
      path,
      source,
      str(parts),
      clip_task.task_key(path, source, options),
      options,
    )
    for source, path in files
  ]
  fingerprint = _fingerprint(tasks, duplicates, shards)
  finished = _finished(output, fingerprint, overwrite)
  if finished is not None:
    return finished
  if runner == "beam":
    runners.check_beam()
  run = runners.run_beam if runner == "beam" else runners.run_processes
  parts.mkdir(parents=True, exist_ok=True)
  try:
    with runners.progress(len(tasks)) as advance:
      run(tasks, workers, advance)
    manifest = _assemble(output, tasks, duplicates, shards, fingerprint)
  except clip_task.MissingAudioError:
    # What is done serves once that video is gone or has sound.
    with contextlib.suppress(OSError):
      parts.rmdir()
    raise
  except ValueError:
    # Nothing usable, or a damaged part: the next run looks afresh.
    shutil.rmtree(parts)
    raise
  shutil.rmtree(parts)
  return manifest


def find_videos(
  directory: str | os.PathLike,
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
  """Lists the videos below a directory, links followed, sorted by name.

  Returns:
    (name, path) of each video; (name, reason) of each further link to one of
    them. The name is the path relative to the directory, with slashes.

  Raises:
    ValueError: if there is no such directory.
  """
  root = os.fspath(directory)
  if not os.path.isdir(root):
    raise ValueError(f"{root}: no such directory.")
  names, visited = [], set()
  for folder, subfolders, files in os.walk(root, followlinks=True):
    real = os.path.realpath(folder)
    if real in visited:
      # A link back up the tree, or a second way to a folder.
      subfolders.clear()
      continue
    visited.add(real)
    subfolders[:] = sorted(name for name in subfolders if name != PARTS)
    for name in files:
      if name.lower().endswith(EXTENSIONS):
        path = os.path.join(folder, name)
        names.append((os.path.relpath(path, root).replace(os.sep, "/"), path))
  names.sort()
  # A plain file stands for itself, however its links are called.
  plain = {p: s for s, p in names if not os.path.islink(p)}
  owners = {os.path.realpath(p): s for p, s in plain.items()}
  videos, duplicates = [], []
  for source, path in names:
    owner = owners.setdefault(os.path.realpath(path), source)
    if owner == source:
      videos.append((source, path))
    else:
      duplicates.append((source, f"a link to {owner}"))
  return videos, duplicates


def _fingerprint(
  tasks: Sequence[ClipTask],
  duplicates: Sequence[tuple[str, str]],
  shards: int,
) -> str:
  text = repr(([task.key for task in tasks], duplicates, shards))
  data = text.encode("utf-8", "surrogateescape")
  return hashlib.sha256(data).hexdigest()


def _finished(
  output: pathlib.Path, fingerprint: str, overwrite: bool
) -> Manifest | None:
  """The data set that is there if it is the wanted one."""
  if not (output / MANIFEST).exists():
    return None
  if overwrite:
    return None
  try:
    manifest = Manifest.load(output)
  except ValueError:
    manifest = None
  if manifest is None or manifest.fingerprint != fingerprint:
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
    clips = manifest.clips[first : first + count]
    first += count
    wanted = sum(len(segments(c.frames, manifest.spec.frames)) for c in clips)
    if not path.exists():
      return f"{path}: the shard is missing"
    try:
      found = len(read_index(path))
    except CorruptRecordError as error:
      return f"{path}: {error.reason}"
    if found != wanted:
      return f"{path}: {found} records of {wanted} are there"
  return None


def _assemble(
  output: pathlib.Path,
  tasks: Sequence[ClipTask],
  duplicates: Sequence[tuple[str, str]],
  shards: int,
  fingerprint: str,
) -> Manifest:
  """Joins the parts into shards, then writes dataset.json."""
  skipped, used = list(duplicates), []
  for task in tasks:
    report = clip_task.read_report(task)
    if "reason" in report:
      skipped.append((task.source, report["reason"]))
    else:
      clip = Clip(task.source, report["frames"], tuple(report["repaired"]))
      used.append((task, clip))
  if not used:
    reasons = "; ".join(f"{s}: {r}" for s, r in skipped[:5])
    raise ValueError(
      f"none of the {len(skipped)} videos can be used ({reasons}"
      f"{'; ...' if len(skipped) > 5 else ''})."
    )
  count = min(shards or -(-len(used) // _CLIPS_PER_SHARD), len(used))
  table = []
  for shard in range(count):
    group = used[shard * len(used) // count : (shard + 1) * len(used) // count]
    name = f"clips-{shard:05d}-of-{count:05d}.tfrecord"
    with TFRecordWriter(output / PARTS / name) as writer:
      for task, _ in group:
        for record in read_records(task.part):
          writer.write(record)
    table.append((name, len(group)))
  # All is written: only now the old data set goes.
  (output / MANIFEST).unlink(missing_ok=True)
  for old in [*output.glob("clips-*.tfrecord"), *output.glob("clips-*.idx")]:
    old.unlink()
  for name, _ in table:
    for part in (index_path(output / PARTS / name), output / PARTS / name):
      os.replace(part, output / part.name)
  options = tasks[0].options
  manifest = Manifest(
    spec=options.spec,
    frame_format=options.frame_format,
    jpeg_quality=options.jpeg_quality,
    clips=tuple(clip for _, clip in used),
    shards=tuple(table),
    skipped=tuple(sorted(skipped)),
    options={
      "channels": options.channels,
      "missing_audio": options.missing_audio,
    },
    fingerprint=fingerprint,
  )
  manifest.save(output)
  return manifest


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m data_prep.videos_to_tfrecord",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--input", required=True, metavar="DIR", help="folder of videos")
  add("--output", required=True, metavar="DIR", help="folder of the data set")
  add(
    "--fps",
    type=bounded(float, *FPS),
    default=10.0,
    help="frames per second [10]",
  )
  add(
    "--size",
    type=_size,
    default=(64, 64),
    metavar="N|HxW",
    help="height and width of the frames in pixels [64]",
  )
  add(
    "--sample_rate",
    type=bounded(int, *SAMPLE_RATE),
    default=16000,
    help="audio samples per second [16000]",
  )
  add(
    "--clip_frames",
    type=bounded(int, 1),
    default=16,
    help="frames of a window [16]",
  )
  add(
    "--workers",
    type=bounded(int, 1),
    default=os.cpu_count() or 1,
    help="processes; does not change the result [one per core]",
  )
  add(
    "--shards",
    type=bounded(int, 1),
    default=0,
    help="number of shards, at most one per video [one per 64 videos]",
  )
  add(
    "--missing_audio",
    choices=clip_task.MISSING_AUDIO,
    default="skip",
    help="what to do with a video that has no sound [skip]",
  )
  add(
    "--channels",
    choices=CHANNELS,
    default="mean",
    help="how several audio channels become one [mean]",
  )
  add(
    "--frame_format",
    choices=FRAME_FORMATS,
    help="storage of the frames [raw up to 64 pixels, else png]",
  )
  add(
    "--jpeg_quality",
    type=bounded(int, 1, 100),
    help="1-100, for --frame_format=jpeg [95]",
  )
  add(
    "--runner",
    choices=("processes", "beam"),
    default="processes",
    help="what runs the work: processes of this program, or Apache Beam's"
    " DirectRunner (extra `beam`) [processes]",
  )
  add(
    "--overwrite",
    action="store_true",
    help="replace a data set of other videos or options in --output",
  )
  return parser


def _size(text: str) -> tuple[int, int]:
  try:
    numbers = [int(side) for side in text.lower().split("x")]
  except ValueError:
    numbers = []
  if len(numbers) not in (1, 2) or min(numbers) < 1:
    raise argparse.ArgumentTypeError(
      f"must be N or HxW, such as 64 or 48x64, got {text}"
    )
  return numbers[0], numbers[-1]


def _options(flags: argparse.Namespace) -> ClipOptions:
  height, width = flags.size
  frame_format = flags.frame_format
  if frame_format is None:
    frame_format = "raw" if max(flags.size) <= _RAW_SIZE else "png"
  if flags.jpeg_quality is not None and frame_format != "jpeg":
    raise ValueError("--jpeg_quality goes with --frame_format=jpeg only.")
  quality = (flags.jpeg_quality or 95) if frame_format == "jpeg" else None
  spec = AVSpec(flags.clip_frames, height, width, flags.fps, flags.sample_rate)
  return ClipOptions(
    spec, frame_format, quality, flags.channels, flags.missing_audio
  )


def summary(manifest: Manifest) -> str:
  """The counts of a data set, and what was skipped or repaired, in lines."""
  lines = [
    f"{len(manifest.clips)} videos used, {len(manifest.skipped)} skipped;"
    f" {manifest.num_windows} windows of {manifest.spec.frames} frames in"
    f" {manifest.num_records} records, {len(manifest.shards)} shards;"
    f" {manifest.hours:.4f} h"
  ]
  lines += [f"skipped {source}: {why}" for source, why in manifest.skipped]
  lines += [
    f"repaired {clip.source}: {'; '.join(clip.repaired)}"
    for clip in manifest.clips
    if clip.repaired
  ]
  return "\n".join(map(one_line, lines))


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program; returns its exit status."""
  flags = _parser().parse_args(arguments)
  try:
    manifest = prepare(
      flags.input,
      flags.output,
      _options(flags),
      workers=flags.workers,
      shards=flags.shards,
      runner=flags.runner,
      overwrite=flags.overwrite,
    )
  except clip_task.MissingAudioError as error:
    print(
      f"error: {one_line(error)}; choose --missing_audio=skip or silence, or"
      " remove the file: the same command continues.",
      file=sys.stderr,
    )
    return 1
  except (ValueError, OSError) as error:
    print(f"error: {one_line(error)}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print("interrupted; the same command continues.", file=sys.stderr)
    return 130
  print(summary(manifest))
  return 0


if __name__ == "__main__":
  sys.exit(main())
