"""How the frames of a stream are displayed: turned, cut, and how wide."""

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np

from mmdiff_jax.media.colours import Tags
from mmdiff_jax.media.tracks import Crop

# Codecs of four bytes a pixel, the last of which may be filling.
_FILLED = ("rawvideo", "huffyuv", "ffvhuff", "lagarith")
# Columns that show a pixel's aspect ratio of 1.
_RULER = 4096


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


def orientation(frame) -> Orientation | None:
  """Reads the display matrix of a frame: one of eight orientations, or None.

  The matrix maps a stored point (x, y) to (a x + c y, b x + d y); its entries
  a, b, u, c, d, v, ... are 16.16 fixed-point numbers.
  """
  side = frame.side_data.get("DISPLAYMATRIX")
  if side is None:
    return None
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
    crop: what is cut off before it is turned.
  """

  turn: Orientation
  pixel_aspect: float
  size: tuple[int, int]
  crop: Crop = Crop()


class Display:
  """What is known of all frames of a stream.

  A display matrix holds from the frame on that has it: that of an H.264
  message comes with few. Pixels may change their aspect ratio within a stream.

  Attributes:
    tags: what the container says of the colours.
    plain: whether a picture that is all transparent is none: the fourth byte
      of a pixel may be filling.
  """

  def __init__(self, stream, crop: Crop):
    """For a stream of which nothing is decoded yet."""
    context = stream.codec_context
    self.tags = Tags.of(context)
    self.plain = context.name in _FILLED
    self._context, self._crop = context, crop
    own = context.sample_aspect_ratio or Fraction(1)
    self._aspect = stream.sample_aspect_ratio or Fraction(1)
    # The container takes precedence over the stream.
    self._constant = self._aspect != own
    self._aspects = [own]
    self._ruler: Any = None
    self._turn, self._piece = Orientation(), 0

  def follow(self, frame, piece: int) -> Orientation:
    """Takes every frame in the order of display; returns its orientation.

    Args:
      frame: decoded.
      piece: how often the clocks have restarted before it.
    """
    aspect = self._context.sample_aspect_ratio
    if aspect and aspect not in self._aspects:
      self._aspects.append(aspect)
    turn = orientation(frame)
    if turn is None and piece > self._piece and frame.key_frame:
      turn = Orientation()
    if turn is not None:
      self._turn, self._piece = turn, piece
    return self._turn

  def geometry(self, frame, turn: Orientation) -> Geometry:
    """Geometry of a frame of that orientation."""
    aspect = float(self._aspect)
    if len(self._aspects) > 1 and not self._constant:
      aspect = self._measure(frame)
    crop = self._crop
    height = frame.height - crop.top - crop.bottom
    width = frame.width - crop.left - crop.right
    if min(height, width) < 1:
      crop, height, width = Crop(), frame.height, frame.width
    size = (height, max(1, round(width * aspect)))
    if turn.transposed:
      size, aspect = (size[1], size[0]), 1 / aspect
    return Geometry(turn, aspect, size, crop)

  def _measure(self, frame) -> float:
    """Aspect ratio of a frame's pixels, which PyAV does not tell.

    FFmpeg scales a picture to a width that depends on it.
    """
    import av

    if self._ruler is None:
      graph = av.filter.Graph()
      scale = f"w=round({_RULER}*sar):h=8:flags=neighbor:eval=frame"
      graph.link_nodes(
        graph.add_buffer(
          width=frame.width,
          height=frame.height,
          format=frame.format.name,
          time_base=frame.time_base,
        ),
        graph.add("scale", scale),
        graph.add("buffersink"),
      ).configure()
      self._ruler = graph
    self._ruler.push(frame)
    measured = self._ruler.pull().width / _RULER
    return float(min(self._aspects, key=lambda a: abs(float(a) - measured)))
