"""Synchformer: by how many seconds sound and picture of a clip are apart.

Iashin et al., arXiv 2401.16423. Segments of 0.64 s, every 0.32 s, go through a
transformer of frames (Motionformer with divided space-time attention, arXiv
2106.05392 and 2102.05095) and one of the spectrogram (AST, arXiv 2104.01778); a
third one reads both and tells offsets from -2 to 2 s. DeSync is the size of the
offset that it finds likeliest.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import librosa
import numpy as np

FPS, SAMPLE_RATE = 25, 16000
# Seconds by which the sound is early, one for each logit.
OFFSETS = np.linspace(-2, 2, 21)
# Of one judgement.
SEGMENTS = 14
_FRAMES, _FRAME_STEP = 16, 8
_SAMPLES, _SAMPLE_STEP = 10240, 5120
MIN_SECONDS = ((SEGMENTS - 1) * _FRAME_STEP + _FRAMES) / FPS

_RESOLUTION = 224
# Frames, rows and columns of a patch of the picture, and patches of a segment.
_PATCH = (2, 16, 16)
_STEPS, _ROWS = _FRAMES // _PATCH[0], _RESOLUTION // _PATCH[1]
# Of the spectrogram: overlapping patches of bands and frames.
_BANDS, _TIMES = 128, 66
_AUDIO_PATCH, _AUDIO_STRIDE = (16, 16), (10, 10)
_AUDIO_ROWS, _AUDIO_STEPS = ((side - 16) // 10 + 1 for side in (_BANDS, _TIMES))
_FFT, _WINDOW, _HOP = 1024, 400, 160
_LOG_OFFSET = 1e-6
# Mean and deviation of AudioSet's log-mel values.
_LOG_MEAN, _LOG_DEVIATION = -4.2677393, 4.5689974
# LayerNorm's epsilons of the picture, the spectrogram and the joint network.
_PICTURE_EPS, _SOUND_EPS, _JOINT_EPS = 1e-6, 1e-12, 1e-5


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of the network; the published ones by default.

  Attributes:
    width: of all tokens.
    depth: blocks of the networks of picture and sound.
    heads: of their attention.
    joint_depth: blocks of the network that reads both.
    joint_heads: of its attention.
  """

  width: int = 768
  depth: int = 12
  heads: int = 12
  joint_depth: int = 3
  joint_heads: int = 8


def attend(q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> jax.Array:
  """Scaled dot-product attention: `[..., N, D]` by `[..., M, D]`."""

  def split(x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-1], heads, -1)

  queries, keys, values = split(q), split(k), split(v)
  scores = jnp.einsum("...nhd,...mhd->...hnm", queries, keys)
  weights = nn.softmax(scores / math.sqrt(queries.shape[-1]))
  return jnp.einsum("...hnm,...mhd->...nhd", weights, values).reshape(q.shape)


def attend_divided(
  q: jax.Array, k: jax.Array, v: jax.Array, heads: int, over: str
) -> jax.Array:
  """Attention within frames or along time; the first token sees all.

  Args:
    q: `[B, 1 + 8 * P, D]`: a class token, then the P patches of each step.
    k: likewise; the class token is a key of every group.
    v: likewise.
    heads: of the attention.
    over: "space" (the patches of one step) or "time" (those of one place).

  Returns:
    Of the shape of `q`.
  """

  def groups(x: jax.Array) -> jax.Array:
    x = x[:, 1:].reshape(len(x), _STEPS, -1, x.shape[-1])
    return x.swapaxes(1, 2) if over == "time" else x

  def with_first(x: jax.Array) -> jax.Array:
    grouped = groups(x)
    first = jnp.broadcast_to(
      x[:, None, :1], (*grouped.shape[:2], 1, x.shape[-1])
    )
    return jnp.concatenate([first, grouped], axis=2)

  first = attend(q[:, :1], k, v, heads)
  rest = attend(groups(q), with_first(k), with_first(v), heads)
  if over == "time":
    rest = rest.swapaxes(1, 2)
  rest = rest.reshape(len(q), -1, q.shape[-1])
  return jnp.concatenate([first, rest], axis=1)


