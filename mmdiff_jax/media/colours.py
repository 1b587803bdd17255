"""What the colours of a frame mean, and how they become those of BT.709.

Numbers are those of ITU-T H.273, which FFmpeg takes over.
"""

import dataclasses

import numpy as np

from mmdiff_jax.media.hdr import NAMES, TRANSFERS, tone_map
from mmdiff_jax.media.primaries import BT709, BT2020, PRIMARIES, between

RGB, UNSPECIFIED, YCGCO = 0, 2, 8
# Matrices by which swscale converts to RGB.
_KNOWN = (RGB, BT709, UNSPECIFIED, 4, 5, 6, 7, BT2020)
_FROM_PRIMARIES = 12
_NAMES = {
  10: "BT.2020 of constant luminance",
  11: "SMPTE ST 2085",
  12: "by their primaries",
  13: "by their primaries, of constant luminance",
  14: "ICtCp",
  15: "IPT-C2",
  16: "YCgCo-Re",
  17: "YCgCo-Ro",
}
_WIDE = {BT2020: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
# Transfer characteristics that are plain powers; that of sRGB is none.
_GAMMA, _GAMMAS, _SRGB = 2.4, {4: 2.2, 5: 2.8, 8: 1.0}, 13


class UnknownColours(ValueError):
  """Colours that cannot be converted; the message names them."""


@dataclasses.dataclass(frozen=True)
class Tags:
  """What a stream or a frame says of its colours.

  Attributes:
    matrix: from which brightness and colours are computed.
    primaries: red, green and blue.
    transfer: from light to signal.
    range: 1 for the limited one, 2 for the full one, 0 unknown.
  """

  matrix: int = UNSPECIFIED
  primaries: int = UNSPECIFIED
  transfer: int = UNSPECIFIED
  range: int = 0

  @classmethod
  def of(cls, source) -> "Tags":
    """Those of a frame or a codec context."""
    return cls(
      source.colorspace,
      source.color_primaries,
      source.color_trc,
      source.color_range,
    )

  @property
  def hdr(self) -> str:
    """Name of a transfer of high dynamic range, or ""."""
    return NAMES.get(self.transfer, "")

  @property
  def wide(self) -> str:
    """Name of primaries that are converted to BT.709, or ""."""
    return "" if self.hdr else _WIDE.get(self.primaries, "")


def resolve(frame, container: Tags) -> Tags:
  """What is known of a frame's colours.

  What the frame does not say its container does. Without a matrix that of the
  primaries counts, then BT.709 in high definition, from 1280 columns or over
  576 rows on, else BT.601.

  Raises:
    UnknownColours: if they cannot be converted.
  """
  own = Tags.of(frame)
  tags = Tags(
    container.matrix if own.matrix == UNSPECIFIED else own.matrix,
    _either(own.primaries, container.primaries),
    _either(own.transfer, container.transfer),
    # A decoder takes the limited range for granted.
    container.range if _says_nothing(own) and container.range else own.range,
  )
  return dataclasses.replace(tags, matrix=_matrix(frame, tags))


def _either(own: int, container: int) -> int:
  return container if own in (0, UNSPECIFIED) else own


def _says_nothing(tags: Tags) -> bool:
  return {tags.matrix, tags.primaries, tags.transfer} == {UNSPECIFIED}


def _matrix(frame, tags: Tags) -> int:
  matrix = tags.matrix
  if frame.format.is_rgb:
    return RGB
  if matrix == _FROM_PRIMARIES and tags.primaries in (BT709, BT2020):
    return tags.primaries
  if matrix in (*_KNOWN, YCGCO) and matrix not in (RGB, UNSPECIFIED):
    return matrix
  if matrix in _NAMES:
    raise UnknownColours(_NAMES[matrix])
  if tags.primaries in (BT709, BT2020):
    return tags.primaries
  high = frame.height > 576 or frame.width >= 1280
  return BT709 if high else UNSPECIFIED


def to_bt709(image: np.ndarray, tags: Tags) -> np.ndarray:
  """Colours of a display of BT.709.

  Args:
    image: uint16 `[H, W, 3]`, RGB in full range.
    tags: what they mean.

  Returns:
    uint8 `[H, W, 3]`.
  """
  if tags.hdr:
    primaries = tags.primaries if tags.primaries in PRIMARIES else BT2020
    return tone_map(image, TRANSFERS[tags.transfer], primaries)
  light = _to_light(image / 65535.0, tags.transfer)
  mapped = light @ between(tags.primaries, BT709).T
  signal = _to_signal(np.clip(mapped, 0.0, 1.0), tags.transfer)
  return np.round(255 * signal).astype(np.uint8)


def _to_light(signal: np.ndarray, transfer: int) -> np.ndarray:
  """Signal in [0, 1] -> light on a display."""
  if transfer == _SRGB:
    low = signal / 12.92
    return np.where(signal <= 0.04045, low, ((signal + 0.055) / 1.055) ** 2.4)
  return signal ** _GAMMAS.get(transfer, _GAMMA)


def _to_signal(light: np.ndarray, transfer: int) -> np.ndarray:
  """The inverse of `_to_light`."""
  if transfer == _SRGB:
    high = 1.055 * light ** (1 / 2.4) - 0.055
    return np.where(light <= 0.0031308, 12.92 * light, high)
  return light ** (1 / _GAMMAS.get(transfer, _GAMMA))
