"""Super-resolution of whole clips, frame by frame in chunks of fixed size."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax import denoiser, sampling, sharding
from mmdiff_jax.av import uint8_to_unit, unit_to_uint8
from mmdiff_jax.training import checkpoint


def load_sampling_params(
  config: ConfigDict, path: str | os.PathLike, mesh: Mesh
) -> Any:
  """The averaged parameters of a checkpoint, split over the `fsdp` axis."""
  abstract = jax.eval_shape(
    denoiser.make_init_params(config), jax.random.key(0)
  )
  shardings = sharding.fsdp_sharded(mesh, abstract)
  return checkpoint.load_params(
    path, sharding.with_shardings(abstract, shardings)
  )


class Upscaler:
  """Upsamples clips with a trained super-resolution network.

  Attributes:
    config: the checkpoint's configuration with the run's `sample` and `sr`.
    factor: between low and high resolution.
    nfe: network evaluations per chunk of frames.
  """

  def __init__(self, path: str | os.PathLike, settings: ConfigDict, mesh: Mesh):
    """Loads a checkpoint.

    Args:
      path: of a super-resolution checkpoint.
      settings: the run's configuration: `sr` and `seed` are taken from it;
        the sampler is the checkpoint's.
      mesh: devices that share the frames.

    Raises:
      ValueError: if the checkpoint is not one of super-resolution.
    """
    config = checkpoint.load_config(path)
    if config.model.name != "sr_unet":
      raise ValueError(
        f"--sr_checkpoint={path} is a {config.model.name}; a super-resolution "
        "checkpoint (sr_unet) is needed."
      )
    config.sr.update(
      chunk_frames=settings.sr.chunk_frames,
      share_noise=settings.sr.share_noise,
    )
    self.config = config
    self.factor = config.sr.factor
    self.nfe = 0
    self._mesh = mesh
    self._chunk = -(-config.sr.chunk_frames // mesh.size) * mesh.size
    self._params = load_sampling_params(config, path, mesh)
    self._sample = sampling.make_sample_fn(config, mesh)
    self._rng = jax.random.fold_in(jax.random.key(settings.seed), 2)

  @property
  def low_size(self) -> tuple[int, int]:
    """Height and width of the frames that the network takes."""
    return denoiser.low_res_shape(self.config)[:2]

  def __call__(self, video: np.ndarray, index: int) -> np.ndarray:
    """Upsamples one clip.

    With `config.sr.share_noise` all frames start from one noise image (and
    draw the same noise on the way), which keeps static regions still.

    Args:
      video: uint8 `[F, h, w, 3]`.
      index: number of the clip, which seeds its noise.

    Returns:
      uint8 `[F, h * factor, w * factor, 3]`.
    """
    if video.shape[1:3] != self.low_size:
      raise ValueError(
        f"The super-resolution model takes frames of {self.low_size} pixels, "
        f"got {video.shape[1:3]}."
      )
    chunks = [
      self._upscale_chunk(video[start : start + self._chunk], index, start)
      for start in range(0, len(video), self._chunk)
    ]
    return np.concatenate(chunks)

  def _upscale_chunk(
    self, frames: np.ndarray, index: int, start: int
  ) -> np.ndarray:
    count = len(frames)
    # The last chunk is filled up, so that one program serves all.
    padded = np.concatenate(
      [frames, np.repeat(frames[-1:], self._chunk - count, axis=0)]
    )
    if self.config.sr.share_noise:
      seeds = np.zeros(self._chunk, np.int32)
    else:
      seeds = start + np.arange(self._chunk, dtype=np.int32)
    split = sharding.batch_sharded(self._mesh)
    x, nfe = self._sample(
      self._params,
      jax.random.fold_in(self._rng, index),
      jax.device_put(jnp.asarray(seeds), split),
      low_res=jax.device_put(uint8_to_unit(padded), split),
    )
    self.nfe = int(nfe)
    return unit_to_uint8(jax.device_get(x["image"]))[:count]
