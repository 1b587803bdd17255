"""Averaged parameters of a checkpoint, written alone to hand on."""

import json
import os
import pathlib

import jax
import numpy as np

from mmdiff_jax import checkpoint
from mmdiff_jax.convert.checkpoints import publish_variables
from mmdiff_jax.disk.files import absolute, as_path, check_file
from mmdiff_jax.disk.leftovers import remove_leftovers
from mmdiff_jax.disk.safetensors import save_safetensors


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
    directory: becomes the checkpoint; must not exist.
    dtype: in which they are stored; what loads them asks for float32.

  Returns:
    The path of the checkpoint.

  Raises:
    FileExistsError: if `directory` exists.
    FileNotFoundError: if there is no checkpoint.
    OSError: if `directory` cannot be made.
    ValueError: if a parameter is too large for `dtype`.
  """
  target = absolute(directory)
  _check_new(target)
  params, config = checkpoint.read_average(source)
  params = jax.tree.map(lambda x: x.astype(dtype), params)
  if not all(
    bool(jax.numpy.isfinite(x).all()) for x in jax.tree.leaves(params)
  ):
    raise ValueError(
      f"A parameter of {source} is not finite in {dtype}; choose float32."
    )
  checkpoint.write_checkpoint(target, {"ema_params": params}, config)
  return target


def export_safetensors(
  source: str | os.PathLike, path: str | os.PathLike
) -> pathlib.Path:
  """Writes the averaged parameters of a U-Net under their published names.

  `import_checkpoint` reads the file back, PyTorch programs for the published
  checkpoints read it too. The configuration is in its metadata, as JSON.

  Args:
    source: see `checkpoint.find_checkpoint`.
    path: a `.safetensors` file that does not exist yet.

  Returns:
    The path of the file.

  Raises:
    FileExistsError: if the file exists.
    FileNotFoundError: if there is no checkpoint.
    OSError: if it cannot be written.
    ValueError: if `path` has another suffix, or the network no published form.
  """
  target = as_path(path)
  if target.suffix != ".safetensors":
    raise ValueError(f"--output={path} must end in .safetensors.")
  _check_new(target)
  params, config = checkpoint.read_average(source)
  params = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
  save_safetensors(
    target,
    publish_variables({"params": params}, config.model.name, config.model),
    {
      "format": "pt",
      "config": json.dumps(checkpoint.config_to_json(config)),
    },
  )
  return target


def _check_new(target: pathlib.Path) -> None:
  """Raises OSError unless `target` can be made; makes room for it."""
  if target.exists():
    raise FileExistsError(f"{target} exists; give another --output.")
  check_file(target)
  remove_leftovers(target.parent)
