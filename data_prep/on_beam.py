"""The work in Apache Beam pipelines: on DirectRunner, or on a cluster.

Each step is one map over rows: list and hash the videos, prepare them, write
the shards, give them their names. Rows go in and results come out as files
under OUTPUT/.parts, which all workers reach; so the graph of a pipeline is as
small for ten million videos as for one, and records never pass through the
program that started it.
"""

import base64
import contextlib
import functools
import json
import pathlib
import shlex
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from data_prep import clip_task, data_set
from data_prep.clip_task import ClipOptions, ClipTask
from data_prep.data_set import Shard
from data_prep.listing import Listed, find_videos
from mmdiff_jax.data.descriptions import Description
from mmdiff_jax.disk.files import as_path, is_cloud, replacing

# Anything that JSON holds.
Row = Any


class BeamEngine:
  """Does the steps of a preparation by Beam."""

  def __init__(self, parts: pathlib.Path, workers: int, beam_options: str):
    """Checks the options.

    Args:
      parts: folder of the data set's parts, reached by all workers.
      workers: processes of the DirectRunner, where no options are given.
      beam_options: as on the command line of a Beam program; "" takes the
        DirectRunner.

    Raises:
      ValueError: if Beam is missing or cannot read the options.
    """
    try:
      from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
      raise ValueError(
        "--runner=beam needs Apache Beam: pip install apache-beam, or"
        " use --runner=processes."
      ) from error
    # DirectRunner by name: the default one downloads a program.
    mode = "in_memory" if workers == 1 else "multi_processing"
    flags = shlex.split(beam_options) or [
      "--runner=DirectRunner",
      f"--direct_num_workers={workers}",
      f"--direct_running_mode={mode}",
    ]
    try:
      self._options = PipelineOptions(flags)
      self._options.get_all_options()
    except (SystemExit, ValueError) as error:
      raise ValueError(f"--beam_options={beam_options}: {error}") from error
    self._parts = parts

  def find_tasks(
    self, source_dir: str, labels: str, options: ClipOptions
  ) -> tuple[list[ClipTask], Listed]:
    """Lists the videos, and hashes each one's head and tail; see Listed."""
    rows = self._map(
      "list",
      functools.partial(_list, source_dir, labels),
      functools.partial(_hash, options),
    )
    kinds: dict[str, list] = {"video": [], "left out": [], "class": []}
    for kind, *content in rows:
      if kind == "error":
        with contextlib.suppress(OSError):
          self._parts.rmdir()
        raise ValueError(content[0])
      kinds[kind].append(content)
    listed = Listed(
      [(name, path, label) for name, path, label, _ in kinds["video"]],
      [(name, reason) for name, reason in kinds["left out"]],
      [name for (name,) in kinds["class"]],
    )
    parts = str(self._parts)
    return [
      ClipTask(path, name, parts, key, options, Description(label=label))
      for name, path, label, key in kinds["video"]
    ], listed

  def prepare(self, tasks: Sequence[ClipTask]) -> list[dict]:
    """Prepares all videos; returns their reports.

    Raises:
      MissingAudioError: if a video has no sound and that is an error.
    """
    with self._file([_as_row(task) for task in tasks]) as place:
      work = functools.partial(_prepare, str(self._parts), tasks[0].options)
      reports = self._map("prepare", functools.partial(_load, place), work)
    for report in reports:
      if "missing audio" in report:
        raise clip_task.MissingAudioError(report["missing audio"])
    return reports

  def write_shards(self, shards: Sequence[Shard]) -> None:
    """Writes the shards, each by one worker."""
    rows = [[s.name, [task.key for task in s.tasks]] for s in shards]
    with self._file(rows) as place:
      work = functools.partial(_write_shard, str(self._parts))
      self._map("shards", functools.partial(_load, place), work)

  def move_shards(self, output: pathlib.Path, shards: Sequence[Shard]) -> None:
    """Gives the shards their names in the data set."""
    if not is_cloud(output):
      for shard in shards:
        data_set.move_shard(output, shard.name)
      return
    # An object has no name to change: each one is copied.
    with self._file([shard.name for shard in shards]) as place:
      work = functools.partial(_move_shard, str(output))
      self._map("names", functools.partial(_load, place), work)

  def _map(
    self,
    step: str,
    source: Callable[[], Iterable[Row]],
    work: Callable[[Row], Row],
  ) -> list[Row]:
    """Returns `work(row)` of each row of `source()`, in order.

    Both run in workers.
    """
    import apache_beam as beam

    place = self._place(step)
    try:
      with beam.Pipeline(options=self._options) as pipeline:
        rows = pipeline | "start" >> beam.Create([None])
        rows |= "read" >> beam.FlatMap(functools.partial(_number, source))
        rows |= "spread" >> beam.Reshuffle()
        rows |= step >> beam.Map(functools.partial(_apply, work))
        rows |= "gather" >> beam.combiners.ToList()
        _ = rows | "save" >> beam.Map(functools.partial(_save, place))
      return _load(place)
    except RuntimeError as error:
      # A worker's error, with the traceback of that worker in its text.
      lines = [line for line in str(error).splitlines() if line.strip()]
      raise OSError(f"Beam, step {step!r}: {lines[-1].strip()}") from error
    finally:
      as_path(place).unlink(missing_ok=True)

  @contextlib.contextmanager
  def _file(self, rows: list[Row]) -> Iterator[str]:
    place = self._place("rows")
    _write(place, rows)
    try:
      yield place
    finally:
      as_path(place).unlink(missing_ok=True)

  def _place(self, name: str) -> str:
    return str(self._parts / f"{name}-{uuid.uuid4().hex}.json")


