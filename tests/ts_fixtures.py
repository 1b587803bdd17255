"""Rewrites the packets of an MPEG transport stream."""

PACKET = 188


def packets(path):
  data = path.read_bytes()
  return [bytearray(data[i : i + PACKET]) for i in range(0, len(data), PACKET)]


def pid(packet):
  return int.from_bytes(packet[1:3], "big") & 0x1FFF


def crc(data):
  """CRC-32 of MPEG-2: polynomial 04C11DB7, not reflected."""
  value = 0xFFFFFFFF
  for byte in data:
    value ^= byte << 24
    for _ in range(8):
      value = (value << 1) ^ (0x04C11DB7 if value >> 31 else 0)
      value &= 0xFFFFFFFF
  return value.to_bytes(4, "big")


def table(pid, kind, number, content):
  """A packet with a table of one section."""
  length = (0xB000 | len(content) + 9).to_bytes(2, "big")
  section = bytes([kind]) + length + number.to_bytes(2, "big") + b"\xc1\0\0"
  section += content
  section += crc(section)
  head = bytes([0x47, 0x40 | pid >> 8, pid & 255, 0x10, 0])
  return bytearray((head + section).ljust(PACKET, b"\xff"))


def set_programs(path, programs):
  """Puts streams into programs of their own.

  Args:
    path: of a file with one program.
    programs: PIDs of the streams of each one.
  """
  kinds, done = {}, []
  for packet in packets(path):
    if pid(packet) == 0:
      rows = b"".join(
        number.to_bytes(2, "big")
        + (0xE000 | 0x1000 + number).to_bytes(2, "big")
        for number in range(1, len(programs) + 1)
      )
      done.append(table(0, 0, 1, rows))
    elif pid(packet) == 0x1000:
      length = int.from_bytes(packet[6:8], "big") & 0xFFF
      at, end = 5 + 12, 5 + 3 + length - 4
      while at < end:
        stream = int.from_bytes(packet[at + 1 : at + 3], "big") & 0x1FFF
        kinds[stream] = packet[at]
        at += 5 + (int.from_bytes(packet[at + 3 : at + 5], "big") & 0xFFF)
      for number, streams in enumerate(programs, 1):
        rows = b"".join(
          bytes([kinds[s]]) + (0xE000 | s).to_bytes(2, "big") + b"\xf0\0"
          for s in streams
        )
        clock = (0xE000 | streams[0]).to_bytes(2, "big") + b"\xf0\0"
        done.append(table(0x1000 + number, 2, number, clock + rows))
    else:
      done.append(packet)
  counters = {}
  for packet in done:
    if pid(packet) <= 0x1FF0 and packet[3] & 0x10 and pid(packet) not in kinds:
      counters[pid(packet)] = (counters.get(pid(packet), -1) + 1) & 15
      packet[3] = packet[3] & 0xF0 | counters[pid(packet)]
  path.write_bytes(b"".join(done))
