"""Which videos are prepared, under which names and labels."""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from mmdiff_jax.disk.files import is_cloud
from mmdiff_jax.media.files import find_media

LABELS = ("none", "folders")


class Listed(NamedTuple):
  """What a folder holds.

  Attributes:
    videos: (name, path, label or None) of each.
    left_out: (name, reason) of each one that takes no part.
    classes: names of the labels.
  """

  videos: list[tuple[str, str, int | None]]
  left_out: list[tuple[str, str]]
  classes: list[str]


def find_videos(source_dir: str | os.PathLike, labels: str) -> Listed:
  """Lists the videos below a directory.

  Args:
    source_dir: where to look; a file is the only video.
    labels: one of LABELS: "folders" labels a video by the first folder on its
      path.

  Raises:
    ValueError: if there is no video, or none in a folder.
  """
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
  if labels == "none":
    return Listed([(name, path, None) for name, path in files], left_out, [])
  inside, classes, without = _sort_by_folder(files)
  videos: list[tuple[str, str, int | None]] = [
    (name, path, classes.index(_folder(name))) for name, path in inside
  ]
  return Listed(videos, left_out + without, classes)


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
