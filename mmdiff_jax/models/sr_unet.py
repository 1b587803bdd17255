"""The super-resolution U-Net: one image at a time, given its small version."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mmdiff_jax.models import checks, layers, levels
from mmdiff_jax.models.attention import On
from mmdiff_jax.models.cpu import backward
from mmdiff_jax.models.plan import Layer, UNetPlan, make_plan
from mmdiff_jax.models.remat import rematerialised

_FACTORS = (2, 2)


class ResBlock(nn.Module):
  """Residual block of images that resamples between SiLU and convolution.

  Attributes:
    features: output channels.
    resample: "", "down" or "up".
    use_scale_shift_norm: the time embedding scales and shifts the second
      norm's output; otherwise it is added ahead of that norm.
    dropout: rate; 0 when not training.
    dtype: compute type.
    kernels: see `ops`.
  """

  features: int
  resample: str = ""
  use_scale_shift_norm: bool = True
  dropout: float = 0.0
  dtype: DTypeLike = jnp.float32
  kernels: str = "auto"

  @nn.compact
  def __call__(self, x: jax.Array, emb: jax.Array) -> jax.Array:
    """Maps `[N, H, W, C]` and the embedding `[N, E]` to `features` channels."""
    how = layers.inherited(self)
    h = layers.GroupNorm(activate=True, **how, name="norm_in")(x)
    if self.resample:
      change = layers.downsample
      if self.resample == "up":
        change = layers.upsample
      h, x = change(h, _FACTORS), change(x, _FACTORS)
    h = layers.Conv(self.features, (3, 3), **how, name="conv_in")(h)

    width = self.features * (2 if self.use_scale_shift_norm else 1)
    dense = layers.Dense(width, kernels=self.kernels, name="embedding")
    emb = dense(nn.silu(emb))
    norm_out = layers.GroupNorm(activate=True, **how, name="norm_out")
    if self.use_scale_shift_norm:
      h = norm_out(h, *jnp.split(emb, 2, -1))
    else:
      h = norm_out(h + emb[:, None, None])
    h = nn.Dropout(self.dropout, deterministic=False)(h)
    h = layers.Conv(
      self.features, (3, 3), zero_init=True, **how, name="conv_out"
    )(h)
    if x.shape[-1] != self.features:
      x = layers.Dense(self.features, **how, name="skip")(x)
    return x + h


class SRUNet(nn.Module):
  """Predicts the noise of a high-resolution image from its small version.

  The fields are keys of `config.model`; their defaults are the release's.
  """

  model_channels: int = 192
  channel_mult: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
  num_res_blocks: int = 2
  num_heads: int = 4
  attention_resolutions: tuple[int, ...] = (8, 16, 32)
  use_scale_shift_norm: bool = True
  learn_sigma: bool = True
  dropout: float = 0.0
  dtype: str = "bfloat16"
  remat: str = "none"
  attention: str | On = "auto"
  kernels: str = "auto"

  def plan(self) -> UNetPlan:
    """The layers of this network."""
    return make_plan(
      self.model_channels,
      self.channel_mult,
      self.num_res_blocks,
      self.attention_resolutions,
      attention_name="attention",
      middle_attention=True,
    )

  def input_shapes(self) -> tuple[tuple[int, ...]]:
    """Smallest shape `(H, W, C)` that the network accepts."""
    size = 2 ** (len(self.channel_mult) - 1)
    return ((size, size, 3),)

  def check_config(self) -> None:
    """Raises ValueError where the fields make no sense together."""
    checks.check_unet(self)
    checks.check_resolutions(self, "attention_resolutions")
    checks.check_self_attention(self, self.attention_resolutions)

  def check_shapes(
    self,
    image_shape: Sequence[int],
    low_res_shape: Sequence[int] | None = None,
  ) -> None:
    """Raises ValueError where the network cannot take such images.

    Args:
      image_shape: `[..., H, W, C]`.
      low_res_shape: `[..., h, w, C]`, or None if it is not known.
    """
    checks.check_images(self, image_shape, low_res_shape)

  @nn.compact
  def __call__(
    self,
    image: jax.Array,
    t: jax.Array,
    low_res: jax.Array | None = None,
    train: bool = False,
  ) -> jax.Array:
    """Predicts the noise (and variance) of a batch of images.

    Args:
      image: noisy images `[N, H, W, C]`.
      t: step indices `[N]`.
      low_res: the small versions `[N, h, w, C]`; upsampled here, bilinearly
        with half-pixel centres.
      train: turns dropout on (RNG stream `dropout`).

    Returns:
      float32 `[N, H, W, C]`, with twice the channels where `learn_sigma`.

    Raises:
      ValueError: no `low_res`, or shapes that do not fit.
    """
    if low_res is None:
      raise ValueError(
        "The super-resolution network needs low_res=[N, h, w, C]."
      )
    self.check_shapes(image.shape, low_res.shape)
    levels.check_levels(t, "shared", {"image": image.shape})
    how, channels = layers.inherited(self), image.shape[-1]
    low_res = jax.image.resize(low_res, image.shape, "bilinear")
    h = jnp.concatenate([image, low_res.astype(image.dtype)], -1)
    width = self.model_channels
    h = layers.Conv(width, (3, 3), **how, name="stem")(h)
    emb = layers.TimeEmbedding(
      width, 4 * width, self.kernels, name="time_embedding"
    )(t)

    def run(layer: Layer, h: jax.Array) -> jax.Array:
      shape = h.shape
      args: tuple[jax.Array, ...]
      if layer.kind == "attention":
        block = self._attention(layer)
        args = (h.reshape(shape[0], -1, shape[-1]),)
        remat = self.remat != "none"
      else:
        block, args = self._block(layer, train), (h, emb)
        remat = self.remat in ("blocks", "products")
      if train and self.kernels == "cpu":
        h = backward.in_turn(block, *args, remat=remat)
      else:
        h = block(*args)
      return h.reshape(shape) if layer.kind == "attention" else h

    layout, skips = self.plan(), [h]
    for cell in layout.down:
      for layer in cell:
        h = run(layer, h)
      skips.append(h)
    for layer in layout.middle:
      h = run(layer, h)
    for cell in layout.up:
      h = jnp.concatenate([h, skips.pop()], -1)
      for layer in cell:
        h = run(layer, h)

    h = layers.GroupNorm(activate=True, **how, name="norm")(h)
    outputs = channels * (2 if self.learn_sigma else 1)
    head = layers.Conv(outputs, (3, 3), zero_init=True, **how, name="head")
    return head(h).astype(jnp.float32)

  def _block(self, layer: Layer, train: bool) -> nn.Module:
    block = rematerialised(ResBlock, self.remat)
    return block(
      features=layer.channels,
      resample=layer.resample,
      use_scale_shift_norm=self.use_scale_shift_norm,
      dropout=self.dropout if train else 0.0,
      **layers.inherited(self),
      name=layer.name,
    )

  def _attention(self, layer: Layer) -> nn.Module:
    attention = rematerialised(layers.SelfAttention, self.remat, attention=True)
    return attention(
      num_heads=self.num_heads,
      heads_first=True,
      attention=self.attention,
      **layers.inherited(self),
      name=layer.name,
    )
