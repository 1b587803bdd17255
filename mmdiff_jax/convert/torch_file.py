"""Reads PyTorch weight files without running anything that they contain."""

import pathlib
from collections.abc import Mapping

import numpy as np


def load_torch_file(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Loads the tensors of a `.pt`/`.pth` state dict.

  Uses `torch.load(weights_only=True)`, which refuses pickled code. A state
  dict below a top-level "state_dict" or "model" key is found as well.

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
      f"Reading {path.name} needs PyTorch (CPU is enough): "
      'pip install "mmdiff-jax[torch]".'
    ) from error
  try:
    content = torch.load(path, map_location="cpu", weights_only=True)
  except Exception as error:
    # Not torch's own words: they recommend loading it unsafely.
    raise ValueError(
      f"{path} is not a plain PyTorch weight file ({type(error).__name__}); "
      "download it again, or re-save its state dict alone."
    ) from error
  return state_dict_to_numpy(content, str(path))


def state_dict_to_numpy(content: object, source: str) -> dict[str, np.ndarray]:
  """Finds the state dict in a loaded file and turns its tensors to numpy."""
  for key in ("state_dict", "model"):
    if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
      content = content[key]
  if not isinstance(content, Mapping) or not content:
    raise ValueError(
      f"{source} holds a {type(content).__name__}, not a state dict."
    )
  strangers = [k for k, v in content.items() if not hasattr(v, "detach")]
  if strangers:
    raise ValueError(
      f"{source} has entries that are no tensors: {strangers[:5]}; save "
      "model.state_dict() alone."
    )
  return {str(key): _to_numpy(value) for key, value in content.items()}


def _to_numpy(tensor) -> np.ndarray:
  tensor = tensor.detach().cpu()
  # numpy has no bfloat16, and half precision is only a way of storing.
  if tensor.is_floating_point():
    tensor = tensor.float()
  return tensor.numpy()
