"""Super-resolution of whole clips, frame by frame in chunks of fixed size."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax import checkpoint, models, sharding, task
from mmdiff_jax.av import uint8_to_unit, unit_to_uint8
from mmdiff_jax.sampling import sample_fn


def load_sampling_params(
  config: ConfigDict, path: str | os.PathLike, mesh: Mesh
) -> Any:
  """The averaged parameters of a checkpoint, split over the `fsdp` axis."""
  abstract = jax.eval_shape(task.make_init_params(config), jax.random.key(0))
  shardings = sharding.fsdp_sharded(mesh, abstract)
  return checkpoint.load_params(
    path, sharding.with_shardings(abstract, shardings)
  )


class Upscaler:
  """Upsamples clips with a trained super-resolution network.

  The network is convolutional: frames may be larger or smaller than those
  that it was trained on.

  Attributes:
    config: the checkpoint's configuration with the run's `sr`; its `sample`
      is the sampler in use.
    factor: between low and high resolution.
    nfe: network evaluations per chunk of frames, known after the first clip.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    settings: ConfigDict,
    mesh: Mesh,
    seed: int,
  ):
    """Loads a checkpoint.

    Args:
      path: of a super-resolution checkpoint.
      settings: the run's configuration: of `sr` the keys `chunk_frames`,
        `share_noise` and `sample` (which overrides the checkpoint's sampler)
        are taken from it.
      mesh: devices that share the frames.
      seed: of the noise.

    Raises:
      ValueError: if the checkpoint is not one of super-resolution, or an
        option makes no sense.
    """
    config = checkpoint.load_config(path)
    if config.model.name != "sr_unet":
      raise ValueError(
        f"--sr_checkpoint={path} is a {config.model.name}; a super-resolution "
        "checkpoint (sr_unet) is needed."
      )
    if settings.sr.chunk_frames < 1:
      raise ValueError(
        f"config.sr.chunk_frames={settings.sr.chunk_frames} must be positive."
      )
    config.sr.update(
      chunk_frames=settings.sr.chunk_frames,
      share_noise=settings.sr.share_noise,
    )
    _override_sampler(config.sample, settings.sr.sample)
    sample_fn.make_configured_sampler(config)
    self.config = config
    self.factor = config.sr.factor
    self.nfe = 0
    self._mesh = mesh
    self._params = load_sampling_params(config, path, mesh)
    self._sample_fns: dict[tuple[int, int], sample_fn.SampleFn] = {}
    self._rng = jax.random.fold_in(jax.random.key(seed), 2)

  def check_size(self, height: int, width: int) -> None:
    """Raises ValueError unless frames of that size can be upsampled."""
    try:
      models.validate(
        self.config.model, (height * self.factor, width * self.factor, 3)
      )
    except ValueError as error:
      raise ValueError(
        f"Frames of {height}x{width} pixels cannot be upsampled by "
        f"{self.factor}: {error}"
      ) from error

  def __call__(self, video: np.ndarray, index: int) -> np.ndarray:
    """Upsamples one clip.

    With `config.sr.share_noise` all frames start from one noise image (and
    draw the same noise on the way), which keeps static regions still.
    Neither the chunks nor the devices change the result.

    Args:
      video: uint8 `[F, h, w, 3]`.
      index: number of the clip, which seeds its noise.

    Returns:
      uint8 `[F, h * factor, w * factor, 3]`.

    Raises:
      ValueError: if the network cannot take frames of that size.
    """
    if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8:
      raise ValueError(
        f"A clip must be uint8 [F, h, w, 3], got {video.dtype} {video.shape}."
      )
    self.check_size(*video.shape[1:3])
    chunk = min(len(video), self.config.sr.chunk_frames)
    chunk = -(-chunk // self._mesh.size) * self._mesh.size
    chunks = [
      self._upscale_chunk(video[start : start + chunk], chunk, index, start)
      for start in range(0, len(video), chunk)
    ]
    return np.concatenate(chunks)

  def _upscale_chunk(
    self, frames: np.ndarray, size: int, index: int, start: int
  ) -> np.ndarray:
    count = len(frames)
    # The last chunk is filled up, so that one program serves all.
    padded = np.concatenate(
      [frames, np.repeat(frames[-1:], size - count, axis=0)]
    )
    if self.config.sr.share_noise:
      seeds = np.zeros(size, np.int32)
    else:
      seeds = start + np.arange(size, dtype=np.int32)
    split = sharding.batch_sharded(self._mesh)
    x, nfe = self._sample_fn(frames.shape[1:3])(
      self._params,
      jax.random.fold_in(self._rng, index),
      jax.device_put(jnp.asarray(seeds), split),
      low_res=jax.device_put(uint8_to_unit(padded), split),
    )
    self.nfe = int(np.max(jax.device_get(nfe)))
    return unit_to_uint8(jax.device_get(x["image"]))[:count]

  def _sample_fn(self, size: tuple[int, int]) -> sample_fn.SampleFn:
    """The jitted sampler of frames of `size` (height, width), low."""
    if size not in self._sample_fns:
      config = self.config.copy_and_resolve_references()
      config.data.height, config.data.width = (n * self.factor for n in size)
      self._sample_fns[size] = sample_fn.make_sample_fn(config, self._mesh)
    return self._sample_fns[size]


def _override_sampler(target: ConfigDict, overrides: ConfigDict) -> None:
  """Puts the keys that are set in `config.sr.sample` over a checkpoint's.

  With another sampler the checkpoint's options go: they belong to its own.
  """
  if overrides.sampler not in (None, target.sampler):
    for name in sample_fn.OPTIONS:
      target[name] = None
    target.sampler = overrides.sampler
  for name in sample_fn.OPTIONS:
    if overrides[name] is not None:
      target[name] = overrides[name]
