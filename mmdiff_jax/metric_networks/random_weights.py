"""Fixed-seed random weights for networks that serve without a download."""

import zlib
from typing import Any

import jax
import numpy as np


def random_variables(abstract: dict[str, Any], seed: int) -> dict[str, Any]:
  """Fills a variables tree: He-normal kernels, identity normalisation.

  Each leaf is drawn from its own generator, keyed by the seed and the leaf's
  path, in numpy: independent of jax's version, backend and of leaf order.

  Args:
    abstract: tree of shapes and dtypes.
    seed: of the generator.

  Returns:
    A tree like `abstract` of float32 numpy arrays.
  """

  def fill(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    name = path[-1].key
    if name in ("scale", "var"):
      return np.ones(leaf.shape, np.float32)
    if name in ("bias", "mean"):
      return np.zeros(leaf.shape, np.float32)
    words = [seed, zlib.crc32(jax.tree_util.keystr(path).encode())]
    noise = np.random.default_rng(words).standard_normal(leaf.shape)
    fan_in = np.prod(leaf.shape[:-1])
    return (noise * np.sqrt(2 / fan_in)).astype(np.float32)

  return jax.tree_util.tree_map_with_path(fill, abstract)
