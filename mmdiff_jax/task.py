"""The bridge between a configured network and training or sampling."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmdiff_jax import models
from mmdiff_jax.av import AVSpec

DenoiseFn = Callable[[Any, jax.Array, jax.Array], Any]


def make_denoise_fn(
  model: nn.Module,
  params: Any,
  *,
  low_res: jax.Array | None = None,
  train: bool = False,
) -> DenoiseFn:
  """Returns `denoise_fn(x_t, t, rng)` for a network and its parameters.

  Args:
    model: a module of `models.create_model`.
    params: its parameters.
    low_res: `[N, h, w, 3]` in [-1, 1], for the super-resolution network.
    train: turns dropout on.

  Returns:
    A function of `x_t` (`{"video", "audio"}`, or `{"image"}` for the
    super-resolution network), the step index `t` `[B]` and one key, which
    seeds dropout and the window shifts; it returns a tree like `x_t`, with
    twice the channels where the network learns a variance.
  """

  def denoise_fn(x_t: Any, t: jax.Array, rng: jax.Array) -> Any:
    window_rng, dropout_rng = jax.random.split(rng)
    rngs = {"window": window_rng}
    if train:
      rngs["dropout"] = dropout_rng
    if "image" in x_t:
      image = model.apply(
        {"params": params},
        x_t["image"],
        t,
        low_res=low_res,
        train=train,
        rngs=rngs,
      )
      return {"image": image}
    video, audio = model.apply(
      {"params": params}, x_t["video"], x_t["audio"], t, train=train, rngs=rngs
    )
    return {"video": video, "audio": audio}

  return denoise_fn


def av_spec(config: ConfigDict) -> AVSpec:
  """The clip geometry of `config.data`."""
  data = config.data
  return AVSpec(
    frames=data.frames,
    height=data.height,
    width=data.width,
    fps=data.fps,
    sample_rate=data.sample_rate,
  )


def sample_shapes(config: ConfigDict) -> dict[str, tuple[int, ...]]:
  """Shapes of one sample, without batch axis, by modality."""
  spec = av_spec(config)
  if config.model.name == "sr_unet":
    return {"image": spec.video_shape[1:]}
  return {"video": spec.video_shape, "audio": spec.audio_shape}


def low_res_shape(config: ConfigDict) -> tuple[int, int, int]:
  """Shape of one low-resolution image, `(H / factor, W / factor, 3)`."""
  factor = config.sr.factor
  height, width = config.data.height, config.data.width
  if height % factor or width % factor:
    raise ValueError(
      f"config.sr.factor={factor} must divide config.data.height={height} "
      f"and config.data.width={width}."
    )
  return (height // factor, width // factor, 3)


def make_init_params(config: ConfigDict) -> Callable[[jax.Array], Any]:
  """Returns `init_params(rng)`, which initialises the configured network.

  Raises:
    ValueError: if network and clip geometry do not fit, before anything is
      traced.
  """
  shapes = sample_shapes(config)
  models.validate(config.model, *shapes.values())
  model = models.create_model(config.model)

  def init_params(rng: jax.Array) -> Any:
    inputs = [jnp.zeros((1, *shape)) for shape in shapes.values()]
    t = jnp.zeros((1,), jnp.int32)
    if config.model.name == "sr_unet":
      low_res = jnp.zeros((1, *low_res_shape(config)))
      variables = model.init(rng, *inputs, t, low_res=low_res)
    else:
      variables = model.init(rng, *inputs, t)
    return variables["params"]

  return init_params


def abstract_batch(config: ConfigDict, sharding: Any) -> dict[str, Any]:
  """Shapes and types of one training batch, as the loader yields it."""
  batch = config.train.batch_size

  def leaf(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((batch, *shape), dtype, sharding=sharding)

  shapes = sample_shapes(config)
  if config.model.name == "sr_unet":
    return {
      "image": leaf(shapes["image"], jnp.uint8),
      "low_res": leaf(low_res_shape(config), jnp.float32),
    }
  return {
    "video": leaf(shapes["video"], jnp.uint8),
    "audio": leaf(shapes["audio"], jnp.float32),
  }
