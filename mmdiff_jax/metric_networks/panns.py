"""PANNs Cnn14: the audio network whose distances agree best with listeners.

Kong et al., arXiv 1912.10211; the variant at 32 kHz. The 2048-d embedding
after the ReLU of the first fully connected layer.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

EMBEDDING = 2048
SAMPLE_RATE = 32000
BANDS = 64
_FFT, _HOP = 1024, 320
_WIDTHS = (64, 128, 256, 512, 1024, 2048)
# Five poolings halve the frames: fewer than 32 would leave none.
_MIN_SAMPLES = 31 * _HOP
MIN_SECONDS = _MIN_SAMPLES / SAMPLE_RATE
_FLOOR = 1e-10


class LogMel(nn.Module):
  """Power spectrogram in decibels, in the mel bands of the published file."""

  @nn.compact
  def __call__(self, wave: jax.Array) -> jax.Array:
    """`[B, L]` at 32 kHz -> `[B, 1 + L // 320, 64]`, frames centred."""
    bins = _FFT // 2 + 1
    bands = self.param("melW", nn.initializers.zeros, (bins, BANDS))
    wave = jnp.pad(wave, ((0, 0), (_FFT // 2, _FFT // 2)), mode="reflect")
    frames = 1 + (wave.shape[1] - _FFT) // _HOP
    places = np.arange(frames)[:, None] * _HOP + np.arange(_FFT)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FFT) / _FFT)
    spectrum = jnp.fft.rfft(wave[:, places] * window.astype(np.float32))
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    energy = jnp.matmul(power, bands, precision="highest")
    return 10 * jnp.log10(jnp.maximum(energy, _FLOOR))


class ConvBlock(nn.Module):
  """Twice conv 3x3, BatchNorm (inference) and ReLU."""

  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[B, T, M, C]` -> `[B, T, M, features]`."""
    for number in (1, 2):
      x = nn.Conv(
        self.features,
        (3, 3),
        use_bias=False,
        precision="highest",
        name=f"conv{number}",
      )(x)
      x = nn.relu(_batch_norm(f"bn{number}")(x))
    return x


class Cnn14(nn.Module):
  """The network without its classifier."""

  @nn.compact
  def __call__(self, wave: jax.Array) -> jax.Array:
    """`[B, L]` at 32 kHz in [-1, 1] -> `[B, 2048]`."""
    x = LogMel(name="logmel_extractor")(wave)
    x = _batch_norm("bn0")(x)[..., None]
    for number, width in enumerate(_WIDTHS, start=1):
      x = ConvBlock(width, name=f"conv_block{number}")(x)
      if number < len(_WIDTHS):
        x = nn.avg_pool(x, (2, 2), (2, 2))
    x = x.mean(axis=2)
    x = x.max(axis=1) + x.mean(axis=1)
    return nn.relu(nn.Dense(EMBEDDING, precision="highest", name="fc1")(x))


def _batch_norm(name: str) -> nn.BatchNorm:
  return nn.BatchNorm(use_running_average=True, epsilon=1e-5, name=name)


def abstract_variables() -> dict[str, Any]:
  """Shapes and dtypes of the variables, without computing any."""
  wave = jax.ShapeDtypeStruct((1, _MIN_SAMPLES), jnp.float32)
  return jax.eval_shape(Cnn14().init, jax.random.key(0), wave)


@jax.jit
def _embed(variables: dict[str, Any], wave: jax.Array) -> jax.Array:
  # Flax's type allows for the tuple that `mutable` asks for.
  return Cnn14().apply(variables, wave)  # type: ignore[return-value]


def embed(variables: dict[str, Any], wave: jax.Array) -> jax.Array:
  """Cnn14 embeddings of whole waves.

  Args:
    variables: from `convert_checkpoint(..., "panns")`.
    wave: `[B, L]` float in [-1, 1] at 32 kHz, L >= 9920.

  Returns:
    `[B, 2048]` float32.

  Raises:
    ValueError: on a wrong shape or waves that are too short.
  """
  if np.ndim(wave) != 2:
    raise ValueError(
      f"PANNs takes mono waves [B, L], got shape {np.shape(wave)}."
    )
  if wave.shape[1] < _MIN_SAMPLES:
    raise ValueError(
      f"PANNs needs at least {_MIN_SAMPLES} samples (0.31 s at 32 kHz), got "
      f"{wave.shape[1]}; use longer clips."
    )
  return _embed(variables, jnp.asarray(wave, jnp.float32))
