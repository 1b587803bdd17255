"""Captions and embeddings of the videos that are prepared."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from data_prep import data_set
from data_prep.clip_task import ClipTask
from mmdiff_jax.data import descriptions
from mmdiff_jax.data.description_files import (
  match,
  read_captions,
  read_embeddings,
)
from mmdiff_jax.data.descriptions import TextEncoder


@dataclasses.dataclass(frozen=True)
class Files:
  """What files say of videos, by the names that stand in them.

  Attributes:
    captions: texts of each video, and the file's path.
    embeddings: a vector of each video, and the file's path.
  """

  captions: tuple[Mapping[str, tuple[str, ...]], str]
  embeddings: tuple[Mapping[str, np.ndarray], str]

  @classmethod
  def read(cls, captions: str, embeddings: str) -> "Files":
    """Reads the files; "" is none.

    Raises:
      ValueError: if one cannot be read.
      OSError: if one is missing.
    """
    return cls(
      (read_captions(captions) if captions else {}, captions),
      (read_embeddings(embeddings) if embeddings else {}, embeddings),
    )

  def describe(
    self,
    tasks: Sequence[ClipTask],
    left_out: Sequence[tuple[str, str]],
    encoder: TextEncoder | None,
  ) -> list[ClipTask]:
    """Adds to each video what is known of it; its key changes with that.

    Args:
      tasks: the videos.
      left_out: (name, reason) of those that take no part, but may be named.
      encoder: of the captions.

    Raises:
      ValueError: if a file names a video that is not there.
    """
    names = [*(task.source for task in tasks), *(name for name, _ in left_out)]
    captions = match(self.captions[0], names, self.captions[1])
    embeddings = match(self.embeddings[0], names, self.embeddings[1])
    return [
      _described(
        task,
        captions.get(task.source, ()),
        embeddings.get(task.source),
        encoder,
      )
      for task in tasks
    ]


def _described(
  task: ClipTask,
  captions: tuple[str, ...],
  embedding: np.ndarray | None,
  encoder: TextEncoder | None,
) -> ClipTask:
  known = dataclasses.replace(
    task.description, captions=captions, embedding=embedding
  )
  digest = known.digest()
  if not digest:
    return task
  made_by = encoder.sha256 if captions and encoder is not None else ""
  key = hashlib.sha256(f"{task.key} {digest} {made_by}".encode()).hexdigest()
  return dataclasses.replace(task, key=key[: len(task.key)], description=known)


def encode(
  tasks: Sequence[ClipTask], encoder: TextEncoder | None
) -> list[ClipTask]:
  """Adds the vectors of the captions of all videos that are not done yet."""
  if encoder is None:
    return list(tasks)
  captioned = [task for task in tasks if task.description.captions]
  data_set.forget_incomplete(captioned)
  known = {
    task.source: task.description
    for task in captioned
    if not task.report.exists()
  }
  known, _ = descriptions.encode(known, lambda: encoder)
  return [
    dataclasses.replace(
      task, description=known.get(task.source, task.description)
    )
    for task in tasks
  ]
