"""tf.train.Example without TensorFlow or protobuf.

The wire format, from the protocol buffer definition of tf.train.Example:

  Example   { Features features = 1; }
  Features  { map<string, Feature> feature = 1; }   entry: key = 1, value = 2
  Feature   { oneof: BytesList = 1, FloatList = 2, Int64List = 3 }
  BytesList { repeated bytes value = 1; }
  FloatList { repeated float value = 1 [packed]; }
  Int64List { repeated int64 value = 1 [packed]; }

Keys are written in sorted order, as TensorFlow's deterministic serialisation
does, so that equal examples are equal bytes.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

# Of a parsed example, the bytes are views into its data.
Feature = Sequence[bytes] | Sequence[memoryview] | np.ndarray

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def encode_example(features: Mapping[str, Feature]) -> bytes:
  """Serialises an Example.

  Args:
    features: a list of bytes becomes a BytesList, a float array a FloatList
      (float32), an integer or bool array an Int64List; arrays are flattened.

  Raises:
    ValueError: if a feature has another type.
  """
  entries = []
  for key in sorted(features, key=lambda k: k.encode()):
    feature = _encode_feature(key, features[key])
    entry = _field(1, key.encode()) + _field(2, feature)
    entries.append(_field(1, entry))
  return _field(1, b"".join(entries))


def decode_example(data: bytes) -> dict[str, Feature]:
  """Parses an Example; the inverse of `encode_example`.

  Returns:
    lists of memoryviews into `data` (not copied), float32 and int64 arrays.

  Raises:
    ValueError: if the bytes are no Example.
  """
  features: dict[str, Feature] = {}
  try:
    for part in _messages(memoryview(data), 1):
      for entry in _messages(part, 1):
        key, feature = _decode_entry(entry)
        features[key] = feature
  except (IndexError, TypeError, UnicodeDecodeError) as error:
    raise ValueError(f"not a tf.train.Example: {error}") from error
  return features


def _encode_feature(key: str, value: Feature) -> bytes:
  if isinstance(value, (list, tuple)) and all(
    isinstance(item, (bytes, memoryview)) for item in value
  ):
    return _field(1, b"".join(_field(1, bytes(item)) for item in value))
  array = np.asarray(value)
  if array.dtype.kind == "f":
    packed = np.ascontiguousarray(array, "<f4").tobytes()
    return _field(2, _field(1, packed) if packed else b"")
  if array.dtype.kind in "iub":
    mask = (1 << 64) - 1
    packed = b"".join(_varint(int(n) & mask) for n in array.ravel())
    return _field(3, _field(1, packed) if packed else b"")
  raise ValueError(
    f"feature {key!r} is a {type(value).__name__}; allowed are a list of"
    " bytes, and arrays of floats or integers."
  )


def _field(number: int, payload: bytes) -> bytes:
  return _varint(number << 3 | _LENGTH) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
  out = bytearray()
  while value > 127:
    out.append(value & 127 | 128)
    value >>= 7
  out.append(value)
  return bytes(out)


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
  value = shift = 0
  while True:
    byte = data[position]
    position += 1
    value |= (byte & 127) << shift
    if byte < 128:
      return value, position
    shift += 7
    if shift > 63:
      raise ValueError("not a tf.train.Example: a varint of over 64 bits")


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
  """Yields (field number, payload) of a message; varints as int."""
  position, end = 0, len(data)
  while position < end:
    tag, position = _read_varint(data, position)
    number, wire = tag >> 3, tag & 7
    if wire == _VARINT:
      value, position = _read_varint(data, position)
      yield number, value
      continue
    if wire == _LENGTH:
      size, position = _read_varint(data, position)
    elif wire in (_FIXED32, _FIXED64):
      size = 4 if wire == _FIXED32 else 8
    else:
      raise ValueError(f"not a tf.train.Example: wire type {wire}")
    if position + size > end:
      raise ValueError("not a tf.train.Example: a field passes the end")
    yield number, data[position : position + size]
    position += size


def _messages(data: memoryview, wanted: int) -> list[memoryview]:
  """Payloads of the fields of one number."""
  found = []
  for number, payload in _fields(data):
    if number == wanted:
      if isinstance(payload, int):
        raise ValueError(f"not a tf.train.Example: field {number} is a number")
      found.append(payload)
  return found


def _decode_entry(entry: memoryview) -> tuple[str, Feature]:
  key = "".join(str(name, "utf-8") for name in _messages(entry, 1)[-1:])
  value = _messages(entry, 2)
  return key, _decode_feature(value[-1]) if value else []


def _decode_feature(data: memoryview) -> Feature:
  for number, payload in _fields(data):
    if isinstance(payload, int):
      raise ValueError("not a tf.train.Example: a list is a number")
    if number == 1:
      return _messages(payload, 1)
    if number == 2:
      # Packed (one chunk) and unpacked (four bytes each) read alike.
      return np.frombuffer(b"".join(_messages(payload, 1)), "<f4")
    if number == 3:
      return _decode_int64s([v for n, v in _fields(payload) if n == 1])
  return []


def _decode_int64s(values: list[memoryview | int]) -> np.ndarray:
  numbers = []
  for value in values:
    if isinstance(value, int):
      numbers.append(value)
      continue
    position = 0
    while position < len(value):
      number, position = _read_varint(value, position)
      numbers.append(number)
  return np.array(numbers, np.uint64).astype(np.int64)
