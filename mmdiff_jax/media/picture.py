"""One decoded frame as it is displayed: colours, orientation, size."""

import numpy as np

from mmdiff_jax.media.colours import (
  UNSPECIFIED,
  YCGCO,
  Tags,
  resolve,
  to_bt709,
)
from mmdiff_jax.media.display import Display, Geometry
from mmdiff_jax.media.transforms import fit_frame, inner_size

# swscale's bicubic filter, all chroma samples, exact rounding.
_SWS_FLAGS = 0x4 | 0x2000 | 0x40000
_FULL_RANGE = 2


class Renderer:
  """Makes frames into pictures; swscale's filters are made once per file.

  Attributes:
    notes: what was converted, in words.
  """

  def __init__(self) -> None:
    """Waits for the first frame."""
    from av.video.reformatter import VideoReformatter

    self._reformatter = VideoReformatter()
    self._notes: dict[str, None] = {}

  @property
  def notes(self) -> list[str]:
    """What was converted so far, in words."""
    return list(self._notes)

  def render(
    self,
    frame,
    shape: Geometry,
    display: Display,
    height: int,
    width: int,
    fit: str = "pad",
  ) -> np.ndarray:
    """Returns a frame as RGB, upright, fitted into `height` x `width`.

    Args:
      frame: decoded.
      shape: how it is displayed.
      display: what is known of all frames.
      height: rows of the result.
      width: columns of the result.
      fit: see `fit_frame`.

    Returns:
      uint8 `[height, width, 3]`: bicubic.

    Raises:
      UnknownColours: if its colours cannot be converted.
    """
    tags = resolve(frame, display.tags)
    aspect = shape.pixel_aspect
    stored = (frame.height, frame.width)
    cover = self._cover(frame, display.plain)
    interlaced = frame.interlaced_frame and frame.height > 1
    size = stored
    if cover is None and not interlaced and not any(shape.crop):
      size = _scaled(frame, shape, height, width, fit)
    image = self._rgb(frame, *size, tags)
    if cover is not None:
      image = np.round(image * (cover / 255.0)).astype(np.uint8)
    if any(shape.crop):
      image = self._cut(image, shape)
    if interlaced:
      # One field: both would show two instants at once.
      image = image[::2]
      aspect = aspect * 2 if shape.turn.transposed else aspect / 2
    elif size != stored:
      # The scaled picture has the shape of the display.
      aspect = 1.0
    return fit_frame(
      shape.turn.apply(image), height, width, pixel_aspect=aspect, fit=fit
    )

  def _cover(self, frame, plain: bool) -> np.ndarray | None:
    """How opaque a frame is, uint8 `[H, W, 1]`; None where it is all opaque."""
    parts = frame.format.components
    if not (frame.format.has_palette or any(part.is_alpha for part in parts)):
      return None
    rgba = self._reformatter.reformat(
      frame, format="rgba", interpolation=_SWS_FLAGS, threads=1
    ).to_ndarray()
    if rgba[..., 3].min() == 255 or (plain and not rgba[..., 3].any()):
      return None
    self._notes["transparent pictures are shown over black"] = None
    return rgba[..., 3:]

  def _cut(self, image: np.ndarray, shape: Geometry) -> np.ndarray:
    self._notes["edges are cut off as the container says"] = None
    crop = shape.crop
    bottom, right = image.shape[0] - crop.bottom, image.shape[1] - crop.right
    return image[crop.top : bottom, crop.left : right]

  def _rgb(self, frame, height: int, width: int, tags: Tags) -> np.ndarray:
    """Converts and scales a stored frame to uint8 RGB of BT.709."""
    if tags.matrix not in (UNSPECIFIED, frame.colorspace):
      frame.colorspace = tags.matrix
    if tags.range not in (0, frame.color_range):
      frame.color_range = tags.range
    deep = bool(tags.hdr or tags.wide)
    if tags.matrix == YCGCO:
      image = self._from_ycgco(frame, height, width)
    else:
      form = "rgb48le" if deep else "rgb24"
      image = self._scale(frame, height, width, form).to_ndarray()
    if deep:
      if tags.hdr:
        words = f"high dynamic range ({tags.hdr}) mapped to BT.709 (BT.2390)"
      else:
        words = f"colours of {tags.wide} mapped to BT.709"
      self._notes[words] = None
      return to_bt709(image, tags)
    return image if image.dtype == np.uint8 else _to_uint8(image)

  def _from_ycgco(self, frame, height: int, width: int) -> np.ndarray:
    """Y, Cg and Co of H.273, which swscale does not know, to uint16 RGB."""
    # swscale does not touch colours on the way to the same matrix.
    frame.colorspace = UNSPECIFIED
    scaled = self._scale(frame, height, width, "yuv444p16le")
    frame.colorspace = YCGCO
    y, cg, co = (
      np.frombuffer(plane, np.uint16).reshape(height, -1)[:, :width] / 256.0
      for plane in scaled.planes
    )
    if frame.color_range == _FULL_RANGE:
      y, cg, co = y / 255, (cg - 128) / 255, (co - 128) / 255
    else:
      y, cg, co = (y - 16) / 219, (cg - 128) / 224, (co - 128) / 224
    rgb = np.stack([y - cg + co, y + cg, y - cg - co], axis=-1)
    return np.round(np.clip(rgb, 0, 1) * 65535).astype(np.uint16)

  def _scale(self, frame, height: int, width: int, form: str):
    return self._reformatter.reformat(
      frame,
      width=width,
      height=height,
      format=form,
      interpolation=_SWS_FLAGS,
      threads=1,
    )


def _to_uint8(image: np.ndarray) -> np.ndarray:
  return np.round(image / 257.0).astype(np.uint8)


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
