"""AudioCLIP's audio network: ESResNeXt on a learned FBSP spectrogram (FAD).

Guzhov et al., arXiv 2106.13043 and 2104.11587. Input at 44.1 kHz, output the
raw 1024-d embedding (no L2 normalisation).
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

SAMPLE_RATE = 44100
EMBEDDING = 1024
PROTOCOLS = ("paper", "clean")

_N_FFT = 2048
_HOP = 561
_WINDOW = 1654
_BINS = 1 + _N_FFT // 2
_ROWS = _BINS // 3

# Depthwise kernels of the attention after stage 1..4.
_ATTENTION = ((3, 1), (1, 5), (3, 1), (1, 5))
_BLOCKS = (3, 4, 6, 3)


def num_frames(length: int) -> int:
  """Spectrogram columns of a wave of `length` samples."""
  return 1 + max(0, math.ceil((length - _WINDOW) / _HOP))


def _frames(wave: jax.Array) -> jax.Array:
  """Cuts `[B, L]` into `[B, n, 1654]`, zero-padded on both sides to fit."""
  count = num_frames(wave.shape[1])
  padding = (count - 1) * _HOP + _WINDOW - wave.shape[1]
  wave = jnp.pad(wave, ((0, 0), (padding // 2, padding - padding // 2)))
  starts = np.arange(count)[:, None] * _HOP
  return wave[:, starts + np.arange(_WINDOW)]


def _time_axis() -> np.ndarray:
  """The filters' t = pi * linspace(-1, 1, 2048) + 1e-8, as published.

  At bin 1024 an error of 1e-7 in t turns the phase by 1e-4, which is heard in
  quiet bins; so the float32 steps are PyTorch's: a float32 stride, counted
  from the nearer end and rounded once.
  """
  stride = np.float64(np.float32(2) / np.float32(_N_FFT - 1))
  rise = (-1 + stride * np.arange(_N_FFT // 2)).astype(np.float32)
  return np.concatenate([rise, -rise[::-1]]) * np.float32(np.pi) + np.float32(
    1e-8
  )


def _filters(
  m: jax.Array, fb: jax.Array, fc: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Frequency B-spline wavelets, real and imaginary part, `[2048, 1025]`.

  w = sqrt(fb) s^m exp(-i fc t) / sqrt(2048), s = sinc(fb t / m). A negative s
  is raised as the complex number |s| exp(i pi); m = 0 gives 1.
  """
  t = jnp.asarray(_time_axis())[:, None]
  u = fb * t / (m + 1e-8)
  s = jnp.where(u == 0, 1.0, jnp.sin(u) / jnp.where(u == 0, 1.0, u))
  magnitude = jnp.where(m == 0, 1.0, jnp.abs(s) ** m)
  magnitude = jnp.sqrt(fb) * magnitude / math.sqrt(_N_FFT)
  angle = jnp.where(s < 0, jnp.pi * m, 0.0) - fc * t
  return magnitude * jnp.cos(angle), magnitude * jnp.sin(angle)


def _from_16_bit(wave: jax.Array) -> jax.Array:
  """(x + 32768) * 2 / 65535 - 1, with float32's rounding of every operation.

  Under the paper's protocol the wave fills 5e-5 of the range: this rounding
  is far above it in the spectrogram and is part of the published scale. XLA
  divides by a constant as a product with its inverse, up to one unit in the
  last place off, so the quotient is corrected by its remainder; both
  differences in the remainder are exact.
  """
  doubled = (wave + 32768.0) * 2.0
  quotient = jax.lax.optimization_barrier(doubled / 65535.0)
  remainder = (doubled - quotient * 65536.0) + quotient
  return (quotient + remainder / 65535.0) - 1.0


class Spectrogram(nn.Module):
  """FBSP log-power spectrogram with learned m, fb and fc."""

  @nn.compact
  def __call__(self, wave: jax.Array) -> jax.Array:
    """`[B, L]` in the 16-bit range -> `[B, 341, n, 3]` in dB."""
    zeros, ones = nn.initializers.zeros, nn.initializers.ones
    m = self.param("m", zeros, (_BINS,))
    fb = self.param("fb", ones, (_BINS,))
    fc = self.param("fc", lambda *_: jnp.arange(_BINS, dtype=jnp.float32))
    window = self.param("window", _blackman_harris)
    wave = _from_16_bit(wave)
    side = (_N_FFT - _WINDOW) // 2
    frames = jnp.pad(_frames(wave) * window, ((0, 0), (0, 0), (side, side)))
    cosine, sine = _filters(m, fb, fc)
    power = (
      jnp.matmul(frames, cosine, precision="highest") ** 2
      + jnp.matmul(frames, sine, precision="highest") ** 2
    )[:, :, : 3 * _ROWS]
    decibel = 10 * jnp.log10(jnp.where(power > 0, power, 1e-18))
    batch, count, _ = decibel.shape
    decibel = decibel.reshape(batch, count, 3, _ROWS)
    return decibel.transpose(0, 3, 1, 2)


def _blackman_harris(*_: Any) -> jax.Array:
  """The periodic 4-term Blackman-Harris window."""
  angle = 2 * np.pi * np.arange(_WINDOW) / _WINDOW
  terms = (0.35875, -0.48829, 0.14128, -0.01168)
  window = sum(c * np.cos(i * angle) for i, c in enumerate(terms))
  return jnp.asarray(window, jnp.float32)


