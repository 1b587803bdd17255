"""Changes boxes of an mp4 or mov file whose description comes last."""

import struct

NESTED = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def split(content):
  """Content of a box -> its boxes (kind, content); 32-bit sizes alone."""
  boxes, position = [], 0
  while position < len(content):
    size, kind = struct.unpack_from(">I4s", content, position)
    boxes.append((kind, content[position + 8 : position + size]))
    position += size
  return boxes


def join(boxes):
  return b"".join(
    struct.pack(">I4s", 8 + len(content), kind) + content
    for kind, content in boxes
  )


def find(content, *kinds):
  for kind in kinds:
    content = dict(split(content)).get(kind)
    if content is None:
      return None
  return content


def change(path, kind, function):
  """Replaces the content of all boxes of a kind by function(content)."""

  def changed(boxes):
    return [
      (k, function(c) if k == kind else join(changed(split(c))))
      if k == kind or k in NESTED
      else (k, c)
      for k, c in boxes
    ]

  path.write_bytes(join(changed(split(path.read_bytes()))))


def set_edits(path, rows):
  """Gives all tracks an edit list.

  Args:
    path: of the file.
    rows: (second of what the file plays, or None for a gap; seconds), or with
      the speed as a third number; a dict of them by track, 0 the first.
  """
  movie = find(path.read_bytes(), b"moov")
  scale = struct.unpack_from(">I", find(movie, b"mvhd"), 12)[0]
  number = -1

  def track(content):
    nonlocal number
    number += 1
    wanted = rows.get(number) if isinstance(rows, dict) else rows
    if wanted is None:
      return content
    media = struct.unpack_from(">I", find(content, b"mdia", b"mdhd"), 12)[0]
    old = find(content, b"edts", b"elst")
    first = 0 if old is None else struct.unpack_from(">i", old, 12)[0]
    table = struct.pack(">II", 0, len(wanted))
    for begin, seconds, *speed in wanted:
      at = -1 if begin is None else first + round(begin * media)
      rate = round((speed or [1])[0] * 65536)
      table += struct.pack(">Iii", round(seconds * scale), at, rate)
    rest = [(k, c) for k, c in split(content) if k != b"edts"]
    return join([rest[0], (b"edts", join([(b"elst", table)])), *rest[1:]])

  change(path, b"trak", track)


def add_to_pictures(path, kind, content):
  """Adds a box to the description of the pictures."""

  def entry(table):
    size, codec = struct.unpack_from(">I4s", table, 8)
    described = table[16 : 8 + size] + join([(kind, content)])
    return table[:8] + join([(codec, described)]) + table[8 + size :]

  def track(content):
    if find(content, b"mdia", b"minf", b"vmhd") is None:
      return content
    boxes = [
      (k, _inside(c, (b"minf", b"stbl", b"stsd"), entry) if k == b"mdia" else c)
      for k, c in split(content)
    ]
    return join(boxes)

  change(path, b"trak", track)


def _inside(content, kinds, function):
  first, *rest = kinds
  return join(
    [
      (k, (_inside(c, rest, function) if rest else function(c)))
      if k == first
      else (k, c)
      for k, c in split(content)
    ]
  )
