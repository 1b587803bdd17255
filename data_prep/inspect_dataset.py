"""Shows a prepared data set: counts and a contact sheet.

The contact sheet (PNG) shows
clips spread over the data set: frames over waveform over mel spectrogram.
"""

import os
from collections.abc import Sequence

import numpy as np

from data_prep.summary import summary
from mmdiff_jax.data.manifest import Manifest
from mmdiff_jax.data.sources import ClipList
from mmdiff_jax.data.sources.prepared import open_tfrecord
from mmdiff_jax.disk.files import as_path, check_file, file_size, replacing
from mmdiff_jax.disk.names import one_line

SHEET = "contact_sheet.png"
_WIDTH, _LABEL, _GAP = 800, 18, 8
# Of a caption that fit into the width.
_LETTERS = 110
_PAPER, _INK = (255, 255, 255), (20, 20, 20)


def describe(directory: str | os.PathLike) -> str:
  """The data set's geometry, counts, sizes and repairs in lines."""
  folder = as_path(directory)
  manifest = Manifest.load(folder)
  spec = manifest.spec
  seconds = np.array([video.frames for video in manifest.videos]) / spec.fps
  size = sum(
    file_size(folder / name)
    for name, _ in manifest.shards
    if (folder / name).exists()
  )
  stored = manifest.frame_format
  if manifest.jpeg_quality:
    stored += f" quality {manifest.jpeg_quality}"
  return "\n".join(
    [
      f"clip: {spec.frames} frames of {spec.height}x{spec.width} at"
      f" {spec.fps:g} fps, {spec.audio_length} samples at"
      f" {spec.sample_rate} Hz ({spec.duration:.2f} s)",
      f"videos: {seconds.min():.2f} to {seconds.max():.2f} s, median"
      f" {np.median(seconds):.2f} s; frames stored as {stored};"
      f" {size / 1e6:.1f} MB",
      *_describe_inputs(manifest),
      summary(manifest),
    ]
  )


def _describe_inputs(manifest: Manifest) -> list[str]:
  """What the videos carry beside their streams, a line each."""
  total, lines = len(manifest.videos), []
  if manifest.classes:
    lines.append(
      f"labels: {len(manifest.classes)} classes,"
      f" {one_line(', '.join(manifest.classes))}"
    )
  if "text" in manifest.vectors:
    told = manifest.vectors["text"]
    counts = [video.captions for video in manifest.videos if video.captions]
    lines.append(
      f"captions: {sum(counts)}, on {told['videos']} of {total} videos; vectors"
      f" of {told['width']} numbers by the text encoder {told['encoder'][:16]}"
    )
  if "embedding" in manifest.vectors:
    told = manifest.vectors["embedding"]
    lines.append(
      f"embeddings: on {told['videos']} of {total} videos; vectors of"
      f" {told['width']} numbers"
    )
  return lines


def contact_sheet(
  directory: str | os.PathLike, path: str | os.PathLike, *, clips: int = 12
) -> None:
  """Draws clips spread over the data set, two in a row.

  Every video is shown once before any is shown twice.

  Args:
    directory: the data set.
    path: the PNG to write.
    clips: how many.

  Raises:
    ValueError: if there is no data set, or a record is damaged.
  """
  from PIL import Image, ImageDraw

  from mmdiff_jax.media import lettering
  from mmdiff_jax.media.rendering import render_clip

  source = open_tfrecord(directory)
  listed = ClipList(source)
  indices = _spread(listed, min(clips, len(listed)))
  count = len(indices)
  captioned = any(listed[index].captions() for index in indices)
  tiles = []
  for index in indices:
    clip = listed[index]
    picture = render_clip(
      clip.video(), clip.audio(), source.spec.sample_rate, _WIDTH
    )
    top = _LABEL * (2 if captioned else 1)
    tile = Image.new("RGB", (_WIDTH, picture.height + top), _PAPER)
    title = one_line(clip.origin())
    lettering.write(ImageDraw.Draw(tile), (2, 2), title, _INK)
    if captions := clip.captions():
      more = f" (and {len(captions) - 1} more)" if captions[1:] else ""
      text = one_line(captions[0])[:_LETTERS] + more
      lettering.write(ImageDraw.Draw(tile), (2, 2 + _LABEL), text, _INK)
    tile.paste(picture, (0, top))
    tiles.append(tile)
  cell = (_WIDTH + _GAP, tiles[0].height + _GAP)
  columns = min(2, count)
  rows = -(-count // columns)
  sheet = Image.new(
    "RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), _PAPER
  )
  for number, tile in enumerate(tiles):
    row, column = divmod(number, columns)
    sheet.paste(tile, (_GAP + column * cell[0], _GAP + row * cell[1]))
  with replacing(path) as temporary:
    sheet.save(temporary, format="png")


def _spread(listed: ClipList, count: int) -> list[int]:
  """Indices of so many clips, of as many videos as possible."""
  groups: dict[str, list[int]] = {}
  for index in range(len(listed)):
    groups.setdefault(listed.place(index)[0], []).append(index)
  videos = list(groups.values())
  shares = [0] * len(videos)
  left = count
  while left:
    open_ = [i for i, group in enumerate(videos) if shares[i] < len(group)]
    for i in _middles(open_, min(left, len(open_))):
      shares[i] += 1
      left -= 1
  return [
    index
    for group, share in zip(videos, shares, strict=True)
    for index in _middles(group, share)
  ]


def _middles(items: Sequence[int], count: int) -> list[int]:
  """The middle ones of `count` equal stretches of `items`."""
  return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def check_sheet(directory: str, path: str | None) -> str:
  """The PNG of a data set's contact sheet, checked ahead of the work.

  Args:
    directory: the data set.
    path: the file, or None for the one in the data set's folder.

  Raises:
    ValueError: if it is not a .png file.
    OSError: if it cannot be written.
  """
  path = path or os.path.join(directory, SHEET)
  check_file(path)
  if not path.lower().endswith(".png"):
    raise ValueError(f"--output={path} must be a .png file.")
  return path
