"""Prepares one video: the unit of work of the preparation, in any process.

The result is a part (a TFRecord file of the video's segments) and a report
(JSON) beside it. The report is written last: where it exists, the work is
done. Names are hashes of the file and the options, so that a part is reused
exactly when it would come out the same.
"""

import dataclasses
import hashlib
import json
import os
import pathlib

import numpy as np

from data_prep.bars import Bars, CutReader, find_bars, measure
from data_prep.emptiness import Emptiness, Limits
from mmdiff_jax.av import AVSpec
from mmdiff_jax.data import clips
from mmdiff_jax.data.descriptions import NOTHING, Description
from mmdiff_jax.data.manifest import VERSION
from mmdiff_jax.data.tfrecord import TFRecordWriter
from mmdiff_jax.disk.files import as_path, file_size, local_copy, replacing
from mmdiff_jax.media import reading
from mmdiff_jax.media.container import ReadOptions

MISSING_AUDIO = ("skip", "silence", "error")
# A video with a shorter side (pixels) shows nothing.
MIN_SIDE = 8
# Bytes of a file's head and tail that go into its hash.
_HASHED = 1 << 16


@dataclasses.dataclass(frozen=True)
class ClipOptions:
  """What is the same for all videos of a data set.

  Attributes:
    spec: geometry of a clip.
    frame_format: "raw", "png" or "jpeg".
    jpeg_quality: 1-100, None for the other formats.
    channels: "mean" or "first".
    missing_audio: "skip" (leave the video out), "silence" or "error".
    reading: bounds of reading a file.
    limits: which clips are left out as empty.
    crop_bars: whether black bars of the videos are cut off.
  """

  spec: AVSpec
  frame_format: str
  jpeg_quality: int | None
  channels: str
  missing_audio: str
  reading: ReadOptions = ReadOptions()
  limits: Limits = Limits()
  # Not in `repr`, by which earlier data sets know their options.
  crop_bars: bool = dataclasses.field(default=False, repr=False)


@dataclasses.dataclass(frozen=True)
class ClipTask:
  """One video to prepare.

  Attributes:
    path: the file.
    source: its name in the data set.
    parts: directory of the results.
    key: hash of the file and the options.
    options: see ClipOptions.
    description: what is known of the video beside its streams.
  """

  path: str
  source: str
  parts: str
  key: str
  options: ClipOptions
  description: Description = NOTHING

  @property
  def part(self) -> pathlib.Path:
    """The TFRecord file of this video's segments."""
    return part_path(self.parts, self.key)

  @property
  def report(self) -> pathlib.Path:
    """The report of this video."""
    return as_path(self.parts) / f"{self.key}.json"


def part_path(parts: str, key: str) -> pathlib.Path:
  """The TFRecord file of the segments of the video with that key."""
  return as_path(parts) / f"{key}.tfrecord"


class MissingAudioError(ValueError):
  """A video without sound where that is an error."""


def task_key(
  path: str, source: str, options: ClipOptions, label: int | None = None
) -> str:
  """Hash of name, size, first and last 64 KiB of a file, options and label."""
  # Threads change the speed alone.
  reading = dataclasses.replace(options.reading, threads=0)
  text = f"{VERSION} {dataclasses.replace(options, reading=reading)}"
  if reading.fit != "pad":
    text += f" fit {reading.fit}"
  if options.crop_bars:
    text += " crop bars"
  if reading.hwaccel:
    text += f" hwaccel {reading.hwaccel}"
  if label is not None:
    text += f" label {label}"
  digest = hashlib.sha256(text.encode())
  digest.update(clips.source_bytes(source) + b"\0")
  try:
    size = file_size(path)
    with as_path(path).open("rb") as file:
      digest.update(str(size).encode() + file.read(_HASHED))
      file.seek(max(0, size - _HASHED))
      digest.update(file.read())
  except OSError as error:
    digest.update(str(error.errno).encode())
  return digest.hexdigest()[:32]


def prepare_clip(task: ClipTask) -> dict:
  """Writes a video's part and report; does nothing where they exist.

  Returns:
    The report: `{"source", "frames", "repaired", "empty", "left_out"}`, or
    `{"source", "reason"}` for a video that cannot be used.

  Raises:
    MissingAudioError: if there is no sound and that is an error.
    OSError: if the results cannot be written.
  """
  if task.report.exists():
    return read_report(task)
  try:
    with local_copy(task.path) as path:
      local = dataclasses.replace(task, path=os.fspath(path))
      report = {"source": task.source, **_write_part(local)}
  except reading.MediaError as error:
    report = {"source": task.source, "reason": error.reason}
  except (MissingAudioError, OSError):
    raise
  except Exception as error:  # One odd file must not stop the run.
    reason = f"cannot be read ({type(error).__name__}: {error})"
    report = {"source": task.source, "reason": reason}
  return write_report(task, report)


