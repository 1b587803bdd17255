import pickle
import struct

import pytest

from mmdiff_jax.data.tfrecord import (
  CorruptRecordError,
  TFRecordSource,
  TFRecordWriter,
  build_index,
  index_path,
  masked_crc,
  read_index,
  read_records,
)

RECORDS = [b"first", b"", b"x" * 1000, bytes(range(256))]


def crc32c(data):
  """CRC-32C bit by bit, from its definition (polynomial 0x1EDC6F41)."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc ^= byte
    for _ in range(8):
      crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
  return crc ^ 0xFFFFFFFF


def masked(data):
  crc = crc32c(data)
  rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
  return (rotated + 0xA282EAD8) % 2**32


@pytest.fixture
def shard(tmp_path):
  path = tmp_path / "a.tfrecord"
  with TFRecordWriter(path) as writer:
    for record in RECORDS:
      writer.write(record)
  return path


def test_crc_check_value():
  # The published check value of CRC-32C, then against the definition.
  assert crc32c(b"123456789") == 0xE3069283
  for data in (b"", b"a", bytes(300)):
    assert masked_crc(data) == masked(data)


def test_file_layout(shard):
  expected = b""
  for record in RECORDS:
    length = struct.pack("<Q", len(record))
    expected += length + struct.pack("<I", masked(length))
    expected += record + struct.pack("<I", masked(record))
  assert shard.read_bytes() == expected


def test_known_bytes(tmp_path):
  # What tf.io.TFRecordWriter writes for the record b"hi".
  path = tmp_path / "hi.tfrecord"
  with TFRecordWriter(path) as writer:
    writer.write(b"hi")
  data = path.read_bytes()
  assert data[:8] == bytes([2, 0, 0, 0, 0, 0, 0, 0])
  assert data[12:14] == b"hi" and len(data) == 18


def test_both_readers_return_what_was_written(shard):
  assert list(read_records(shard)) == RECORDS
  source = TFRecordSource([shard, shard])
  assert len(source) == 8
  assert [source[i] for i in range(8)] == RECORDS + RECORDS
  assert source.location(5) == (str(shard), 1)


def test_source_survives_pickling(shard):
  source = TFRecordSource([shard])
  assert source[0] == RECORDS[0]
  assert pickle.loads(pickle.dumps(source))[2] == RECORDS[2]


def test_index_is_rebuilt_when_missing_damaged_or_stale(shard, tmp_path):
  entries = read_index(shard)
  assert entries == build_index(shard)
  assert index_path(shard).read_text().splitlines()[1] == "21 16"
  index_path(shard).write_text("nonsense\n")
  assert read_index(shard) == entries
  index_path(shard).write_text("0 21\n")
  assert read_index(shard) == entries
  index_path(shard).unlink()
  assert read_index(shard) == entries
  assert TFRecordSource([shard])[3] == RECORDS[3]


@pytest.mark.parametrize(
  "position, reason",
  [
    (21 + 16 + 12 + 500, "data crc mismatch"),
    (21 + 16 + 12 + 1000, "data crc mismatch"),
    (21 + 16, "length crc mismatch"),
    (21 + 16 + 9, "length crc mismatch"),
  ],
)
def test_a_flipped_bit_names_shard_record_and_cure(shard, position, reason):
  data = bytearray(shard.read_bytes())
  data[position] ^= 1
  shard.write_bytes(data)
  source = TFRecordSource([shard])
  assert source[1] == RECORDS[1] and source[3] == RECORDS[3]
  message = rf"a\.tfrecord#2: {reason}; .*copy the shard again"
  with pytest.raises(CorruptRecordError, match=message):
    source[2]
  with pytest.raises(CorruptRecordError, match=message):
    list(read_records(shard))


def test_truncation_is_noticed_when_opening(shard):
  shard.write_bytes(shard.read_bytes()[:-100])
  with pytest.raises(CorruptRecordError, match=r"a\.tfrecord#3: truncated"):
    TFRecordSource([shard])
  with pytest.raises(CorruptRecordError, match="ends within the record"):
    list(read_records(shard))
  index_path(shard).unlink()
  with pytest.raises(CorruptRecordError, match=r"a\.tfrecord#3: truncated"):
    TFRecordSource([shard])
  with pytest.raises(ValueError, match="b.tfrecord: the shard is missing"):
    TFRecordSource([shard.with_name("b.tfrecord")])


def test_a_failed_writer_leaves_nothing(tmp_path):
  path = tmp_path / "a.tfrecord"
  with pytest.raises(RuntimeError), TFRecordWriter(path) as writer:
    writer.write(b"x")
    raise RuntimeError
  assert not list(tmp_path.iterdir())


def test_corruption_error_survives_a_process_boundary():
  error = CorruptRecordError("a", 3, "data crc mismatch")
  assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_same_file_as_array_record_free_reader(shard):
  # grain's own sequential reader understands the file.
  grain = pytest.importorskip("grain")
  dataset = grain.experimental.TFRecordIterDataset(str(shard))
  assert [bytes(r) for r in dataset] == RECORDS
