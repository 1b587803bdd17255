"""Averaged parameters of a checkpoint, written alone to hand on."""

import json
import os
import pathlib
from collections.abc import Mapping

import jax
import numpy as np

from mmdiff_jax import checkpoint
from mmdiff_jax.convert.checkpoints import publish_variables
from mmdiff_jax.disk.files import absolute, as_path, check_file, local_copy
from mmdiff_jax.disk.leftovers import remove_leftovers
from mmdiff_jax.disk.safetensors import load_safetensors, save_safetensors


def export_params(
  source: str | os.PathLike,
  directory: str | os.PathLike,
  dtype: str = "float16",
) -> pathlib.Path:
  """Writes the averaged parameters of a checkpoint as a checkpoint.

  Sampling reads the result like any checkpoint, and training can start from
  it (`config.train.init_from`); a run cannot be continued from it.

  Args:
    source: see `checkpoint.find_checkpoint`.
    directory: becomes the checkpoint.
    dtype: in which they are stored; what loads them asks for float32.

  Returns:
    The path of the checkpoint, which may be there already.

  Raises:
    FileExistsError: if `directory` exists and is another one.
    FileNotFoundError: if there is no checkpoint.
    OSError: if `directory` cannot be made.
    ValueError: if a parameter is too large for `dtype`.
  """
  target = absolute(directory)
  is_there = _make_room(target)
  if is_there and target not in checkpoint.list_checkpoints(target):
    raise _exists(target)
  params, config = checkpoint.read_average(source)
  params = jax.tree.map(lambda x: x.astype(dtype), params)
  if not all(
    bool(jax.numpy.isfinite(x).all()) for x in jax.tree.leaves(params)
  ):
    raise ValueError(
      f"A parameter of {source} is not finite in {dtype}; choose float32."
    )
  if not is_there:
    checkpoint.write_checkpoint(target, {"ema_params": params}, config)
  elif not checkpoint.holds(target, params, config):
    raise _exists(target)
  return target


def export_safetensors(
  source: str | os.PathLike, path: str | os.PathLike
) -> pathlib.Path:
  """Writes the averaged parameters of a U-Net under their published names.

  `import_checkpoint` reads the file back, PyTorch programs for the published
  checkpoints read it too. The configuration is in its metadata, as JSON.

  Args:
    source: see `checkpoint.find_checkpoint`.
    path: a `.safetensors` file.

  Returns:
    The path of the file, which may be there already.

  Raises:
    FileExistsError: if it holds something else.
    FileNotFoundError: if there is no checkpoint.
    OSError: if it cannot be written.
    ValueError: if `path` has another suffix, or the network no published form.
  """
  target = as_path(path)
  if target.suffix != ".safetensors":
    raise ValueError(f"--output={path} must end in .safetensors.")
  is_there = _make_room(target)
  params, config = checkpoint.read_average(source)
  params = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
  tensors = publish_variables(
    {"params": params}, config.model.name, config.model
  )
  if not is_there:
    metadata = {
      "format": "pt",
      "config": json.dumps(checkpoint.config_to_json(config)),
    }
    save_safetensors(target, tensors, metadata)
  elif not _holds(target, tensors):
    raise _exists(target)
  return target


def _make_room(target: pathlib.Path) -> bool:
  """Whether something is there, as of a process that was killed at its end.

  Raises:
    OSError: if there is not, and nothing can be written.
  """
  if target.exists():
    return True
  check_file(target)
  remove_leftovers(target.parent)
  return False


def _exists(target: pathlib.Path) -> FileExistsError:
  return FileExistsError(
    f"{target} exists, and is another; give another --output."
  )


def _holds(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> bool:
  """Whether a file holds exactly these tensors."""
  try:
    with local_copy(path) as file:
      found = load_safetensors(file)
  except (OSError, ValueError):
    return False
  return found.keys() == tensors.keys() and all(
    np.array_equal(found[name], tensor) for name, tensor in tensors.items()
  )
