"""The slices of TPUs that exist."""

import math

# Of v5e and v6e: all there are.
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
# Of v4 and v5p: those below 64 chips. From there on, multiples of four along
# each axis, in ascending order, up to so many chips.
_SMALL = {
  "v4": ("2x2x1", "2x2x2", "2x2x4", "2x4x4"),
  "v5p": ("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4"),
}
_LARGEST = {"v4": 4096, "v5p": 6144}


def exists(kind: str, shape: str) -> bool:
  """Whether Google offers a slice of such a shape ("4x4") of a generation."""
  if kind not in _LARGEST:
    return shape in _FLAT
  sizes = [int(size) for size in shape.split("x")]
  cubes = (
    len(sizes) == 3
    and sizes == sorted(sizes)
    and all(size % 4 == 0 for size in sizes)
    and math.prod(sizes) <= _LARGEST[kind]
  )
  return shape in _SMALL[kind] or cubes


def in_words(kind: str) -> str:
  """The slices of a generation."""
  if kind not in _LARGEST:
    return ", ".join(_FLAT)
  return (
    f"{', '.join(_SMALL[kind])}, or three ascending multiples of 4, such as "
    f"4x4x8, of at most {_LARGEST[kind]} chips"
  )


def single_chip(shape: str) -> bool:
  """Whether a shape is one chip."""
  return set(shape.split("x")) == {"1"}