def read_report(task: ClipTask) -> dict:
  """The report that `prepare_clip` left."""
  return json.loads(task.report.read_text())


def write_report(task: ClipTask, report: dict) -> dict:
  """Marks a task as done; returns the report."""
  with replacing(task.report) as temporary:
    pathlib.Path(temporary).write_text(json.dumps(report))
  return report


def _write_part(task: ClipTask) -> dict:
  """Returns what the report says of a video that can be used."""
  options = task.options
  spec = options.spec
  track = reading.read_track(
    task.path, spec.sample_rate, options.channels, options.reading
  )
  repaired = []
  if track is None:
    if options.missing_audio == "error":
      raise MissingAudioError(
        f"{task.source}: has no audio; choose --missing_audio=skip or silence, "
        "or remove the file: the same command continues."
      )
    if options.missing_audio == "skip":
      raise reading.MediaError(task.path, "has no audio")
    repaired.append("has no audio: silence")
  size = (spec.height, spec.width)
  cut = Bars()
  if options.crop_bars:
    cut = find_bars(task.path, spec.fps, options.reading)
  if any(cut):
    repaired.append(f"black bars cut off: {cut}")
    reader: reading.FrameReader = CutReader(
      task.path, spec.fps, size, track, options.reading, cut
    )
  else:
    reader = reading.FrameReader(
      task.path, spec.fps, size, track, options.reading
    )
  empty = Emptiness()
  with TFRecordWriter(task.part) as writer:
    total = _write_segments(task, reader, track, writer, empty)
    if total < spec.frames:
      raise reading.MediaError(
        task.path,
        f"lasts {total / spec.fps:.2f} s: too short for {spec.frames} frames"
        f" at {spec.fps:g} fps ({spec.duration:.2f} s)",
      )
  if track is not None:
    repaired += track.repairs(reader.origin, total / spec.fps)
  left_out = empty.left_out(spec.frames, options.limits)
  if sum(end - begin for begin, end in left_out) > total - spec.frames:
    raise reading.MediaError(
      task.path, "every clip is too quiet, silent or still"
    )
  # Bars that were cut off are none of the result's.
  bars = Bars()
  if not any(cut):
    fit = options.reading.fit
    bars = measure(empty.peaks, reader.native_size, size, fit)
  return {
    "frames": total,
    "repaired": list(reader.repairs) + repaired,
    "empty": empty.seconds(spec.fps),
    "left_out": left_out,
    **({"bars": bars} if any(bars) else {}),
  }


def _write_segments(
  task: ClipTask,
  reader: reading.FrameReader,
  track: reading.AudioTrack | None,
  writer: TFRecordWriter,
  empty: Emptiness,
) -> int:
  """Streams a video into segments, measured; returns its number of frames."""
  options, spec = task.options, task.options.spec
  longest = clips.segment_length(spec.frames)
  known = task.description
  start = 0
  frames: list[bytes] = []

  def write() -> None:
    begin, end = clips.audio_span(spec, start, len(frames))
    if track is None:
      audio = np.zeros((end - begin, 1), np.float32)
    else:
      audio = track.cut(reader.origin, begin, end)
    for frame in range(empty.heard, start + len(frames)):
      first = spec.frames_to_samples(frame) - begin
      after = spec.frames_to_samples(frame + 1) - begin
      empty.add_sound(audio[first:after])
    record = clips.encode_segment(
      spec,
      source=task.source,
      start=start,
      frames=frames,
      frame_format=options.frame_format,
      audio=audio,
      inputs=known.inputs(),
      captions=known.captions,
    )
    writer.write(record)

  for image in reader:
    if min(reader.native_size) < MIN_SIDE:
      height, width = reader.native_size
      raise reading.MediaError(
        task.path, f"{width}x{height} pixels: smaller than {MIN_SIDE}"
      )
    empty.add_picture(image)
    frames.append(
      clips.encode_frame(image, options.frame_format, options.jpeg_quality)
    )
    if len(frames) == longest:
      write()
      start += spec.frames
      del frames[: spec.frames]
  if len(frames) >= spec.frames:
    write()
  return start + len(frames)
