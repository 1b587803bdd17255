"""What the boxes of an mp4 or mov file say that FFmpeg does not pass on.

ISO/IEC 14496-12: a box is its size (4 bytes), its kind (4 bytes) and its
content, which may be boxes.
"""

import dataclasses
import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO

# Where the movie's description is looked for, at most (boxes of the file).
_TOP_LEVEL = 10_000
# The largest box that is read at once: a list of 400,000 edits.
_LARGEST = 2**23
# Bytes before the boxes of a picture's sample entry, where in them its columns
# and rows are, and the boxes that are read.
_SAMPLE_ENTRY, _COLUMNS = 78, 24
_ENTRY_KINDS = (b"clap", b"dvcC", b"dvvC", b"dvwC")

# (first byte, byte after the last one) of a box's content.
_Span = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Entry:
  """One row of an edit list.

  Attributes:
    begin: first second of the media; None where nothing is played.
    seconds: how long it is played.
    speed: 1, or 0 where one picture stands.
  """

  begin: Fraction | None
  seconds: Fraction
  speed: Fraction


@dataclasses.dataclass(frozen=True)
class Boxes:
  """What is read of a track.

  Attributes:
    edits: rows of its edit list; none in a fragmented file.
    size: columns and rows of its pictures.
    entry: their shape and kind of Dolby Vision: boxes of the first sample
      entry by kind.
  """

  edits: tuple[Entry, ...] = ()
  size: tuple[int, int] = (0, 0)
  entry: dict[bytes, bytes] = dataclasses.field(default_factory=dict)


def read_boxes(path: str | os.PathLike) -> dict[int, Boxes]:
  """Reads the tracks of an mp4 or mov file by their numbers.

  Returns:
    An empty dict where the boxes make no sense.
  """
  try:
    with open(path, "rb") as file:
      return _read_movie(file)
  except (OSError, struct.error, ValueError, OverflowError, StopIteration):
    return {}


def _read_movie(file: BinaryIO) -> dict[int, Boxes]:
  size = file.seek(0, os.SEEK_END)
  movie = _find(file, (0, size), b"moov")
  if movie is None:
    return {}
  scale = _time_scale(file, _find(file, movie, b"mvhd"))
  fragmented = _find(file, movie, b"mvex") is not None
  tracks = {}
  for kind, span in _boxes(file, movie):
    if kind != b"trak":
      continue
    header = _content(file, _find(file, span, b"tkhd"))
    number = struct.unpack_from(">I", header, 20 if header[0] else 12)[0]
    edits = () if fragmented else _read_edits(file, span, scale)
    tracks[number] = Boxes(edits, *_read_entry(file, span))
  return tracks


def _read_edits(file: BinaryIO, span: _Span, scale: int) -> tuple[Entry, ...]:
  rows = _find(file, span, b"edts", b"elst")
  if rows is None:
    return ()
  media = _time_scale(file, _find(file, span, b"mdia", b"mdhd"))
  return _edits(_content(file, rows), scale, media)


def _read_entry(
  file: BinaryIO, span: _Span
) -> tuple[tuple[int, int], dict[bytes, bytes]]:
  entries = _find(file, span, b"mdia", b"minf", b"stbl", b"stsd")
  if entries is None or not _find(file, span, b"mdia", b"minf", b"vmhd"):
    return (0, 0), {}
  begin, end = next(_boxes(file, (entries[0] + 8, entries[1])))[1]
  columns, rows = struct.unpack(
    ">HH", _content(file, (begin + _COLUMNS, begin + _COLUMNS + 4))
  )
  inner = _boxes(file, (begin + _SAMPLE_ENTRY, end))
  wanted = ((kind, at) for kind, at in inner if kind in _ENTRY_KINDS)
  return (columns, rows), {kind: _content(file, at) for kind, at in wanted}


def _edits(content: bytes, scale: int, media: int) -> tuple[Entry, ...]:
  """Rows of an edit list: its duration counts in units of the movie's clock."""
  layout = struct.Struct(">Qqi" if content[0] else ">Iii")
  count = struct.unpack_from(">I", content, 4)[0]
  rows = layout.iter_unpack(content[8 : 8 + count * layout.size])
  return tuple(
    Entry(
      None if begin < 0 else Fraction(begin, media),
      Fraction(duration, scale),
      Fraction(speed, 1 << 16),
    )
    for duration, begin, speed in rows
  )


def _time_scale(file: BinaryIO, header: _Span | None) -> int:
  """Units per second, of a movie's or a media's header."""
  content = _content(file, header)
  scale = struct.unpack_from(">I", content, 20 if content[0] else 12)[0]
  if not scale:
    raise ValueError("a clock without a unit")
  return scale


def _find(file: BinaryIO, span: _Span, *kinds: bytes) -> _Span | None:
  """Content of the first box on a path of kinds."""
  for kind in kinds:
    found = next((at for k, at in _boxes(file, span) if k == kind), None)
    if found is None:
      return None
    span = found
  return span


def _boxes(file: BinaryIO, span: _Span) -> Iterator[tuple[bytes, _Span]]:
  """Yields the kind and the content's place of each box."""
  position, end = span
  for _ in range(_TOP_LEVEL):
    if position + 8 > end:
      return
    file.seek(position)
    head = file.read(16)
    size, kind = struct.unpack_from(">I4s", head)
    content = position + 8
    if size == 1:
      size, content = struct.unpack_from(">Q", head, 8)[0], position + 16
    elif size == 0:
      size = end - position
    if position + size < content:
      return
    yield kind, (content, min(position + size, end))
    position += size


def _content(file: BinaryIO, span: _Span | None) -> bytes:
  if span is None:
    raise ValueError("a box is missing")
  file.seek(span[0])
  return file.read(min(span[1] - span[0], _LARGEST))
