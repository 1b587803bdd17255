"""What the tracks of a Matroska or WebM file say that FFmpeg does not pass on.

RFC 8794: an element is its number (as many bytes as the zero bits ahead of the
first one say, and one more), its size (likewise, without that first bit) and
its content, which may be elements.
"""

import os
from collections.abc import Iterator
from typing import BinaryIO

_SEGMENT, _CLUSTER, _TRACKS, _TRACK = 0x18538067, 0x1F43B675, 0x1654AE6B, 0xAE
_MAPPING, _KIND, _DATA = 0x41E4, 0x41E7, 0x41ED
_PICTURES = 0xE0
# Rows and columns that are cut off: bottom, top, left, right.
_CROPS = {0x54AA: "bottom", 0x54BB: "top", 0x54CC: "left", 0x54DD: "right"}
# The largest description of all tracks that is read, and elements of a level.
_LARGEST, _MOST = 2**24, 10_000


def read_elements(
  path: str | os.PathLike,
) -> list[tuple[dict[str, int], dict[bytes, bytes]]]:
  """Reads the tracks of a Matroska file in their order.

  Returns:
    Pixels that are cut off by side, and additions by kind, such as b"dvcC", of
    each; an empty list where the elements make no sense.
  """
  try:
    with open(path, "rb") as file:
      tracks = _find_tracks(file)
  except OSError:
    return []
  return [
    _read_track(content)
    for number, content in _walk(tracks)
    if number == _TRACK
  ]


def _find_tracks(file: BinaryIO) -> bytes:
  """Content of the element with all tracks."""
  end = file.seek(0, os.SEEK_END)
  position = 0
  for _ in range(_MOST):
    if position >= end:
      break
    file.seek(position)
    head = file.read(12)
    number, size, length = _head(head)
    if not length or number == _CLUSTER:
      break
    position += length
    if number == _TRACKS:
      file.seek(position)
      return file.read(min(size, _LARGEST))
    # The content of a segment is walked, too.
    position += 0 if number == _SEGMENT else size
  return b""


def _read_track(content: bytes) -> tuple[dict[str, int], dict[bytes, bytes]]:
  crops: dict[str, int] = {}
  additions: dict[bytes, bytes] = {}
  for number, inner in _walk(content):
    if number == _PICTURES:
      crops |= {
        _CROPS[kind]: int.from_bytes(value, "big")
        for kind, value in _walk(inner)
        if kind in _CROPS
      }
    elif number == _MAPPING:
      parts = dict(_walk(inner))
      additions[parts.get(_KIND, b"")] = parts.get(_DATA, b"")
  return crops, additions


def _walk(content: bytes) -> Iterator[tuple[int, bytes]]:
  """Yields the number and the content of each element."""
  position = 0
  for _ in range(_MOST):
    number, size, length = _head(content[position : position + 12])
    if not length:
      return
    position += length
    yield number, content[position : position + size]
    position += size


def _head(data: bytes) -> tuple[int, int, int]:
  """Number and size of an element, and the length of both; 0 for none."""
  first = 9 - data[0].bit_length() if data else 9
  if first > 4 or len(data) <= first:
    return 0, 0, 0
  second = 9 - data[first].bit_length()
  if second > 8 or len(data) < first + second:
    return 0, 0, 0
  size = int.from_bytes(data[first : first + second], "big")
  return (
    int.from_bytes(data[:first], "big"),
    size - (1 << 7 * second),
    first + second,
  )
