"""Synchformer: by how many seconds sound and picture of a clip are apart.

Iashin et al., arXiv 2401.16423. Segments of 0.64 s, every 0.32 s, go through a
transformer of frames (Motionformer with divided space-time attention, arXiv
2106.05392 and 2102.05095) and one of the spectrogram (AST, arXiv 2104.01778); a
third one reads both and tells offsets from -2 to 2 s. DeSync is the size of the
offset that it finds likeliest.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.metric_networks.synchformer_inputs import (
  BANDS,
  FPS,
  RESOLUTION,
  SAMPLE_RATE,
  TIMES,
  log_mel,
  preprocess_frames,
)
from mmdiff_jax.metric_networks.transformer import Block, layer_norm

# Seconds by which the sound is early, one for each logit.
OFFSETS = np.linspace(-2, 2, 21)
# Of one judgement.
SEGMENTS = 14
_FRAMES, _FRAME_STEP = 16, 8
_SAMPLES, _SAMPLE_STEP = 10240, 5120
MIN_SECONDS = ((SEGMENTS - 1) * _FRAME_STEP + _FRAMES) / FPS

# Frames, rows and columns of a patch of the picture, and patches of a segment.
_PATCH = (2, 16, 16)
_STEPS, _ROWS = _FRAMES // _PATCH[0], RESOLUTION // _PATCH[1]
# Of the spectrogram: overlapping patches of bands and frames.
_AUDIO_PATCH, _AUDIO_STRIDE = (16, 16), (10, 10)
_AUDIO_ROWS, _AUDIO_STEPS = ((side - 16) // 10 + 1 for side in (BANDS, TIMES))
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
      x = Block(heads, _PICTURE_EPS, divided=_STEPS, name=f"block_{i}")(x)
    x = layer_norm(_PICTURE_EPS, "norm")(x[:, 1:])
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
    x = layer_norm(_SOUND_EPS, "norm")(x[:, 2:])
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
    picture = layer_norm(_JOINT_EPS, "picture_norm")(picture)
    sound = layer_norm(_JOINT_EPS, "sound_norm")(sound)
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
    x = layer_norm(_JOINT_EPS, "norm")(x[:, 0])
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


def _parameter(
  module: nn.Module, name: str, count: int, width: int
) -> jax.Array:
  """Learnt tokens or positions, `[count, width]`."""
  return module.param(name, nn.initializers.normal(0.02), (count, width))


def _prepend(x: jax.Array, tokens: jax.Array) -> jax.Array:
  """Puts the same tokens `[K, D]` ahead of each of `[B, N, D]`."""
  ahead = jnp.broadcast_to(tokens, (len(x), *tokens.shape))
  return jnp.concatenate([ahead, x], axis=1)


def abstract_variables(sizes: Sizes = Sizes()) -> dict[str, Any]:
  """Shapes and dtypes of the variables, without computing any."""
  frames = (1, SEGMENTS, _FRAMES, RESOLUTION, RESOLUTION, 3)
  spectrogram = (1, SEGMENTS, TIMES, BANDS)
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
