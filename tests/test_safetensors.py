import json
import struct

import ml_dtypes
import numpy as np
import pytest

from mmdiff_jax.disk.safetensors import load_safetensors, save_safetensors


def write(path, header, data=b""):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(struct.pack("<Q", len(text)) + text + data)
  return path


def entry(dtype, shape, *offsets):
  return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_a_file_written_by_hand_is_read(tmp_path):
  data = struct.pack("<2f3q2H", 1.5, -2.0, 7, 8, 9, 0x3FC0, 0x8000)
  header = {
    "__metadata__": {"format": "pt"},
    "halves": entry("BF16", [2, 1], 32, 36),
    "x": entry("F32", [2], 0, 8),
    "counts": entry("I64", [3], 8, 32),
  }
  tensors = load_safetensors(write(tmp_path / "a.safetensors", header, data))
  assert tensors["x"].tolist() == [1.5, -2.0]
  assert tensors["counts"].tolist() == [7, 8, 9]
  assert tensors["halves"].dtype == ml_dtypes.bfloat16
  assert tensors["halves"].astype(float).tolist() == [[1.5], [-0.0]]


def test_what_is_written_is_the_format(tmp_path):
  path = tmp_path / "a.safetensors"
  tensors = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.ones(()),
  }
  save_safetensors(path, tensors, {"made": "here"})
  content = path.read_bytes()
  (length,) = struct.unpack("<Q", content[:8])
  assert length % 8 == 0
  header = json.loads(content[8 : 8 + length])
  assert header["__metadata__"].keys() == {"made", "mmdiff_jax.crc32"}
  assert header["__metadata__"]["made"] == "here"
  assert header["a"] == {
    "dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24],
  }  # fmt: skip
  assert content[8 + length :] == struct.pack("<6fd", 0, 1, 2, 3, 4, 5, 1)
  for name, value in load_safetensors(path).items():
    np.testing.assert_array_equal(value, tensors[name])


@pytest.mark.parametrize(
  ("header", "words"),
  [
    (b"{", "Expecting"),
    (b"[" * 5000, "Recursion"),
    (b"\xff", "codec"),
    ([], "AttributeError"),
    ({"x": 5}, "TypeError"),
    ({"x": entry("F32", [2], 0)}, "unpack"),
    ({"x": entry("F8_E4M3", [8], 0, 8)}, "x has the type F8_E4M3"),
    ({"x": entry("F32", [3], 0, 8)}, "x does not fill its place"),
    ({"x": entry("F32", [1], 4, 8)}, "x does not fill its place"),
    ({"x": entry("F32", [-1, -2], 0, 8)}, "x ends behind"),
    ({"x": entry("F32", [10**12], 0, 4 * 10**12)}, "x ends behind"),
    ({"x": entry("F32", [1], 0, 4)}, "4 bytes belong to no tensor"),
    ({"x": entry("F32", ["2"], 0, 8)}, "does not fill its place"),
  ],
)
def test_damage_is_one_line(tmp_path, header, words):
  path = write(tmp_path / "a.safetensors", header, bytes(8))
  with pytest.raises(ValueError, match=words) as error:
    load_safetensors(path)
  assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_no_truncation_is_read_over(tmp_path):
  path = tmp_path / "a.safetensors"
  save_safetensors(path, {"x": np.ones(3, np.float32)})
  content = path.read_bytes()
  for length in range(len(content)):
    path.write_bytes(content[:length])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
      load_safetensors(path)


def test_no_flipped_bit_is_read_over(tmp_path):
  path = tmp_path / "a.safetensors"
  tensors = {"x": np.arange(3, dtype=np.float32), "y": np.ones(2, np.float16)}
  save_safetensors(path, tensors, {"made": "here"})
  content = path.read_bytes()
  for position in range(8 * len(content)):
    data = bytearray(content)
    data[position // 8] ^= 1 << position % 8
    path.write_bytes(data)
    try:
      read = load_safetensors(path)
    except ValueError:
      continue
    assert read.keys() == tensors.keys(), position
    for name, value in tensors.items():
      np.testing.assert_array_equal(read[name], value, err_msg=str(position))


def test_a_file_of_others_may_have_texts_and_no_checksum(tmp_path):
  header = {"__metadata__": {"format": "pt"}, "x": entry("F32", [1], 0, 4)}
  path = write(tmp_path / "a.safetensors", header, struct.pack("<f", 2.0))
  assert load_safetensors(path)["x"].tolist() == [2.0]
