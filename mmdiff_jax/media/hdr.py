"""Pictures of high dynamic range (BT.2100: PQ, HLG) as BT.709 ones.

Light is mapped by the knee of ITU-R BT.2390 (EETF) from the mastering peak to
the reference white of BT.2408, then the primaries of BT.2020 to BT.709.
"""

from collections.abc import Callable

import numpy as np

from mmdiff_jax.media.primaries import BT709, BT2020, between, luminance

# Peak that material is taken to be mastered for, and the level that becomes
# white (nits; BT.2408).
_PEAK, _WHITE = 1000.0, 203.0
_LUMINANCE = luminance(BT2020)
# SMPTE ST 2084.
_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
# ARIB STD-B67.
_A = 0.17883277
_B, _C = 1 - 4 * _A, 0.5 - _A * np.log(4 * _A)


def pq_to_light(signal: np.ndarray) -> np.ndarray:
  """PQ signal in [0, 1] -> light in nits (ST 2084)."""
  power = np.power(signal, 1 / _M2)
  return 1e4 * np.power(
    np.maximum(power - _C1, 0) / (_C2 - _C3 * power), 1 / _M1
  )


def light_to_pq(light: np.ndarray) -> np.ndarray:
  """Light in nits -> PQ signal in [0, 1] (ST 2084)."""
  power = np.power(np.maximum(light, 0) / 1e4, _M1)
  return np.power((_C1 + _C2 * power) / (1 + _C3 * power), _M2)


def hlg_to_light(signal: np.ndarray) -> np.ndarray:
  """HLG signal `[..., 3]` -> light in nits on a display of 1000 nits."""
  scene = np.where(
    signal <= 0.5, signal**2 / 3, (np.exp((signal - _C) / _A) + _B) / 12
  )
  # The display's own gamma, 1.2 at 1000 nits (BT.2100).
  luminance = np.maximum(scene @ _LUMINANCE, 1e-6)
  return _PEAK * scene * luminance[..., None] ** 0.2


# AVColorTransferCharacteristic -> signal to light.
TRANSFERS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
  16: pq_to_light,
  18: hlg_to_light,
}
NAMES = {16: "PQ", 18: "HLG"}


def tone_map(
  image: np.ndarray,
  transfer: Callable[[np.ndarray], np.ndarray],
  primaries: int = BT2020,
) -> np.ndarray:
  """Maps pictures of high dynamic range to BT.709.

  Args:
    image: uint16 `[H, W, 3]`, the signal in full range.
    transfer: signal to light, one of `TRANSFERS`.
    primaries: its number, one of `PRIMARIES`.

  Returns:
    uint8 `[H, W, 3]` for a display of gamma 2.4 (BT.1886).
  """
  light = transfer(image / 65535.0) @ between(primaries, BT2020).T
  bright = np.maximum(light @ _LUMINANCE, 1e-4)
  gain = pq_to_light(_knee(light_to_pq(bright))) / bright
  linear = (light * gain[..., None]) @ between(BT2020, BT709).T / _WHITE
  shown = np.clip(linear, 0.0, 1.0) ** (1 / 2.4)
  return np.round(255 * shown).astype(np.uint8)


def _knee(signal: np.ndarray) -> np.ndarray:
  """EETF of BT.2390: PQ of the source -> PQ of the target, no black lift."""
  source, target = light_to_pq(np.array([_PEAK, _WHITE]))
  e1, peak = np.minimum(signal / source, 1.0), target / source
  start = 1.5 * peak - 0.5
  t = np.clip((e1 - start) / (1 - start), 0.0, 1.0)
  # Cubic from (start, start), slope 1, to (1, peak), slope 0.
  spline = (
    (2 * t**3 - 3 * t**2 + 1) * start
    + (t**3 - 2 * t**2 + t) * (1 - start)
    + (-2 * t**3 + 3 * t**2) * peak
  )
  return source * np.where(e1 < start, e1, spline)