class Attention(nn.Module):
  """Self-attention with its projections.

  Attributes:
    heads: of the attention.
    fused: whether one matrix makes queries, keys and values.
    over: None, or what `attend_divided` takes.
  """

  heads: int
  fused: bool
  over: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[B, N, D]` -> `[B, N, D]`."""
    width = x.shape[-1]
    if self.fused:
      q, k, v = jnp.split(nn.Dense(3 * width, name="qkv")(x), 3, axis=-1)
    else:
      q, k, v = (
        nn.Dense(width, name=name)(x) for name in ("query", "key", "value")
      )
    if self.over is None:
      mixed = attend(q, k, v, self.heads)
    else:
      mixed = attend_divided(q, k, v, self.heads, self.over)
    return nn.Dense(width, name="out")(mixed)


class Block(nn.Module):
  """Attention, then two layers, both on normalised input and added to it.

  Attributes:
    heads: of the attention.
    epsilon: of the norms.
    fused: as `Attention` has it.
    divided: attention along time, then within frames, in place of over all.
  """

  heads: int
  epsilon: float
  fused: bool = True
  divided: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[B, N, D]` -> `[B, N, D]`."""

    def norm(name: str) -> nn.LayerNorm:
      return _norm(self.epsilon, name)

    if self.divided:
      along = Attention(self.heads, self.fused, "time", name="time_attention")
      x = x + along(norm("time_attention_norm")(x))
    over = "space" if self.divided else None
    within = Attention(self.heads, self.fused, over, name="attention")
    x = x + within(norm("attention_norm")(x))
    hidden = nn.Dense(4 * x.shape[-1], name="mlp_in")(norm("mlp_norm")(x))
    hidden = nn.gelu(hidden, approximate=False)
    return x + nn.Dense(x.shape[-1], name="mlp_out")(hidden)


class Pool(nn.Module):
  """What a class token makes of some tokens in one block."""

  heads: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[..., N, D]` -> `[..., D]`."""
    tokens = x.reshape(-1, *x.shape[-2:])
    tokens = _prepend(tokens, _parameter(self, "class_token", 1, x.shape[-1]))
    tokens = Block(self.heads, _PICTURE_EPS, name="block")(tokens)
    return tokens[:, 0].reshape(*x.shape[:-2], -1)


