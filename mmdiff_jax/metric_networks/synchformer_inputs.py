"""What Synchformer sees and hears: frames and a spectrogram."""

import functools

import jax
import jax.numpy as jnp
import librosa
import numpy as np

FPS, SAMPLE_RATE = 25, 16000
RESOLUTION = 224
# Of the spectrogram of a segment.
BANDS, TIMES = 128, 66
_FFT, _WINDOW, _HOP = 1024, 400, 160
_LOG_OFFSET = 1e-6
# Mean and deviation of AudioSet's log-mel values.
_LOG_MEAN, _LOG_DEVIATION = -4.2677393, 4.5689974


def log_mel(wave: jax.Array) -> jax.Array:
  """Normalised log-mel spectrogram of segments of 0.64 s.

  Power, 128 HTK bands up to 8 kHz, windows of 25 ms every 10 ms; the last of
  the 66 frames is filled up with log-mel 0.

  Args:
    wave: `[..., 10240]` at 16 kHz.

  Returns:
    `[..., 66, 128]`.
  """
  half, side = _FFT // 2, (_FFT - _WINDOW) // 2
  edges = [(0, 0)] * (wave.ndim - 1)
  wave = jnp.pad(wave, [*edges, (half, half)], mode="reflect")
  count = 1 + (wave.shape[-1] - _FFT) // _HOP
  places = np.arange(count)[:, None] * _HOP + np.arange(_FFT)
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)
  window = np.pad(window, side).astype(np.float32)
  spectrum = jnp.fft.rfft(wave[..., places] * window)
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  mel = jnp.log(power @ _mel_matrix() + _LOG_OFFSET)
  mel = jnp.pad(mel, [*edges, (0, TIMES - count), (0, 0)])
  return (mel - _LOG_MEAN) / (2 * _LOG_DEVIATION)


@functools.cache
def _mel_matrix() -> np.ndarray:
  """Weights `[513, 128]`: triangles that are linear in hertz."""
  bands = librosa.filters.mel(
    sr=SAMPLE_RATE, n_fft=_FFT, n_mels=BANDS, htk=True, norm=None
  )
  return bands.T


def preprocess_frames(video: jax.Array) -> jax.Array:
  """Short side to 224 (bicubic), centre crop, to [-1, 1].

  Rows, then columns, each rounded to 8 bits, as image libraries resize.

  Args:
    video: `[..., H, W, 3]` uint8.

  Returns:
    `[..., 224, 224, 3]` float32.
  """
  short = min(video.shape[-3:-1])
  resized = video.astype(jnp.float32)
  for axis in (-2, -3):
    side = RESOLUTION * video.shape[axis] // short
    shape = list(resized.shape)
    shape[axis] = side
    resized = jax.image.resize(resized, shape, "cubic")
    resized = jnp.clip(jnp.round(resized), 0, 255)
    start = round((side - RESOLUTION) / 2)
    resized = jax.lax.slice_in_dim(
      resized, start, start + RESOLUTION, axis=axis
    )
  return resized / 127.5 - 1


def at_25_fps(frames: int, fps: float) -> np.ndarray:
  """Which of a clip's frames is shown at each 1/25 s.

  Each appears at the nearest place and stays until the next one, as ffmpeg's
  filter `fps=25` has it.
  """
  appears = np.floor(np.arange(frames) * FPS / fps + 0.5)
  shown = np.arange(int(frames * FPS / fps + 1e-6))
  return np.searchsorted(appears, shown, side="right") - 1
