"""Prepares videos: TFRecord shards of clips and a dataset.json.

Every video below a folder, or one alone, is resampled to a regular
grid of frames with the audio of the same time span. An interrupted run
continues where it stopped when the same command is run again. Damaged or
unsuitable files are left out and listed with the reason in dataset.json.
"""

import contextlib
import os
from collections.abc import Callable

from data_prep import clip_task, data_set, descriptions
from data_prep.clip_task import ClipOptions
from data_prep.on_beam import BeamEngine
from data_prep.runners import ProcessEngine
from mmdiff_jax.data.descriptions import TextEncoder
from mmdiff_jax.data.manifest import Manifest
from mmdiff_jax.disk.files import as_path, check_directory, is_cloud
from mmdiff_jax.disk.locks import locked


def prepare(
  source_dir: str | os.PathLike,
  output_dir: str | os.PathLike,
  options: ClipOptions,
  *,
  workers: int = 1,
  shards: int = 0,
  runner: str = "processes",
  beam_options: str = "",
  labels: str = "none",
  captions: str = "",
  embeddings: str = "",
  open_encoder: Callable[[], TextEncoder] | None = None,
  overwrite: bool = False,
) -> Manifest:
  """Prepares all videos below a directory, or one video.

  Args:
    source_dir: directory of videos, searched recursively, or a file.
    output_dir: directory of the data set, made if necessary.
    options: geometry, formats and rules.
    workers: processes; the result does not depend on it.
    shards: number of shards, at most one per video; 0 takes one per 64.
    runner: "processes", or "beam" for Apache Beam.
    beam_options: as Beam spells them, such as "--runner=DataflowRunner ...";
      "" takes Beam's DirectRunner.
    labels: "folders" gives a video the label of the first folder below
      `source_dir` on its path; "none" gives none.
    captions: file of captions; see `description_files.read_captions`.
    embeddings: file of vectors; see `description_files.read_embeddings`.
    open_encoder: opens the text encoder, which captions need.
    overwrite: replace a data set that is there; it stays until the new one
      is ready.

  Returns:
    What dataset.json holds.

  Raises:
    ValueError: if no video can be used, another data set is in the way, or a
      file of descriptions cannot be read or names other videos.
    MissingAudioError: if a video has no sound and that is an error.
    NotADirectoryError: if a file is in the way of `output_dir`.
    InUseError: if another process writes to it.
  """
  check_directory(output_dir)
  output = as_path(output_dir)
  if _same_place(source_dir, output_dir):
    raise ValueError(
      f"--output={output_dir} holds the videos; choose another folder for the "
      "data set."
    )
  parts = output / data_set.PARTS
  engine: ProcessEngine | BeamEngine
  if runner == "beam":
    engine = BeamEngine(parts, workers, beam_options)
  else:
    engine = ProcessEngine(parts, workers)
  encoder = None
  if captions:
    if open_encoder is None:
      raise ValueError("captions need a text encoder: give open_encoder.")
    encoder = open_encoder()
  files = descriptions.Files.read(captions, embeddings)
  tasks, listed = engine.find_tasks(os.fspath(source_dir), labels, options)
  tasks = files.describe(tasks, listed.left_out, encoder)
  mark = data_set.fingerprint(tasks, listed.left_out, shards)
  with locked(output):
    data_set.remove_leftovers(output)
    if not overwrite:
      finished = data_set.find_finished(output, mark)
      if finished is not None:
        data_set.remove_parts(output)
        return finished
    if not is_cloud(parts):
      parts.mkdir(parents=True, exist_ok=True)
    try:
      tasks = descriptions.encode(tasks, encoder)
      reports = engine.prepare(tasks)
      plan = data_set.make_plan(tasks, reports, listed.left_out, shards)
      engine.write_shards(plan.shards)
      # All is written: only now the old data set goes.
      data_set.remove_old(output)
      engine.move_shards(output, plan.shards)
      manifest = data_set.save_manifest(
        output, plan, options, listed.classes, mark, encoder
      )
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


def _same_place(a: str | os.PathLike, b: str | os.PathLike) -> bool:
  """Whether two names are of one folder."""
  if is_cloud(a) or is_cloud(b):
    return os.fspath(a).rstrip("/") == os.fspath(b).rstrip("/")
  return os.path.realpath(a) == os.path.realpath(b)
