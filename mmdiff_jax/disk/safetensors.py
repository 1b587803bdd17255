"""The safetensors format: tensors by name in one file, without code in it.

A file is the length of its header (uint64, little endian), the header (JSON:
name -> dtype, shape, data_offsets) and the data, without gaps.
https://github.com/huggingface/safetensors#format
"""

import json
import math
import os
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from mmdiff_jax.disk.files import replacing

_DTYPES: dict[str, Any] = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": ml_dtypes.bfloat16,
  "I64": np.int64,
  "I32": np.int32,
  "I16": np.int16,
  "I8": np.int8,
  "U8": np.uint8,
  "BOOL": np.bool_,
}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_METADATA = "__metadata__"
# In the metadata of what we write, as the format has no checksum: CRC-32 of
# the rest of the header (see `_header_checksum`) and, from there on, the data.
_CHECKSUM = "mmdiff_jax.crc32"
# Headers that are longer are damaged.
_MAX_HEADER = 100_000_000


def load_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads all tensors of a file.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged, or has types that numpy lacks.
  """
  return _load(pathlib.Path(path))[0]


def verify_safetensors(path: str | os.PathLike) -> list[str]:
  """Reads a file that this package exported; returns what is wrong, in lines.

  Raises:
    FileNotFoundError: if there is no such file.
  """
  try:
    _, has_checksum = _load(pathlib.Path(path))
  except ValueError as error:
    return [str(error)]
  if not has_checksum:
    return ["has no checksum: another program wrote it"]
  return []


def _load(path: pathlib.Path) -> tuple[dict[str, np.ndarray], bool]:
  """All tensors of a file, and whether a checksum of them was compared."""
  if not path.is_file():
    raise FileNotFoundError(f"No weight file at {path}.")
  try:
    return _read(path)
  except (AttributeError, KeyError, RecursionError, TypeError) as error:
    what = f"{type(error).__name__}: {error}"
  except ValueError as error:
    what = str(error)
  raise ValueError(
    f"{path} is not a complete safetensors file ({what}); download it again."
  )


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], bool]:
  with open(path, "rb") as file:
    start = file.read(8)
    length = int.from_bytes(start, "little")
    size = path.stat().st_size - 8 - length
    if len(start) < 8 or length > _MAX_HEADER or size < 0:
      raise ValueError("its header is longer than the file")
    header = json.loads(file.read(length))
    wanted = header.get(_METADATA, {}).pop(_CHECKSUM, None)
    checksum = _header_checksum(header)
    header.pop(_METADATA, None)
    tensors, end = {}, 0
    for name, entry in sorted(
      header.items(), key=lambda item: item[1]["data_offsets"]
    ):
      begin, stop = entry["data_offsets"]
      dtype = _DTYPES.get(entry["dtype"])
      if dtype is None:
        raise ValueError(f"{name} has the type {entry['dtype']}")
      dtype, shape = np.dtype(dtype), tuple(entry["shape"])
      count = math.prod(shape)
      if begin != end or stop - begin != count * dtype.itemsize:
        raise ValueError(f"{name} does not fill its place")
      if stop > size or min(shape, default=0) < 0:
        raise ValueError(f"{name} ends behind the file")
      tensors[name] = np.fromfile(file, dtype, count).reshape(shape)
      if wanted is not None:
        checksum = _extend(checksum, tensors[name])
      end = stop
  if end != size:
    raise ValueError(f"{size - end} bytes belong to no tensor")
  if wanted is not None and wanted != f"{checksum:08x}":
    raise ValueError("its checksum differs from the one that was written")
  return tensors, wanted is not None


def _header_checksum(header: Mapping[str, Any]) -> int:
  """CRC-32 of a header without its checksum, whatever the order of its keys."""
  return zlib.crc32(json.dumps(header, sort_keys=True).encode())


def _extend(checksum: int, tensor: np.ndarray) -> int:
  """The checksum, with a tensor's bytes behind it."""
  data = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
  return zlib.crc32(data.data, checksum)


def save_safetensors(
  path: str | os.PathLike,
  tensors: Mapping[str, np.ndarray],
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes tensors by name, whole or not at all, with a checksum.

  Args:
    path: the file.
    tensors: what it holds.
    metadata: texts by name, for people.
  """
  header: dict[str, Any] = {_METADATA: dict(metadata or {})}
  end = 0
  for name, tensor in tensors.items():
    begin, end = end, end + tensor.nbytes
    header[name] = {
      "dtype": _NAMES[tensor.dtype],
      "shape": list(tensor.shape),
      "data_offsets": [begin, end],
    }
  checksum = _header_checksum(header)
  for tensor in tensors.values():
    checksum = _extend(checksum, tensor)
  header[_METADATA][_CHECKSUM] = f"{checksum:08x}"
  text = json.dumps(header).encode()
  # The data are aligned.
  text += b" " * (-len(text) % 8)
  with replacing(path) as temporary, open(temporary, "wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
      file.write(np.ascontiguousarray(tensor).tobytes())