class Picture(nn.Module):
  """Network of the frames."""

  sizes: Sizes

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[B, 16, 224, 224, 3]` in [-1, 1] -> tokens of 2 frames, `[B, 8, D]`."""
    width, heads = self.sizes.width, self.sizes.heads
    x = nn.Conv(width, _PATCH, _PATCH, padding="VALID", name="patches")(x)
    x = x.reshape(len(x), -1, width)
    x = _prepend(x, _parameter(self, "class_token", 1, width))
    places = _parameter(self, "places", 1 + _ROWS**2, width)
    times = _parameter(self, "times", _STEPS, width)
    of_patches = jnp.tile(places[1:], (_STEPS, 1)) + jnp.repeat(
      times, _ROWS**2, axis=0
    )
    x = x + jnp.concatenate([places[:1], of_patches])
    for i in range(self.sizes.depth):
      x = Block(heads, _PICTURE_EPS, divided=True, name=f"block_{i}")(x)
    x = _norm(_PICTURE_EPS, "norm")(x[:, 1:])
    return Pool(heads, name="pool")(x.reshape(len(x), _STEPS, -1, width))


class Sound(nn.Module):
  """Network of the spectrogram."""

  sizes: Sizes

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[B, 66, 128]`, normalised -> a token per 0.1 s, `[B, 6, D]`."""
    width, heads = self.sizes.width, self.sizes.heads
    patches = nn.Conv(
      width, _AUDIO_PATCH, _AUDIO_STRIDE, padding="VALID", name="patches"
    )
    x = patches(x.swapaxes(1, 2)[..., None]).reshape(len(x), -1, width)
    first = [
      _parameter(self, name, 1, width)
      for name in ("class_token", "distillation_token")
    ]
    x = _prepend(x, jnp.concatenate(first))
    places = 2 + _AUDIO_ROWS * _AUDIO_STEPS
    x = x + _parameter(self, "places", places, width)
    for i in range(self.sizes.depth):
      x = Block(heads, _SOUND_EPS, fused=False, name=f"block_{i}")(x)
    x = _norm(_SOUND_EPS, "norm")(x[:, 2:])
    x = x.reshape(len(x), _AUDIO_ROWS, _AUDIO_STEPS, width)
    return Pool(heads, name="pool")(x.swapaxes(1, 2))


class Joint(nn.Module):
  """Network that tells the offset from tokens of both."""

  sizes: Sizes

  @nn.compact
  def __call__(self, picture: jax.Array, sound: jax.Array) -> jax.Array:
    """`[B, 112, D]` and `[B, 84, D]` -> logits of `OFFSETS`, `[B, 21]`."""
    width = self.sizes.width
    picture = nn.Dense(width, name="picture_in")(picture)
    sound = nn.Dense(width, name="sound_in")(sound)
    picture = _norm(_JOINT_EPS, "picture_norm")(picture)
    sound = _norm(_JOINT_EPS, "sound_norm")(sound)
    sound = _prepend(sound, _parameter(self, "sound_token", 1, width))
    x = jnp.concatenate([picture, sound], axis=1)
    x = _prepend(x, _parameter(self, "offset_token", 1, width))
    tokens = 2 + SEGMENTS * (_STEPS + _AUDIO_STEPS)
    x = x + _parameter(self, "places", tokens, width)
    for i in range(self.sizes.joint_depth):
      block = Block(
        self.sizes.joint_heads, _JOINT_EPS, fused=False, name=f"block_{i}"
      )
      x = block(x)
    x = _norm(_JOINT_EPS, "norm")(x[:, 0])
    return nn.Dense(len(OFFSETS), name="head")(x)


class Synchformer(nn.Module):
  """The network on the segments of clips."""

  sizes: Sizes = Sizes()

  def setup(self) -> None:
    """Makes the three networks."""
    self.picture = Picture(self.sizes)
    self.sound = Sound(self.sizes)
    self.joint = Joint(self.sizes)

  def __call__(self, frames: jax.Array, spectrogram: jax.Array) -> jax.Array:
    """Logits of the offset at the beginning and at the end.

    Args:
      frames: `[B, S, 16, 224, 224, 3]` in [-1, 1], S >= 14 segments.
      spectrogram: `[B, S, 66, 128]` of `log_mel`.

    Returns:
      `[B, 2, 21]`, of the first and of the last 14 segments.
    """
    batch, segments = frames.shape[:2]
    tokens = (
      self.picture(frames.reshape(-1, *frames.shape[2:])),
      self.sound(spectrogram.reshape(-1, *spectrogram.shape[2:])),
    )

    def both_ends(x: jax.Array) -> jax.Array:
      x = x.reshape(batch, segments, *x.shape[1:])
      ends = jnp.stack([x[:, :SEGMENTS], x[:, -SEGMENTS:]], axis=1)
      return ends.reshape(2 * batch, -1, x.shape[-1])

    return self.joint(*map(both_ends, tokens)).reshape(batch, 2, -1)


def _norm(epsilon: float, name: str) -> nn.LayerNorm:
  return nn.LayerNorm(epsilon, use_fast_variance=False, name=name)


def _parameter(
  module: nn.Module, name: str, count: int, width: int
) -> jax.Array:
  """Learnt tokens or positions, `[count, width]`."""
  return module.param(name, nn.initializers.normal(0.02), (count, width))


def _prepend(x: jax.Array, tokens: jax.Array) -> jax.Array:
  """Puts the same tokens `[K, D]` ahead of each of `[B, N, D]`."""
  ahead = jnp.broadcast_to(tokens, (len(x), *tokens.shape))
  return jnp.concatenate([ahead, x], axis=1)


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
  mel = jnp.pad(mel, [*edges, (0, _TIMES - count), (0, 0)])
  return (mel - _LOG_MEAN) / (2 * _LOG_DEVIATION)


@functools.cache
def _mel_matrix() -> np.ndarray:
  """Weights `[513, 128]`: triangles that are linear in hertz."""
  bands = librosa.filters.mel(
    sr=SAMPLE_RATE, n_fft=_FFT, n_mels=_BANDS, htk=True, norm=None
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
    side = _RESOLUTION * video.shape[axis] // short
    shape = list(resized.shape)
    shape[axis] = side
    resized = jax.image.resize(resized, shape, "cubic")
    resized = jnp.clip(jnp.round(resized), 0, 255)
    start = round((side - _RESOLUTION) / 2)
    resized = jax.lax.slice_in_dim(
      resized, start, start + _RESOLUTION, axis=axis
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


def abstract_variables(sizes: Sizes = Sizes()) -> dict[str, Any]:
  """Shapes and dtypes of the variables, without computing any."""
  frames = (1, SEGMENTS, _FRAMES, _RESOLUTION, _RESOLUTION, 3)
  spectrogram = (1, SEGMENTS, _TIMES, _BANDS)
  return jax.eval_shape(
    Synchformer(sizes).init,
    jax.random.key(0),
    jax.ShapeDtypeStruct(frames, jnp.float32),
    jax.ShapeDtypeStruct(spectrogram, jnp.float32),
  )


@functools.partial(jax.jit, static_argnames="sizes")
def _offset_logits(
  variables: dict[str, Any], video: jax.Array, wave: jax.Array, sizes: Sizes
) -> jax.Array:
  segments = 1 + (video.shape[1] - _FRAMES) // _FRAME_STEP
  ends = np.arange(segments)
  if segments > 2 * SEGMENTS:
    ends = np.concatenate([ends[:SEGMENTS], ends[-SEGMENTS:]])
  of_video = ends[:, None] * _FRAME_STEP + np.arange(_FRAMES)
  of_wave = ends[:, None] * _SAMPLE_STEP + np.arange(_SAMPLES)
  with jax.default_matmul_precision("highest"):
    frames = preprocess_frames(video)[:, of_video]
    spectrogram = log_mel(wave[:, of_wave])
    # Flax's type allows for the tuple that `mutable` asks for.
    return Synchformer(sizes).apply(  # type: ignore[return-value]
      variables, frames, spectrogram
    )


def offset_logits(
  variables: dict[str, Any],
  video_uint8: jax.Array,
  wave: jax.Array,
  sizes: Sizes = Sizes(),
) -> jax.Array:
  """Logits of the offsets of sound and picture.

  Args:
    variables: from `convert_checkpoint(..., "synchformer")`.
    video_uint8: `[B, F, H, W, 3]` uint8 at 25 fps, F >= 120.
    wave: `[B, L]` float in [-1, 1] at 16 kHz, as long as the video.
    sizes: of the network.

  Returns:
    `[B, 2, 21]` float32: logits of `OFFSETS` for the first and for the last
    4.8 s.

  Raises:
    ValueError: on a wrong shape, type or clips that are too short.
  """
  shape, dtype = video_uint8.shape, video_uint8.dtype
  if len(shape) != 5 or shape[-1] != 3 or dtype != jnp.uint8:
    raise ValueError(
      "Synchformer takes uint8 video [B, F, H, W, 3], got "
      f"{dtype} {tuple(shape)}; convert with av.unit_to_uint8."
    )
  if np.ndim(wave) != 2:
    raise ValueError(
      f"Synchformer takes mono waves [B, L], got shape {np.shape(wave)}."
    )
  frames = min(shape[1], wave.shape[1] * FPS // SAMPLE_RATE)
  if frames < MIN_SECONDS * FPS:
    raise ValueError(
      f"Synchformer needs clips of at least {MIN_SECONDS} s, got "
      f"{frames / FPS} s; use longer ones (--duration)."
    )
  return _offset_logits(
    variables,
    video_uint8[:, :frames],
    jnp.asarray(wave, jnp.float32)[:, : frames * SAMPLE_RATE // FPS],
    sizes,
  )