def _conv(features: int, kernel: tuple[int, int], name: str, **options):
  """A convolution padded by half its kernel on every side (not SAME)."""
  return nn.Conv(
    features,
    kernel,
    padding=[(k // 2, k // 2) for k in kernel],
    precision="highest",
    name=name,
    **options,
  )


def _norm(name: str) -> nn.BatchNorm:
  return nn.BatchNorm(use_running_average=True, epsilon=1e-5, name=name)


class Bottleneck(nn.Module):
  """ResNeXt bottleneck, 32 groups of width 4 (times the stage)."""

  width: int
  stride: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[B, H, W, C]` -> `[B, H/stride, W/stride, 2 width]`."""
    plain = {"use_bias": False}
    strides = (self.stride, self.stride)
    h = _conv(self.width, (1, 1), "conv1", **plain)(x)
    h = nn.relu(_norm("bn1")(h))
    h = _conv(
      self.width,
      (3, 3),
      "conv2",
      strides=strides,
      feature_group_count=32,
      **plain,
    )(h)
    h = nn.relu(_norm("bn2")(h))
    h = _conv(2 * self.width, (1, 1), "conv3", **plain)(h)
    h = _norm("bn3")(h)
    if x.shape[-1] != h.shape[-1] or self.stride > 1:
      x = _conv(h.shape[-1], (1, 1), "downsample_0", strides=strides, **plain)(
        x
      )
      x = _norm("downsample_1")(x)
    return nn.relu(h + x)


def adaptive_max_pool(x: jax.Array, height: int, width: int) -> jax.Array:
  """Max over the cells floor(i H / h) .. ceil((i+1) H / h) of each axis."""
  for axis, size in ((1, height), (2, width)):
    length = x.shape[axis]
    cells = [
      jax.lax.slice_in_dim(
        x, i * length // size, -(-(i + 1) * length // size), axis=axis
      ).max(axis=axis, keepdims=True)
      for i in range(size)
    ]
    x = jnp.concatenate(cells, axis=axis)
  return x


class StageAttention(nn.Module):
  """Gate in (0, 1) made from a stage's input for its output."""

  features: int
  kernel: tuple[int, int]

  @nn.compact
  def __call__(self, x: jax.Array, height: int, width: int) -> jax.Array:
    """`[B, H, W, C]` -> `[B, height, width, features]`."""
    x = adaptive_max_pool(x, height, width)
    channels = x.shape[-1]
    x = _conv(
      channels, self.kernel, "conv_depth", feature_group_count=channels
    )(x)
    x = _conv(self.features, (1, 1), "conv_point")(x)
    return nn.sigmoid(_norm("bn")(x))


class AudioCLIP(nn.Module):
  """The audio head of AudioCLIP."""

  @nn.compact
  def __call__(self, wave: jax.Array) -> jax.Array:
    """`[B, L]` in the front-end's units -> embeddings `[B, 1024]`."""
    x = Spectrogram(name="fbsp")(wave)
    x = _conv(64, (7, 7), "conv1", strides=(2, 2), use_bias=False)(x)
    x = nn.relu(_norm("bn1")(x))
    x = nn.max_pool(x, (3, 3), (2, 2), padding=[(1, 1), (1, 1)])
    for stage, blocks in enumerate(_BLOCKS):
      width = 128 * 2**stage
      y = x
      for block in range(blocks):
        stride = 2 if block == 0 and stage > 0 else 1
        y = Bottleneck(width, stride, name=f"layer{stage + 1}_{block}")(y)
      attend = StageAttention(
        2 * width, _ATTENTION[stage], name=f"att{stage + 1}"
      )
      x = y * attend(x, y.shape[1], y.shape[2])
    pooled = x.mean(axis=(1, 2))
    gate = StageAttention(x.shape[-1], (3, 5), name="att5")(x, 1, 1)
    pooled = pooled * gate[:, 0, 0]
    return nn.Dense(EMBEDDING, precision="highest", name="fc")(pooled)


def abstract_variables() -> dict[str, Any]:
  """Shapes and dtypes of the variables, without computing any."""
  wave = jax.ShapeDtypeStruct((1, SAMPLE_RATE), jnp.float32)
  return jax.eval_shape(AudioCLIP().init, jax.random.key(0), wave)


@jax.jit
def _embed(variables: dict[str, Any], wave: jax.Array) -> jax.Array:
  # Flax's type allows for the tuple that `mutable` asks for.
  return AudioCLIP().apply(variables, wave)  # type: ignore[return-value]


def embed(
  variables: dict[str, Any], wave: jax.Array, protocol: str = "clean"
) -> jax.Array:
  """AudioCLIP's raw audio embedding.

  Args:
    variables: from `convert_checkpoint(..., "audioclip")`.
    wave: `[B, L]` float in [-1, 1] at 44.1 kHz.
    protocol: "paper" feeds the wave as it is to a front-end that expects the
      16-bit range, which defines the published scale; "clean" feeds
      32768 * wave.

  Returns:
    `[B, 1024]` float32.

  Raises:
    ValueError: on an unknown protocol or a wrong shape.
  """
  if protocol not in PROTOCOLS:
    raise ValueError(
      f"Unknown protocol {protocol!r}; allowed: {', '.join(PROTOCOLS)}."
    )
  wave = jnp.asarray(wave, jnp.float32)
  if wave.ndim != 2:
    raise ValueError(
      f"AudioCLIP takes mono waves [B, L], got shape {wave.shape}."
    )
  return _embed(variables, wave * 32768.0 if protocol == "clean" else wave)
