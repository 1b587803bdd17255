"""Primaries of colours: matrices between them.

Numbers are those of ITU-T H.273; the white of all is D65.
"""

import functools

import numpy as np

BT709, BT2020 = 1, 9
_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
# Chromaticities (x, y) of red, green and blue. Numbers 11 and 12 are P3 of
# cinemas and of displays.
PRIMARIES = {
  BT709: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
  BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
  11: _P3,
  12: _P3,
}
_WHITE = (0.3127, 0.3290)


@functools.cache
def between(source: int, target: int) -> np.ndarray:
  """Matrix `[3, 3]` from linear RGB of some primaries to that of others."""
  return np.linalg.solve(_to_xyz(target), _to_xyz(source))


def luminance(primaries: int) -> np.ndarray:
  """Weights `[3]` of linear red, green and blue in the luminance."""
  return _to_xyz(primaries)[1]


def _to_xyz(primaries: int) -> np.ndarray:
  """Matrix from linear RGB to CIE XYZ (SMPTE RP 177)."""
  points = np.array([*PRIMARIES[primaries], _WHITE])
  xyz = np.stack([points[:, 0], points[:, 1], 1 - points.sum(axis=1)])
  columns, white = xyz[:, :3], xyz[:, 3] / _WHITE[1]
  return columns * np.linalg.solve(columns, white)