def _as_row(task: ClipTask) -> Row:
  known = task.description
  vectors = [_pack(vectors) for vectors in (known.text, known.embedding)]
  return [
    task.source,
    task.path,
    task.key,
    known.label,
    known.captions,
    *vectors,
  ]


def _pack(vectors: np.ndarray | None) -> Row:
  if vectors is None:
    return None
  data = base64.b64encode(vectors.astype("<f4").tobytes()).decode()
  return [data, list(vectors.shape)]


def _unpack(row: Row) -> np.ndarray | None:
  if row is None:
    return None
  data, shape = row
  return np.frombuffer(base64.b64decode(data), "<f4").reshape(shape)


def _write(place: str, rows: list[Row]) -> None:
  with replacing(place) as temporary:
    pathlib.Path(temporary).write_text(json.dumps(rows))


def _load(place: str) -> list[Row]:
  return json.loads(as_path(place).read_text())


def _number(
  source: Callable[[], Iterable[Row]], _: None
) -> Iterator[tuple[int, Row]]:
  return iter(enumerate(source()))


def _apply(
  work: Callable[[Row], Row], numbered: tuple[int, Row]
) -> tuple[int, Row]:
  number, row = numbered
  return number, work(row)


def _save(place: str, results: list[tuple[int, Row]]) -> None:
  _write(place, [result for _, result in sorted(results, key=lambda r: r[0])])


def _list(source_dir: str, labels: str) -> list[Row]:
  try:
    listed = find_videos(source_dir, labels)
  except ValueError as error:
    return [["error", str(error)]]
  return [
    *(["class", name] for name in listed.classes),
    *(["left out", *pair] for pair in listed.left_out),
    *(["video", *video] for video in listed.videos),
  ]


def _hash(options: ClipOptions, row: Row) -> Row:
  if row[0] != "video":
    return row
  _, source, path, label = row
  return [*row, clip_task.task_key(path, source, options, label)]


def _as_task(parts: str, options: ClipOptions, row: Row) -> ClipTask:
  source, path, key, label, captions, text, embedding = row
  known = Description(tuple(captions), _unpack(text), _unpack(embedding), label)
  return ClipTask(path, source, parts, key, options, known)


def _prepare(parts: str, options: ClipOptions, row: Row) -> dict:
  task = _as_task(parts, options, row)
  data_set.forget_incomplete([task])
  try:
    return clip_task.prepare_clip(task)
  except clip_task.MissingAudioError as error:
    return {"source": task.source, "missing audio": str(error)}


def _write_shard(parts: str, row: Row) -> None:
  name, keys = row
  paths = [clip_task.part_path(parts, key) for key in keys]
  data_set.write_shard(as_path(parts) / name, paths)


def _move_shard(output: str, name: str) -> None:
  data_set.move_shard(as_path(output), name)
