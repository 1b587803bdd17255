"""Log-mel spectrogram as VGGish defines it, in numpy.

Magnitude (not power) of a periodic-Hann STFT, 64 HTK mel bands.
"""

import functools

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16000
BANDS = 64
LOG_OFFSET = 0.01
_FRAME = 400
HOP = 160
_FFT = 512
_LOW_HZ, _HIGH_HZ = 125.0, 7500.0


def hertz_to_mel(hertz: npt.ArrayLike) -> np.ndarray:
  """HTK's mel scale."""
  return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)


@functools.cache
def mel_matrix() -> np.ndarray:
  """Weights `[257, 64]`: triangles that are linear in mel; DC weighs 0."""
  bins = hertz_to_mel(np.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1))[:, None]
  edges = np.linspace(hertz_to_mel(_LOW_HZ), hertz_to_mel(_HIGH_HZ), BANDS + 2)
  lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
  rising = (bins - lower) / (centre - lower)
  falling = (upper - bins) / (upper - centre)
  matrix = np.maximum(0.0, np.minimum(rising, falling))
  matrix[0] = 0.0
  return matrix


def log_mel(wave: np.ndarray, offset: float = LOG_OFFSET) -> np.ndarray:
  """Log-mel spectrogram of waves at 16 kHz.

  Args:
    wave: `[..., L]`, L >= 400 (25 ms).
    offset: added to the mel magnitudes before the logarithm.

  Returns:
    `[..., n, 64]` float64, n = 1 + (L - 400) // 160 frames.

  Raises:
    ValueError: if the wave is shorter than one frame.
  """
  wave = np.asarray(wave, np.float64)
  if wave.shape[-1] < _FRAME:
    raise ValueError(
      f"A log-mel spectrogram needs at least {_FRAME} samples (25 ms at 16 "
      f"kHz), got {wave.shape[-1]}."
    )
  frames = np.lib.stride_tricks.sliding_window_view(wave, _FRAME, axis=-1)
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FRAME) / _FRAME)
  spectrum = np.abs(np.fft.rfft(frames[..., ::HOP, :] * window, _FFT))
  return np.log(spectrum @ mel_matrix() + offset)


def mel_statistics(wave: np.ndarray) -> np.ndarray:
  """Weight-free audio features: what bands sound, how much, how they move.

  Args:
    wave: `[B, L]` at 16 kHz.

  Returns:
    `[B, 192]`: per band the mean over time, the standard deviation, and the
    mean absolute change from one 10 ms frame to the next.
  """
  mel = log_mel(wave)
  return np.concatenate(
    [
      mel.mean(axis=1),
      mel.std(axis=1),
      np.abs(np.diff(mel, axis=1)).mean(axis=1),
    ],
    axis=-1,
  )
