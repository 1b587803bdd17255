"""Averaged parameters of a checkpoint, written alone to hand on."""

import os
import pathlib

import jax

from mmdiff_jax import checkpoint


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
  target = pathlib.Path(directory).absolute()
  if target.exists():
    raise FileExistsError(f"{directory} exists; give another --output.")
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
