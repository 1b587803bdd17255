"""Prepares videos: TFRecord shards of clips and a dataset.json.

  python -m data_prep.videos_to_tfrecord --input VIDEOS --output DIR

VIDEOS is a folder or one file. Every video below it is resampled to a regular
grid of frames with the audio of the same time span. An interrupted run
continues where it stopped when the same command is run again. Damaged or
unsuitable files are left out and listed with the reason in dataset.json.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from data_prep import clip_task, data_set, for_config, runners
from data_prep.clip_task import ClipOptions, ClipTask
from data_prep.command_line import FPS, SAMPLE_RATE, Parser, bounded, one_line
from data_prep.emptiness import Limits
from mmdiff_jax.av import AVSpec
from mmdiff_jax.cli.config_file import load_config
from mmdiff_jax.data.clips import FRAME_FORMATS
from mmdiff_jax.data.container import (
  FITS,
  HDR,
  ReadOptions,
  check_hwaccel,
)
from mmdiff_jax.data.manifest import MANIFEST, Manifest, Video
from mmdiff_jax.data.media import CHANNELS
from mmdiff_jax.data.media_files import find_media
from mmdiff_jax.files import as_path, check_directory, check_path, is_cloud
from mmdiff_jax.locks import locked

LABELS = ("none", "folders")
# Frames up to this size (pixels) are stored uncompressed by default.
_RAW_SIZE = 64
# So many of the videos that are empty in part are listed, emptiest first.
_EMPTY_LISTED = 5


def prepare(
  source_dir: str | os.PathLike,
  output_dir: str | os.PathLike,
  options: ClipOptions,
  *,
  workers: int = 1,
  shards: int = 0,
  runner: str = "processes",
  labels: str = "none",
  overwrite: bool = False,
) -> Manifest:
  """Prepares all videos below a directory, or one video.

  Args:
    source_dir: directory of videos, searched recursively, or a file.
    output_dir: directory of the data set, made if necessary.
    options: geometry, formats and rules.
    workers: processes; the result does not depend on it.
    shards: number of shards, at most one per video; 0 takes one per 64.
    runner: "processes", or "beam" for Apache Beam's DirectRunner.
    labels: "folders" gives a video the label of the first folder below
      `source_dir` on its path; "none" gives none.
    overwrite: replace a data set that is there; it stays until the new one
      is ready.

  Returns:
    What dataset.json holds.

  Raises:
    ValueError: if no video can be used, or another data set is in the way.
    MissingAudioError: if a video has no sound and that is an error.
    NotADirectoryError: if a file is in the way of `output_dir`.
    InUseError: if another process writes to it.
  """
  check_directory(output_dir)
  output = as_path(output_dir)
  parts = output / data_set.PARTS
  tasks, left_out, classes = _list_tasks(source_dir, parts, options, labels)
  if runner == "beam":
    runners.check_beam()
  with locked(output):
    data_set.remove_leftovers(output)
    if not overwrite:
      wanted = data_set.fingerprint(tasks, left_out, shards)
      finished = data_set.find_finished(output, wanted)
      if finished is not None:
        data_set.remove_parts(output)
        return finished
    data_set.forget_incomplete(tasks)
    if not is_cloud(parts):
      parts.mkdir(parents=True, exist_ok=True)
    run = runners.run_beam if runner == "beam" else runners.run_processes
    try:
      with runners.progress(len(tasks)) as advance:
        run(tasks, workers, advance)
      manifest = data_set.assemble(output, tasks, left_out, shards, classes)
    except clip_task.MissingAudioError:
      # What is done serves once that video is gone or has sound.
      with contextlib.suppress(OSError, ValueError):
        parts.rmdir()
      raise
    except ValueError:
      # Nothing usable, or a damaged part: the next run looks afresh.
      data_set.remove_parts(output)
      raise
    data_set.remove_parts(output)
  return manifest


def _list_tasks(
  source_dir: str | os.PathLike,
  parts: pathlib.Path,
  options: ClipOptions,
  labels: str,
) -> tuple[list[ClipTask], list[tuple[str, str]], list[str]]:
  """The videos to prepare, those left out with the reason, the classes."""
  if not is_cloud(source_dir) and pathlib.Path(source_dir).is_file():
    file = os.fspath(source_dir)
    files = [(os.path.basename(file), file)]
    left_out: list[tuple[str, str]] = []
  else:
    files, left_out = find_media(source_dir)
  if not files:
    raise ValueError(
      f"no video below {source_dir}"
      + "".join(f"; {name}: {reason}" for name, reason in left_out[:5])
      + "."
    )
  classes: list[str] = []
  if labels == "folders":
    files, classes, without = _sort_by_folder(files)
    left_out += without
  tasks = [
    _make_task(source, path, parts, options, classes) for source, path in files
  ]
  return tasks, left_out, classes


def _sort_by_folder(
  files: Sequence[tuple[str, str]],
) -> tuple[list[tuple[str, str]], list[str], list[tuple[str, str]]]:
  """Returns the videos in folders, the folders, and the videos in none.

  Raises:
    ValueError: if there is no video in a folder.
  """
  inside = [(source, path) for source, path in files if "/" in source]
  if not inside:
    raise ValueError(
      "--labels=folders takes the label from the first folder below --input,"
      f" but all {len(files)} videos lie directly in it."
    )
  reason = "lies in no folder below --input, from which its label would follow"
  without = [(source, reason) for source, _ in files if "/" not in source]
  return inside, sorted({_folder(source) for source, _ in inside}), without


def _folder(source: str) -> str:
  return source.partition("/")[0]


def _make_task(
  source: str,
  path: str,
  parts: pathlib.Path,
  options: ClipOptions,
  classes: Sequence[str],
) -> ClipTask:
  label = classes.index(_folder(source)) if classes else None
  key = clip_task.task_key(path, source, options, label)
  return ClipTask(path, source, str(parts), key, options, label)


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


# Options of each flag, for argparse.
_FLAGS: dict[str, dict[str, Any]] = {
  "--input": {
    "required": True,
    "metavar": "PATH",
    "help": "folder of videos, or one",
  },
  "--output": {
    "required": True,
    "metavar": "DIR",
    "help": "folder of the data set",
  },
  "--for": {
    "metavar": "CONFIG",
    "help": "configuration to prepare for, a file or a name: what"
    " of the five flags below is not given follows from it, and its network"
    " must take the clips",
  },
  "--fps": {
    "type": bounded(float, *FPS),
    "help": "frames per second [10]",
  },
  "--size": {
    "type": _size,
    "metavar": "N|HxW",
    "help": "height and width of the frames in pixels [64]",
  },
  "--sample_rate": {
    "type": bounded(int, *SAMPLE_RATE),
    "help": "audio samples per second [16000]",
  },
  "--clip_frames": {
    "type": bounded(int, 1),
    "help": "frames of a clip [16]",
  },
  "--fit": {
    "choices": FITS,
    "help": "pictures of another aspect ratio: pad with black bars, crop the"
    " edges, or stretch [pad]",
  },
  "--labels": {
    "choices": LABELS,
    "default": "none",
    "help": "folders: a video's label is the first folder below --input [none]",
  },
  "--workers": {
    "type": bounded(int, 1),
    "default": os.cpu_count() or 1,
    "help": "processes; does not change the result [one per core]",
  },
  "--shards": {
    "type": bounded(int, 1),
    "default": 0,
    "help": "number of shards, at most one per video [one per 64 videos]",
  },
  "--missing_audio": {
    "choices": clip_task.MISSING_AUDIO,
    "default": "skip",
    "help": "what to do with a video that has no sound [skip]",
  },
  "--channels": {
    "choices": CHANNELS,
    "default": "mean",
    "help": "how several audio channels become one [mean]",
  },
  "--min_loudness": {
    "type": bounded(float, -200, 0),
    "help": "leave out clips whose sound is quieter (dBFS, RMS) [none]",
  },
  "--max_silence": {
    "type": bounded(float, 0, 1),
    "default": 1.0,
    "help": "leave out clips of which more is digital silence [1]",
  },
  "--max_frozen": {
    "type": bounded(float, 0, 1),
    "default": 1.0,
    "help": "leave out clips of which in more the picture stands still [1]",
  },
  "--max_pixels": {
    "type": bounded(int, 64),
    "default": ReadOptions().max_pixels,
    "help": "leave out videos with larger pictures [%(default)s]",
  },
  "--time_limit": {
    "type": bounded(float, 1),
    "default": ReadOptions().time_limit,
    "help": "seconds after which a video is left out [%(default)s]",
  },
  "--hdr": {
    "choices": HDR,
    "default": "map",
    "help": "videos of high dynamic range: map to BT.709, or skip [map]",
  },
  "--hwaccel": {
    "default": "",
    "metavar": "NAME",
    "help": "hardware that decodes, by FFmpeg's name (cuda, vaapi, qsv,"
    " videotoolbox); what it cannot, the CPU decodes [none]",
  },
  "--frame_format": {
    "choices": FRAME_FORMATS,
    "help": "storage of the frames [raw up to 64 pixels, else png]",
  },
  "--jpeg_quality": {
    "type": bounded(int, 1, 100),
    "help": "1-100, for --frame_format=jpeg [95]",
  },
  "--runner": {
    "choices": ("processes", "beam"),
    "default": "processes",
    "help": "what runs the work: processes of this program, or Apache Beam's"
    " DirectRunner (extra `beam`) [processes]",
  },
  "--overwrite": {
    "action": "store_true",
    "help": "replace a data set of other videos or options in --output",
  },
}


def _parse(arguments: Sequence[str] | None, program: str) -> argparse.Namespace:
  parser = Parser(
    prog=program,
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  for name, options in _FLAGS.items():
    parser.add_argument(name, **options)
  return parser.parse_args(arguments)


def _geometry(flags: argparse.Namespace) -> tuple[AVSpec, str]:
  """Geometry and fit: flags go before --for, that before the defaults."""
  height, width = flags.size or (None, None)
  given = {
    "frames": flags.clip_frames,
    "height": height,
    "width": width,
    "fps": flags.fps,
    "sample_rate": flags.sample_rate,
  }
  given = {name: value for name, value in given.items() if value is not None}
  path = getattr(flags, "for")
  if path is None:
    spec = AVSpec(**given)
    note = for_config.note(spec)
    if note is not None:
      print(note, file=sys.stderr)
    return spec, flags.fit or "pad"
  config = load_config(path, "--for")
  spec = dataclasses.replace(AVSpec.from_config(config.data), **given)
  for_config.check(config, spec)
  return spec, flags.fit or config.data.get("fit", "pad")


def _options(flags: argparse.Namespace) -> ClipOptions:
  spec, fit = _geometry(flags)
  frame_format = flags.frame_format
  if frame_format is None:
    small = max(spec.height, spec.width) <= _RAW_SIZE
    frame_format = "raw" if small else "png"
  if flags.jpeg_quality is not None and frame_format != "jpeg":
    raise ValueError("--jpeg_quality goes with --frame_format=jpeg only.")
  quality = (flags.jpeg_quality or 95) if frame_format == "jpeg" else None
  # Frames are decoded by all cores where the videos are too few for that.
  threads = max(1, (os.cpu_count() or 1) // flags.workers)
  if flags.hwaccel:
    check_hwaccel(flags.hwaccel)
  return ClipOptions(
    spec,
    frame_format,
    quality,
    flags.channels,
    flags.missing_audio,
    ReadOptions(
      flags.max_pixels,
      flags.time_limit,
      flags.hdr,
      threads,
      fit=fit,
      hwaccel=flags.hwaccel,
    ),
    Limits(flags.min_loudness, flags.max_silence, flags.max_frozen),
  )


def summary(manifest: Manifest) -> str:
  """The counts of a data set, and what was skipped or repaired, in lines."""
  lines = [
    f"{len(manifest.videos)} videos used, {len(manifest.skipped)} skipped;"
    f" {manifest.num_clips} clips of {manifest.spec.frames} frames in"
    f" {manifest.num_records} records, {len(manifest.shards)} shards;"
    f" {manifest.hours:.4f} h"
  ]
  lines += [f"skipped {source}: {why}" for source, why in manifest.skipped]
  lines += [
    f"repaired {video.source}: {'; '.join(video.repaired)}"
    for video in manifest.videos
    if video.repaired
  ]
  return "\n".join(map(one_line, lines + _emptiest(manifest.videos)))


def _emptiest(videos: Sequence[Video]) -> list[str]:
  """Lines on the videos that hold silence, stills or darkness."""
  empty = [v for v in videos if any(v.empty.values()) or v.left_out]
  empty.sort(key=lambda v: (-len(v.left_out), -max(v.empty.values())))
  lines = [f"empty {v.source}: {_empty(v)}" for v in empty[:_EMPTY_LISTED]]
  if len(empty) > _EMPTY_LISTED:
    rest = len(empty) - _EMPTY_LISTED
    lines.append(f"empty in part: {rest} more, listed in {MANIFEST}")
  return lines


def _empty(video: Video) -> str:
  words = [f"{s:g} s {name}" for name, s in video.empty.items() if s]
  count = sum(end - begin for begin, end in video.left_out)
  if count:
    words.append(f"{count} clips left out")
  return ", ".join(words)


def main(
  arguments: Sequence[str] | None = None,
  program: str = "python -m data_prep.videos_to_tfrecord",
) -> int:
  """Runs the program, called by that name; returns its exit status."""
  flags = _parse(arguments, program)
  try:
    check_path(flags.input, "--input")
    check_path(flags.output, "--output")
    manifest = prepare(
      flags.input,
      flags.output,
      _options(flags),
      workers=flags.workers,
      shards=flags.shards,
      runner=flags.runner,
      labels=flags.labels,
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
