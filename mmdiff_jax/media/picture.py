"""One decoded frame as it is displayed: colours, orientation, size."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from mmdiff_jax.media.hdr import TRANSFERS, tone_map
from mmdiff_jax.media.transforms import fit_frame, inner_size

# AVColorSpace: unspecified; swscale's ITU709.
_UNSPECIFIED, _SWS_ITU709 = 2, 1
# swscale's bicubic filter, all chroma samples, exact rounding.
_SWS_FLAGS = 0x4 | 0x2000 | 0x40000


@dataclasses.dataclass(frozen=True)
class Orientation:
  """How a stored picture is turned for display.

  Attributes:
    transposed: rows become columns.
    flip_x: afterwards, left and right are exchanged.
    flip_y: afterwards, top and bottom are exchanged.
  """

  transposed: bool = False
  flip_x: bool = False
  flip_y: bool = False

  def apply(self, image: np.ndarray) -> np.ndarray:
    """Turns `[H, W, C]`."""
    if self.transposed:
      image = image.swapaxes(0, 1)
    return image[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


def orientation(frame) -> Orientation:
  """Reads the display matrix of a frame: one of eight orientations.

  The matrix maps a stored point (x, y) to (a x + c y, b x + d y); its entries
  a, b, u, c, d, v, ... are 16.16 fixed-point numbers.
  """
  side = frame.side_data.get("DISPLAYMATRIX")
  if side is None:
    return Orientation()
  a, b, _, c, d = (int(n) for n in np.frombuffer(bytes(side), "<i4")[:5])
  transposed = abs(b) + abs(c) > abs(a) + abs(d)
  x, y = (c, b) if transposed else (a, d)
  return Orientation(transposed, x < 0, y < 0)


@dataclasses.dataclass(frozen=True)
class Geometry:
  """How a frame is displayed.

  Attributes:
    turn: its orientation.
    pixel_aspect: width over height of a displayed pixel.
    size: height and width on display.
  """

  turn: Orientation
  pixel_aspect: float
  size: tuple[int, int]


def geometry(frame, aspect: float) -> Geometry:
  """Geometry of a frame whose stored pixels have an aspect ratio."""
  turn = orientation(frame)
  size = (frame.height, max(1, round(frame.width * aspect)))
  if turn.transposed:
    size, aspect = (size[1], size[0]), 1 / aspect
  return Geometry(turn, aspect, size)


class Renderer:
  """Makes frames into pictures; swscale's filters are made once per file."""

  def __init__(self) -> None:
    """Waits for the first frame."""
    self._reformatter: Any = None

  def render(
    self, frame, shape: Geometry, height: int, width: int, fit: str = "pad"
  ) -> np.ndarray:
    """Returns a frame as RGB, upright, fitted into `height` x `width`.

    Returns:
      uint8 `[height, width, 3]`: bicubic; see `fit_frame` for `fit`.
    """
    transfer = TRANSFERS.get(frame.color_trc)
    aspect = shape.pixel_aspect
    if frame.interlaced_frame and frame.height > 1:
      # One field: both would show two instants at once.
      image = self._rgb(frame, frame.height, frame.width, transfer)[::2]
      aspect = aspect * 2 if shape.turn.transposed else aspect / 2
    else:
      rows, columns = _scaled(frame, shape, height, width, fit)
      image = self._rgb(frame, rows, columns, transfer)
      # The scaled picture has the shape of the display.
      if image.shape[:2] != (frame.height, frame.width):
        aspect = 1.0
    return fit_frame(
      shape.turn.apply(image), height, width, pixel_aspect=aspect, fit=fit
    )

  def _rgb(
    self, frame, height: int, width: int, transfer: Callable | None
  ) -> np.ndarray:
    """Converts and scales a stored frame to uint8 RGB."""
    from av.video.reformatter import VideoReformatter

    if self._reformatter is None:
      self._reformatter = VideoReformatter()
    # Untagged high definition is BT.709 by convention; swscale assumes BT.601.
    high = frame.height > 576 or frame.width >= 1280
    untagged = frame.colorspace == _UNSPECIFIED and high
    converted = self._reformatter.reformat(
      frame,
      width=width,
      height=height,
      format="rgb24" if transfer is None else "rgb48le",
      src_colorspace=_SWS_ITU709 if untagged else None,
      interpolation=_SWS_FLAGS,
      threads=1,
    )
    image = converted.to_ndarray()
    return image if transfer is None else tone_map(image, transfer)


def _scaled(
  frame, shape: Geometry, height: int, width: int, fit: str
) -> tuple[int, int]:
  """Size to which a stored frame is scaled while its colours are converted."""
  inner = inner_size(*shape.size, height, width, fit)
  if shape.turn.transposed:
    inner = (inner[1], inner[0])
  # swscale filters well where it shrinks; the rest is left to `fit_frame`.
  if inner[0] > frame.height or inner[1] > frame.width:
    return frame.height, frame.width
  return inner
