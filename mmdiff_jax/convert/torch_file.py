"""Reads PyTorch weight files without running anything that they contain."""

import pathlib
import zipfile
from typing import Any

import numpy as np

from mmdiff_jax.convert.state_dict import find_state_dict
from mmdiff_jax.disk.safetensors import load_safetensors


def load_weight_file(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Loads the weights of a `.safetensors` file, or of a PyTorch file.

  Raises:
    FileNotFoundError: if there is no such file.
    ImportError: if PyTorch is needed and not installed.
    ValueError: if the file is damaged or holds no weights.
  """
  path = pathlib.Path(path)
  if path.suffix == ".safetensors":
    return find_state_dict(load_safetensors(path), str(path))
  return load_torch_file(path)


def load_torch_file(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Loads the tensors of a `.pt`/`.pth` state dict.

  Uses `torch.load(weights_only=True)`, which refuses pickled code, and unwraps
  the state dict with `find_state_dict`.

  Args:
    path: the file.

  Returns:
    `{key: array}`; bfloat16 and float16 become float32.

  Raises:
    FileNotFoundError: if there is no such file.
    ImportError: if PyTorch is not installed.
    ValueError: if the file is damaged, holds more than tensors, or no tensor.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"No weight file at {path}.")
  try:
    import torch
  except ImportError as error:
    raise ImportError(
      f"Reading {path.name} needs PyTorch (CPU is enough): pip install torch."
    ) from error
  _check_archive(path)
  try:
    content = torch.load(path, map_location="cpu", weights_only=True)
  except Exception as error:
    # Not torch's own words: they recommend loading it unsafely.
    raise ValueError(
      f"{path} is not a plain PyTorch weight file ({type(error).__name__}); "
      "download it again, or re-save its state dict alone."
    ) from error
  weights = find_state_dict(content, str(path))
  strangers = [k for k, v in weights.items() if not hasattr(v, "detach")]
  if strangers:
    raise ValueError(
      f"{path} has entries that are not tensors: {strangers[:5]}; save "
      "model.state_dict() alone."
    )
  size = path.stat().st_size
  for key, tensor in weights.items():
    reason = _unusable(tensor, size)
    if reason:
      raise ValueError(
        f"{path}: {key} {reason}; save plain dense float tensors."
      )
  return {key: _to_numpy(tensor) for key, tensor in weights.items()}


def _check_archive(path: pathlib.Path) -> None:
  """Raises ValueError for a damaged member: torch itself reads it over."""
  if not zipfile.is_zipfile(path):
    return  # PyTorch's older format has no checksums.
  try:
    with zipfile.ZipFile(path) as archive:
      damaged = archive.testzip()
  except (zipfile.BadZipFile, OSError, RuntimeError, ValueError) as error:
    damaged = f"its list ({error})"
  except NotImplementedError as error:
    damaged = f"a member ({error})"
  if damaged is not None:
    raise ValueError(
      f"{path} is damaged: {damaged} is not what was written; download it "
      "again."
    )


def _unusable(tensor: Any, size: int) -> str | None:
  """Why a tensor of a file of `size` bytes is not a plain array, or None."""
  if tensor.is_nested:
    return "is nested"
  if str(tensor.layout) != "torch.strided":
    return "is sparse"
  if tensor.is_quantized:
    return "is quantised"
  if tensor.is_meta:
    return "has no data"
  # A view repeats its data, at any length.
  if tensor.numel() > size:
    return f"has {tensor.numel():,} elements, more than the file has bytes"
  return None


def _to_numpy(tensor: Any) -> np.ndarray:
  tensor = tensor.detach().cpu()
  # numpy has no bfloat16, and half precision is only a way of storing.
  if tensor.is_floating_point():
    tensor = tensor.float()
  return tensor.numpy()
