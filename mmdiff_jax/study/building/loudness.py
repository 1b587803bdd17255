"""Programme loudness after ITU-R BS.1770-4."""

import numpy as np
from scipy import signal

RATE = 48_000
# Annex 1, tables 1 and 2: the head's shelf and the high-pass, at 48 kHz.
_SHELF = (
  (1.53512485958697, -2.69169618940638, 1.19839281085285),
  (1.0, -1.69065929318241, 0.73248077421585),
)
_HIGH_PASS = ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621))
_BLOCK, _STEP = RATE * 400 // 1000, RATE * 100 // 1000
_ABSOLUTE_GATE, _RELATIVE_GATE = -70.0, -10.0


def _level(power: np.ndarray) -> np.ndarray:
  return -0.691 + 10 * np.log10(np.maximum(power, 1e-20))


def loudness(audio: np.ndarray) -> float:
  """Gated loudness in LUFS; -inf for silence.

  Args:
    audio: mono `[L]` at 48 kHz, in [-1, 1]; shorter than one block of 0.4 s
      it is taken for one.
  """
  weighted = signal.lfilter(*_SHELF, np.asarray(audio, np.float64))
  weighted = signal.lfilter(*_HIGH_PASS, weighted)
  starts = range(0, max(len(weighted) - _BLOCK, 0) + 1, _STEP)
  power = np.array([np.mean(weighted[s : s + _BLOCK] ** 2) for s in starts])
  power = power[_level(power) > _ABSOLUTE_GATE]
  if not len(power):
    return -np.inf
  gate = _level(power.mean()) + _RELATIVE_GATE
  return float(_level(power[_level(power) > gate].mean()))


def normalise(
  audio: np.ndarray, target: float, peak: float = 10 ** (-1 / 20)
) -> np.ndarray:
  """Brings mono sound at 48 kHz to a loudness; silence stays silent.

  Args:
    audio: `[L]`.
    target: LUFS.
    peak: largest sample allowed (-1 dBFS): sound whose peaks stand out more
      stays quieter than the target rather than being distorted.
  """
  measured = loudness(audio)
  if not np.isfinite(measured):
    return np.zeros_like(audio)
  gain = 10 ** ((target - measured) / 20)
  top = float(np.abs(audio).max())
  return audio * min(gain, peak / top)
