"""What the packets of an MPEG transport stream say besides its streams.

ISO/IEC 13818-1: packets of 188 bytes (in .m2ts with 4 more ahead, or with 16
of error correction behind), each of one PID. PID 0 lists the programs (PAT);
each program lists its streams on a PID of its own (PMT).
"""

import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

_PACKET, _SYNC = 188, 0x47
_SIZES = (188, 192, 204)
# The tables come several times a second.
_SURVEY_BYTES = 2**22
_PAT, _PMT = 0x00, 0x02
# PIDs of tables about the service, and of filling.
_SERVICE = (*range(0x10, 0x20), 0x1FFF)
# Streams of a file, at most, and packets that are looked at together.
_PIDS, _BLOCK = 64, 2**16


def read_programs(path: str | os.PathLike) -> list[set[int]]:
  """PIDs of the streams of each program, in the order of their numbers.

  Returns:
    An empty list where the file is not a transport stream.
  """
  with open(path, "rb") as file:
    data = file.read(_SURVEY_BYTES)
  programs: dict[int, set[int]] = {}
  tables: dict[int, int] = {}
  wanted = {0}
  for pid, section in _sections(data, wanted):
    if pid == 0 and section[0] == _PAT:
      tables |= _list_programs(section)
      wanted |= set(tables.values())
    elif pid and section[0] == _PMT:
      number = int.from_bytes(section[3:5], "big")
      programs.setdefault(number, _list_streams(section))
      if programs.keys() >= tables.keys():
        break
  return [programs[number] for number in sorted(programs)]


def _list_programs(section: bytes) -> dict[int, int]:
  """PID of each program's table, by the program's number."""
  words = [
    int.from_bytes(section[i : i + 2], "big")
    for i in range(8, len(section) - 5, 2)
  ]
  pairs = zip(words[::2], words[1::2], strict=False)
  # Number 0 is the network's table.
  return {number: pid & 0x1FFF for number, pid in pairs if number}


def _list_streams(section: bytes) -> set[int]:
  """PIDs of a program's streams."""
  if len(section) < 16:
    return set()
  position = 12 + (int.from_bytes(section[10:12], "big") & 0xFFF)
  pids = set()
  while position + 5 <= len(section) - 4:
    pids.add(int.from_bytes(section[position + 1 : position + 3], "big") & 8191)
    length = section[position + 3 : position + 5]
    position += 5 + (int.from_bytes(length, "big") & 0xFFF)
  return pids


def _sections(data: bytes, wanted: set[int]) -> Iterator[tuple[int, bytes]]:
  """Yields (PID, section) of the whole tables on the wanted PIDs."""
  parts: dict[int, bytes] = {}
  for packet in _packets(data):
    pid = int.from_bytes(packet[1:3], "big") & 0x1FFF
    content = _payload(packet)
    if pid not in wanted or not content:
      continue
    if packet[1] & 0x40:
      # A section starts here, behind what is left of the one before.
      parts[pid] = content[1 + content[0] :]
    elif pid in parts:
      parts[pid] += content
    part = parts.get(pid, b"")
    size = 3 + (int.from_bytes(part[1:3], "big") & 0xFFF)
    if len(part) >= size >= 12:
      yield pid, part[:size]
      del parts[pid]


def _packets(data: bytes) -> Iterator[bytes]:
  """Yields the packets of 188 bytes."""
  size, position = _layout(data)
  while 0 <= position <= len(data) - _PACKET:
    if data[position] == _SYNC:
      yield data[position : position + _PACKET]
      position += size
    else:
      position = data.find(_SYNC, position)


def _layout(data: bytes) -> tuple[int, int]:
  """Distance of the packets, and the first one's place; -1: there is none."""
  for start in range(min(len(data), 2 * _SIZES[-1])):
    for size in _SIZES:
      marks = data[start : start + 5 * size : size]
      if len(marks) > 1 and set(marks) == {_SYNC}:
        return size, start
  return _PACKET, -1


def _payload(packet: bytes) -> bytes:
  control = packet[3] >> 4 & 3
  if not control & 1:
    return b""
  return packet[5 + packet[4] :] if control & 2 else packet[4:]


class _Break(NamedTuple):
  """Where the counter of a PID is not continued.

  Attributes:
    number: of the packet, in the file.
    before: number of the PID's packet before it.
    pid: which.
    starts: 1 where something starts in the packet.
  """

  number: int
  before: int
  pid: int
  starts: int


def is_joined(path: str | os.PathLike) -> bool:
  """Whether packets are missing where segments were joined, and only there.

  Packets of a PID are counted modulo 16. Segments that were written one by one
  count anew, each from its tables on, and all its streams begin with a packet
  that starts something.
  """
  with open(path, "rb") as file:
    size, start = _layout(file.read(_SURVEY_BYTES))
    if start < 0:
      return False
    file.seek(start)
    breaks, tables = _find_breaks(file, size)
  return bool(breaks) and all(
    this.starts and _is_shared(i, breaks, tables)
    for i, this in enumerate(breaks)
  )


def _is_shared(
  index: int, breaks: Sequence[_Break], tables: np.ndarray
) -> bool:
  """Whether another PID breaks with this one, around a table of programs.

  Where a single packet is missing, it is missing of one PID.
  """
  this = breaks[index]
  near = breaks[max(0, index - _PIDS) : index + _PIDS]
  for other in near:
    if other.pid != this.pid:
      low = max(this.before, other.before)
      high = min(this.number, other.number)
      first, last = np.searchsorted(tables, [low, high], "right")
      if last > first:
        return True
  return False


def _find_breaks(file: BinaryIO, size: int) -> tuple[list[_Break], np.ndarray]:
  """Reads a file to its end, block by block.

  Returns:
    Where counters are not continued, in order; the numbers of the packets in
    which a table of programs starts.
  """
  breaks: list[_Break] = []
  tables = [np.zeros(0, int)]
  last: dict[int, tuple[int, int]] = {}
  base = 0
  while True:
    data = np.frombuffer(file.read(size * _BLOCK), np.uint8)
    head = data[: len(data) // size * size].reshape(-1, size)[:, :6].astype(int)
    if not len(head):
      return sorted(breaks), np.concatenate(tables)
    pids = (head[:, 1] & 0x1F) << 8 | head[:, 2]
    starts, counts = head[:, 1] & 0x40 > 0, head[:, 3] & 15
    full = head[:, 3] & 0x10 > 0
    # A packet may say itself that its counter begins anew.
    told = (head[:, 3] & 0x20 > 0) & (head[:, 4] > 0) & (head[:, 5] & 0x80 > 0)
    numbers = base + np.arange(len(head))
    tables.append(numbers[full & starts & (pids == 0)])
    for pid in np.unique(pids[full]):
      own = np.flatnonzero(full & (pids == pid))
      before = last.get(pid, (-1, (counts[own[0]] - 1) & 15))
      ahead = np.append(before[0], numbers[own])
      steps = np.diff(np.append(before[1], counts[own])) & 15
      for i in np.flatnonzero((steps != 1) & ~told[own]):
        if pid not in _SERVICE:
          at = own[i]
          found = (numbers[at], ahead[i], pid, starts[at])
          breaks.append(_Break(*map(int, found)))
      last[pid] = (int(numbers[own[-1]]), int(counts[own[-1]]))
    base += len(head)
