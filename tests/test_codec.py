import numpy as np
import pytest

from mmdiff_jax.data.codec import decode_example, encode_example

# Assembled by hand from the wire format: Example > Features > map entries,
# in the order of the keys, floats and integers packed.
KNOWN = {
  # {"a": [b"hi", b"\0"]}
  "bytes": (
    {"a": [b"hi", b"\0"]},
    "0a10" "0a0e" "0a0161" "1209" "0a07" "0a026869" "0a0100",
  ),
  # {"f": [1.0, -2.5]}: 0000803f and 000020c0.
  "floats": (
    {"f": np.array([1.0, -2.5])},
    "0a13" "0a11" "0a0166" "120c" "120a" "0a08" "0000803f" "000020c0",
  ),
  # {"i": [1, 300, -1]}: 01, ac02, and 64 bits of ones in ten bytes.
  "integers": (
    {"i": np.array([1, 300, -1])},
    "0a18" "0a16" "0a0169" "1211" "1a0f" "0a0d" "01" "ac02"
    "ffffffffffffffffff01",
  ),
  # {"k": [7], "b": []}: "b" comes first and is an empty BytesList.
  "order": (
    {"k": np.array([7]), "b": []},
    "0a15" "0a07" "0a0162" "1202" "0a00" "0a0a" "0a016b" "1205" "1a03" "0a0107",
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_bytes_are_the_wire_format(name):
  features, expected = KNOWN[name]
  assert encode_example(features).hex() == expected


def test_round_trip():
  rng = np.random.default_rng(0)
  features = {
    "frames": [rng.bytes(n) for n in (0, 1, 127, 128, 20_000)],
    "ints": rng.integers(-(2**63), 2**63 - 1, 50, dtype=np.int64),
    "floats": rng.standard_normal(70).astype(np.float32),
    "naïve/ключ": [b"x"],
  }
  back = decode_example(encode_example(features))
  assert back.keys() == features.keys()
  assert [bytes(b) for b in back["frames"]] == features["frames"]
  np.testing.assert_array_equal(back["ints"], features["ints"])
  np.testing.assert_array_equal(back["floats"], features["floats"])


def test_same_bytes_as_protobuf():
  proto = pytest.importorskip("tensorflow_datasets.proto")
  protos = proto.tf_example_pb2
  example = protos.Example()
  feature = example.features.feature
  feature["video"].bytes_list.value.extend([b"\0\1", b"", b"x" * 300])
  feature["rate"].float_list.value.extend([29.97, -0.0, 1e30])
  feature["start"].int64_list.value.extend([0, -5, 2**40])
  ours = encode_example(
    {
      "video": [b"\0\1", b"", b"x" * 300],
      "rate": np.array([29.97, -0.0, 1e30]),
      "start": np.array([0, -5, 2**40]),
    }
  )
  assert ours == example.SerializeToString(deterministic=True)
  parsed = protos.Example.FromString(ours)
  assert parsed == example


def test_unpacked_numbers_are_read():
  # Writers may leave numbers unpacked: one tag for each.
  data = "0a0e" "0a0c" "0a0169" "1207" "1a05" "0801" "08ac02"  # fmt: skip
  assert decode_example(bytes.fromhex(data))["i"].tolist() == [1, 300]
  data = "0a11" "0a0f" "0a0166" "120a" "1208" "0d0000803f" "0d00"  # fmt: skip
  with pytest.raises(ValueError, match="not a tf.train.Example"):
    decode_example(bytes.fromhex(data))


def test_what_is_no_example_is_an_error():
  with pytest.raises(ValueError, match="'k' is a str"):
    encode_example({"k": "text"})
  good = encode_example({"a": [b"hello"], "n": np.arange(4)})
  with pytest.raises(ValueError, match="not a tf.train.Example"):
    decode_example(good[:-3])
  with pytest.raises(ValueError, match="not a tf.train.Example"):
    decode_example(b"\xff" * 40)
