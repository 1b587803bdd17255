"""I3D: Inception-v1 inflated to three dimensions, 400 classes (FVD, KVD).

Carreira and Zisserman, arXiv 1705.07750. Submodules carry the names of the
published checkpoint, so that the importer is one rule.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.metric_networks.random_weights import random_variables

NUM_CLASSES = 400
RESOLUTION = 224
# Time shrinks by 8 with SAME padding and the last pool spans 2.
MIN_FRAMES = 9

# Added to the variance by BatchNorm: what VideoGPT's port computes with, on
# which the published figures rest, and what the weights were trained with.
EPSILON, TRAINED_EPSILON = 1e-5, 1e-3

# (b0, b1a, b1b, b2a, b2b, b3b) of each Mixed block.
_MIXED = {
  "3b": (64, 96, 128, 16, 32, 32),
  "3c": (128, 128, 192, 32, 96, 64),
  "4b": (192, 96, 208, 16, 48, 64),
  "4c": (160, 112, 224, 24, 64, 64),
  "4d": (128, 128, 256, 24, 64, 64),
  "4e": (112, 144, 288, 32, 64, 64),
  "4f": (256, 160, 320, 32, 128, 128),
  "5b": (256, 160, 320, 32, 128, 128),
  "5c": (384, 192, 384, 48, 128, 128),
}


def _max_pool(x: jax.Array, window: tuple, strides: tuple) -> jax.Array:
  """SAME max-pool; inputs are >= 0, so that -inf pads like the zeros meant.

  One axis after the other: a maximum of maxima, for a third of the work.
  """
  for axis in range(3):
    if window[axis] == strides[axis] == 1:
      continue
    sizes, steps = [1, 1, 1], [1, 1, 1]
    sizes[axis], steps[axis] = window[axis], strides[axis]
    x = nn.max_pool(x, tuple(sizes), tuple(steps), padding="SAME")
  return x


def convolve(
  x: jax.Array, kernel: jax.Array, strides: tuple[int, int, int]
) -> jax.Array:
  """SAME convolution of videos, in two dimensions.

  The frames that a kernel spans are laid side by side as channels: fewer and
  longer sums than in three dimensions, which hardware and compilers do better.

  Args:
    x: `[B, T, H, W, C]`.
    kernel: `[T, H, W, C, features]`.
    strides: of time, height and width.

  Returns:
    `[B, T', H', W', features]`.
  """
  taps, step, frames = kernel.shape[0], strides[0], x.shape[1]
  count = -(-frames // step)
  missing = max((count - 1) * step + taps - frames, 0)
  padding = (missing // 2, missing - missing // 2)
  x = jnp.pad(x, [(0, 0), padding, *[(0, 0)] * 3])
  stop = (count - 1) * step + 1
  x = jnp.concatenate([x[:, i : i + stop : step] for i in range(taps)], axis=-1)
  kernel = jnp.moveaxis(kernel, 0, 2)
  out = jax.lax.conv_general_dilated(
    x.reshape(-1, *x.shape[2:]),
    kernel.reshape(*kernel.shape[:2], -1, kernel.shape[-1]),
    strides[1:],
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    precision="highest",
  )
  return out.reshape(-1, count, *out.shape[1:])


class Conv3D(nn.Module):
  """`convolve` with a kernel of its own."""

  features: int
  kernel: tuple[int, int, int]
  strides: tuple[int, int, int]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[B, T, H, W, C]` -> `[B, T', H', W', features]`."""
    shape = (*self.kernel, x.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
    return convolve(x, kernel, self.strides)


class Unit3D(nn.Module):
  """Conv (SAME) + BatchNorm (inference) + ReLU."""

  features: int
  kernel: tuple[int, int, int] = (1, 1, 1)
  strides: tuple[int, int, int] = (1, 1, 1)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[B, T, H, W, C]` -> `[B, T', H', W', features]`."""
    x = Conv3D(self.features, self.kernel, self.strides, name="conv3d")(x)
    x = nn.BatchNorm(use_running_average=True, epsilon=EPSILON, name="bn")(x)
    return nn.relu(x)


class Mixed(nn.Module):
  """Inception block: four branches, concatenated."""

  widths: tuple[int, int, int, int, int, int]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[B, T, H, W, C]` -> `[B, T, H, W, sum of the branches]`."""
    b0, b1a, b1b, b2a, b2b, b3b = self.widths
    cube = (3, 3, 3)
    branch_0 = Unit3D(b0, name="b0")(x)
    branch_1 = Unit3D(b1b, cube, name="b1b")(Unit3D(b1a, name="b1a")(x))
    branch_2 = Unit3D(b2b, cube, name="b2b")(Unit3D(b2a, name="b2a")(x))
    branch_3 = Unit3D(b3b, name="b3b")(_max_pool(x, cube, (1, 1, 1)))
    return jnp.concatenate([branch_0, branch_1, branch_2, branch_3], -1)


class I3D(nn.Module):
  """The network; its input is preprocessed to 224x224 in [-1, 1]."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[B, T, 224, 224, 3]` -> logits averaged over time, `[B, 400]`."""
    x = Unit3D(64, (7, 7, 7), (2, 2, 2), name="Conv3d_1a_7x7")(x)
    x = _max_pool(x, (1, 3, 3), (1, 2, 2))
    x = Unit3D(64, name="Conv3d_2b_1x1")(x)
    x = Unit3D(192, (3, 3, 3), name="Conv3d_2c_3x3")(x)
    x = _max_pool(x, (1, 3, 3), (1, 2, 2))
    for name, widths in _MIXED.items():
      if name == "4b":
        x = _max_pool(x, (3, 3, 3), (2, 2, 2))
      if name == "5b":
        x = _max_pool(x, (2, 2, 2), (2, 2, 2))
      x = Mixed(widths, name=f"Mixed_{name}")(x)
    x = nn.avg_pool(x, (2, 7, 7), (1, 1, 1), padding="VALID")
    x = nn.Conv(NUM_CLASSES, (1, 1, 1), precision="highest", name="logits")(x)
    return x.mean(axis=(1, 2, 3))


def preprocess(video: jax.Array) -> jax.Array:
  """Short side to 224 (bilinear, half-pixel), centre crop, to [-1, 1].

  Args:
    video: `[B, F, H, W, 3]` uint8.

  Returns:
    `[B, F, 224, 224, 3]` float32.
  """
  batch, frames, height, width, channels = video.shape
  scale = RESOLUTION / min(height, width)
  size = [
    RESOLUTION if side == min(height, width) else math.ceil(side * scale)
    for side in (height, width)
  ]
  # The published protocol filters only when it enlarges: antialias off.
  video = jax.image.resize(
    video.astype(jnp.float32),
    (batch, frames, *size, channels),
    "bilinear",
    antialias=False,
  )
  top, left = ((side - RESOLUTION) // 2 for side in size)
  video = video[:, :, top : top + RESOLUTION, left : left + RESOLUTION]
  return video / 127.5 - 1.0


def abstract_variables() -> dict[str, Any]:
  """Shapes and dtypes of the variables, without computing any."""
  shape = (1, MIN_FRAMES, RESOLUTION, RESOLUTION, 3)
  video = jax.ShapeDtypeStruct(shape, jnp.float32)
  return jax.eval_shape(I3D().init, jax.random.key(0), video)


def init_variables(seed: int = 0) -> dict[str, Any]:
  """Fixed-seed random variables, the same on every machine and version.

  Features of a random network compare runs with each other; they are on no
  published scale.
  """
  return random_variables(abstract_variables(), seed)


def with_epsilon(variables: dict[str, Any], epsilon: float) -> dict[str, Any]:
  """Variables with which the network computes as with another epsilon.

  Args:
    variables: of the network, whose BatchNorm adds `EPSILON` to the variance.
    epsilon: what is to be added in its place.
  """
  change = epsilon - EPSILON

  def moved(path: tuple, leaf: Any) -> Any:
    return leaf + np.float32(change) if path[-1].key == "var" else leaf

  return jax.tree_util.tree_map_with_path(moved, variables)


@jax.jit
def _logits(variables: dict[str, Any], video: jax.Array) -> jax.Array:
  # Flax's type allows for the tuple that `mutable` asks for.
  return I3D().apply(variables, preprocess(video))  # type: ignore[return-value]


def logits(variables: dict[str, Any], video_uint8: jax.Array) -> jax.Array:
  """Kinetics-400 logits of clips, averaged over time.

  Args:
    variables: from `convert_checkpoint(..., "i3d")` or `init_variables`.
    video_uint8: `[B, F, H, W, 3]` uint8, F >= 9.

  Returns:
    `[B, 400]` float32.

  Raises:
    ValueError: on a wrong shape, type or too few frames.
  """
  shape, dtype = video_uint8.shape, video_uint8.dtype
  if len(shape) != 5 or shape[-1] != 3 or dtype != jnp.uint8:
    raise ValueError(
      "I3D takes uint8 video [B, F, H, W, 3], got "
      f"{dtype} {tuple(shape)}; convert with av.unit_to_uint8."
    )
  if shape[1] < MIN_FRAMES:
    raise ValueError(
      f"I3D needs at least {MIN_FRAMES} frames, got {shape[1]}; use longer "
      "clips or repeat frames."
    )
  return _logits(variables, video_uint8)
