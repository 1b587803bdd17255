"""The coupled U-Net of MM-Diffusion (Ruan et al., CVPR 2023, section 3.2)."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdiff_jax.models import (
  av_blocks,
  checks,
  embedders,
  layers,
  levels,
  rs_mma,
)
from mmdiff_jax.models.attention import On
from mmdiff_jax.models.cpu import backward
from mmdiff_jax.models.plan import Layer, UNetPlan, make_plan
from mmdiff_jax.models.remat import rematerialised

Streams = tuple[jax.Array, jax.Array]


class AVUNet(nn.Module):
  """Predicts the noise of video and audio jointly.

  The fields are the keys of `config.model`; their defaults are the release's.
  """

  model_channels: int = 128
  channel_mult: tuple[int, ...] = (1, 2, 3, 4)
  num_res_blocks: int = 2
  num_heads: int = 4
  num_head_channels: int | None = 64
  video_attention_resolutions: tuple[int, ...] = (2, 4, 8)
  audio_attention_resolutions: tuple[int, ...] = ()
  cross_attention_resolutions: tuple[int, ...] = (2, 4, 8)
  cross_attention_windows: tuple[int, ...] = (1, 4, 8)
  cross_attention_shift: bool = True
  middle_cross_attention: bool = True
  use_scale_shift_norm: bool = True
  learn_sigma: bool = False
  dropout: float = 0.1
  dtype: str = "bfloat16"
  remat: str = "none"
  attention: str | On = "auto"
  num_classes: int = 0
  text_dim: int = 0
  embedding_dim: int = 0
  kernels: str = "auto"

  def plan(self) -> UNetPlan:
    """The layers of this network; "attention" layers are RS-MMA blocks."""
    return make_plan(
      self.model_channels,
      self.channel_mult,
      self.num_res_blocks,
      self.cross_attention_resolutions,
      attention_name="cross",
      middle_attention=self.middle_cross_attention,
    )

  def window(self, layer: Layer, frames: int) -> int:
    """Frames per window of an RS-MMA block."""
    if layer.name.startswith("middle"):
      return frames
    place = self.cross_attention_resolutions.index(layer.ds)
    return self.cross_attention_windows[place]

  def max_shifts(self, frames: int) -> tuple[int, ...]:
    """Largest shift, F - w, of every RS-MMA block in forward order."""
    return tuple(
      frames - self.window(layer, frames)
      for layer in self.plan().layers
      if layer.kind == "attention"
    )

  def input_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Smallest shapes `(F, H, W, C)` and `(L, C)` that the network accepts."""
    levels = len(self.channel_mult) - 1
    frames = max((*self.cross_attention_windows, 1))
    size = 2**levels
    return (frames, size, size, 3), (frames * 4**levels, 1)

  def check_config(self) -> None:
    """Raises ValueError where the fields make no sense together."""
    checks.check_unet(self)
    checks.check_coupling(self)

  def check_shapes(
    self, video_shape: Sequence[int], audio_shape: Sequence[int]
  ) -> None:
    """Raises ValueError where the network cannot take such clips.

    Args:
      video_shape: `[..., F, H, W, C]`.
      audio_shape: `[..., L, C]`.
    """
    checks.check_clip(self, video_shape, audio_shape)

  @nn.compact
  def __call__(
    self,
    video: jax.Array,
    audio: jax.Array,
    t: levels.Levels,
    shifts: Sequence[int | jax.Array] | None = None,
    train: bool = False,
    inputs: embedders.Inputs | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Predicts the noise (and variance) of a batch of clips.

    Args:
      video: `[B, F, H, W, C]`.
      audio: `[B, L, C]`.
      t: step indices `[B]`, or by stream (`"video"`, `"audio"`) `[B]` or
        `[B, F]`; of the sound that of a frame is what belongs to it.
      shifts: one per RS-MMA block in forward order, the middle one (always 0)
        included; may be traced. None draws them from the RNG stream `window`,
        or takes 0 where that stream is not given.
      train: turns dropout on (RNG stream `dropout`).
      inputs: what else it is told, `[B, ...]` by name (see `models.embedders`);
        what is missing is withheld from the whole batch.

    Returns:
      float32 arrays like `video` and `audio`, with twice the channels where
      `learn_sigma`.

    Raises:
      ValueError: shapes, shifts or inputs that do not fit the configuration.
    """
    self.check_shapes(video.shape, audio.shape)
    shapes = {"video": video.shape, "audio": audio.shape}
    levels.check_levels(t, "frame", shapes)
    embedders.check(self, inputs or {}, video.shape[0])
    layout = self.plan()
    frames = video.shape[1]
    channels = video.shape[-1], audio.shape[-1]
    next_shift = iter(self._shifts(shifts, frames))
    emb = self._embedding(t, inputs or {}, video.shape[0])

    def run(layer: Layer, h: Streams) -> Streams:
      args: tuple[jax.Array, ...] = h
      options: dict[str, Any] = {}
      if layer.kind == "attention":
        block = self._cross(layer, frames)
        options["shift"] = next(next_shift)
        remat = self.remat != "none"
      else:
        block = self._block(layer, train)
        args = (*h, emb)
        remat = self.remat in ("blocks", "products")
      if train and self.kernels == "cpu":
        return backward.in_turn(block, *args, remat=remat, **options)
      return block(*args, **options)

    h = self._stem(video, audio)
    skips = [h]
    for cell in layout.down:
      for layer in cell:
        h = run(layer, h)
      skips.append(h)
    for layer in layout.middle:
      h = run(layer, h)
    for cell in layout.up:
      skip = skips.pop()
      h = (
        jnp.concatenate([h[0], skip[0]], -1),
        jnp.concatenate([h[1], skip[1]], -1),
      )
      for layer in cell:
        h = run(layer, h)
    return self._heads(*h, channels)

  def _shifts(
    self, shifts: Sequence[int | jax.Array] | None, frames: int
  ) -> list[int | jax.Array]:
    """The shift of every RS-MMA block in forward order."""
    limits = self.max_shifts(frames)
    if shifts is not None:
      checks.check_shifts(shifts, limits)
      return list(shifts)
    if not (self.cross_attention_shift and self.has_rng("window")):
      return [0] * len(limits)
    drawn = jax.random.randint(
      self.make_rng("window"), (len(limits),), 0, jnp.array(limits) + 1
    )
    return [drawn[i] if limit else 0 for i, limit in enumerate(limits)]

  def _embedding(
    self, t: levels.Levels, inputs: embedders.Inputs, batch: int
  ) -> Any:
    """Embeds times and adds the embeddings of the inputs: `[..., E]`."""
    width = self.model_channels
    embed_time = layers.TimeEmbedding(
      width, width, self.kernels, name="time_embedding"
    )
    emb = jax.tree.map(embed_time, dict(t) if isinstance(t, Mapping) else t)
    for one in embedders.embed(self, inputs, batch, width):
      emb = jax.tree.map(
        lambda e, one=one: e + (one if e.ndim == 2 else one[:, None]), emb
      )
    return emb

  def _stem(self, video: jax.Array, audio: jax.Array) -> Streams:
    width, how = self.model_channels, layers.inherited(self)
    video_stem = av_blocks.VideoConv(width, **how, name="video_stem")
    audio_stem = layers.Conv(width, (3,), **how, name="audio_stem")
    return video_stem(video), audio_stem(audio)

  def _block(self, layer: Layer, train: bool) -> nn.Module:
    block = rematerialised(av_blocks.MMBlock, self.remat)
    attention: Any = layers.SelfAttention
    if self.remat == "attention":
      attention = rematerialised(attention, self.remat, attention=True)
    middle = layer.name.startswith("middle")
    inner = not layer.resample
    return block(
      features=layer.channels,
      dilation=2 ** (layer.dilation_power % 10),
      resample=layer.resample,
      video_attention=middle
      or (inner and layer.ds in self.video_attention_resolutions),
      audio_attention=middle
      or (inner and layer.ds in self.audio_attention_resolutions),
      num_heads=self.num_heads,
      use_scale_shift_norm=self.use_scale_shift_norm,
      dropout=self.dropout if train else 0.0,
      attention=self.attention,
      attention_cls=attention,
      **layers.inherited(self),
      name=layer.name,
    )

  def _cross(self, layer: Layer, frames: int) -> nn.Module:
    cross = rematerialised(rs_mma.RSMMA, self.remat, attention=True)
    return cross(
      window=self.window(layer, frames),
      head_channels=self.num_head_channels or layer.channels // self.num_heads,
      attention=self.attention,
      **layers.inherited(self),
      name=layer.name,
    )

  def _heads(
    self, video: jax.Array, audio: jax.Array, channels: tuple[int, int]
  ) -> Streams:
    how = layers.inherited(self)
    outputs = 2 if self.learn_sigma else 1
    video_head = av_blocks.VideoHead(
      channels[0] * outputs, **how, name="video_head"
    )
    audio_head = layers.Conv(
      channels[1] * outputs, (3,), zero_init=True, **how, name="audio_head"
    )
    video, audio = (
      layers.GroupNorm(activate=True, **how, name=f"{name}_norm")(x)
      for name, x in (("video", video), ("audio", audio))
    )
    video, audio = video_head(video), audio_head(audio)
    return video.astype(jnp.float32), audio.astype(jnp.float32)
