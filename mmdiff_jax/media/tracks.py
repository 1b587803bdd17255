"""What a container says of its tracks, and FFmpeg does not pass on."""

import dataclasses
import os
import struct
from typing import NamedTuple

from mmdiff_jax.media.boxes import Boxes, Entry, read_boxes
from mmdiff_jax.media.ebml import read_elements

_DOLBY_VISION = (b"dvcC", b"dvvC", b"dvwC")


class Crop(NamedTuple):
  """Rows and columns of the stored pictures that are cut off."""

  top: int = 0
  bottom: int = 0
  left: int = 0
  right: int = 0


@dataclasses.dataclass(frozen=True)
class Track:
  """What is read of a track.

  Attributes:
    edits: rows of its edit list.
    crop: edges that are not to be shown.
    dolby_vision: profile of Dolby Vision whose pictures have colours that no
      other standard knows; 0 for none.
  """

  edits: tuple[Entry, ...] = ()
  crop: Crop = Crop()
  dolby_vision: int = 0


def read_tracks(path: str | os.PathLike, container) -> dict[int | None, Track]:
  """Reads the tracks of a file by the indices of their streams.

  Args:
    path: of the file.
    container: open.
  """
  formats = container.format.name.split(",")
  tracks: dict[int | None, Track] = {}
  if "mov" in formats:
    boxes = read_boxes(path)
    for stream in container.streams:
      if stream.id in boxes:
        tracks[stream.index] = _of_boxes(boxes[stream.id])
  elif "matroska" in formats:
    for index, (crops, additions) in enumerate(read_elements(path)):
      tracks[index] = Track((), Crop(**crops), _profile(additions))
  return tracks


def _of_boxes(boxes: Boxes) -> Track:
  return Track(
    boxes.edits,
    _aperture(boxes.entry.get(b"clap", b""), *boxes.size),
    _profile(boxes.entry),
  )


def _aperture(box: bytes, columns: int, rows: int) -> Crop:
  """Edges outside the clean aperture (ISO/IEC 14496-12, 12.1.4)."""
  if len(box) < 32:
    return Crop()
  numbers = struct.unpack(">IIIIiIiI", box[:32])
  if not all(numbers[1::2]):
    return Crop()
  width, height, right, down = (
    numerator / denominator
    for numerator, denominator in zip(numbers[::2], numbers[1::2], strict=True)
  )
  left = round((columns - width) / 2 + right)
  top = round((rows - height) / 2 + down)
  crop = Crop(
    top, rows - top - round(height), left, columns - left - round(width)
  )
  return Crop(*(max(edge, 0) for edge in crop))


def _profile(boxes: dict[bytes, bytes]) -> int:
  """Profile whose base layer is compatible with no other standard, or 0."""
  for kind in _DOLBY_VISION:
    box = boxes.get(kind, b"")
    if len(box) > 4 and box[4] >> 4 == 0:
      return box[2] >> 1
  return 0
