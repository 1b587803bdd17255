"""Samples of the averaged model, written while training."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax import sharding, task
from mmdiff_jax.av import unit_to_uint8
from mmdiff_jax.data import media_writer
from mmdiff_jax.sampling import sample_fn
from mmdiff_jax.sampling.sr_preview import make_sr_preview

Preview = Callable[[Any, int], Mapping[str, float]]


def make_preview(
  config: ConfigDict, mesh: Mesh, directory: pathlib.Path
) -> Preview:
  """Returns `preview(params, step)`, which samples and writes media files.

  The samples come from fixed seeds, so that the previews of a run show the
  same clips growing. Files land in `directory/<step>/`. The preview returns
  the scalars that it measures: those of `make_sr_preview` for
  super-resolution, none for clips, which have no truth to compare with.
  """
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.sample.update(
      sampler="ddim", steps=config.train.preview_steps, eta=0.0
    )
    for name in sample_fn.OPTIONS:
      if name not in ("steps", "eta"):
        config.sample[name] = None
  if config.model.name == "sr_unet":
    return make_sr_preview(config, mesh, directory)
  return _make_clip_preview(config, mesh, directory)


def _make_clip_preview(
  config: ConfigDict, mesh: Mesh, directory: pathlib.Path
) -> Preview:
  """Previews of the joint model: mp4 files and an animated grid."""
  count = -(-config.train.preview_samples // mesh.size) * mesh.size
  sample = sample_fn.make_sample_fn(config, mesh)
  rng = jax.random.fold_in(jax.random.key(config.seed), 1)
  spec = task.av_spec(config)

  def preview(params: Any, step: int) -> Mapping[str, float]:
    indices = jax.device_put(jnp.arange(count), sharding.batch_sharded(mesh))
    x, _ = sample(params, rng, indices)
    x = jax.device_get(jax.device_put(x, sharding.replicated(mesh)))
    if jax.process_index() != 0:
      return {}
    folder = directory / f"{step:08d}"
    video = unit_to_uint8(x["video"])
    audio = np.clip(x["audio"], -1.0, 1.0)
    for i in range(config.train.preview_samples):
      media_writer.write_mp4(
        folder / f"sample_{i:02d}.mp4",
        video[i],
        audio[i],
        fps=spec.fps,
        sample_rate=spec.sample_rate,
      )
    media_writer.write_gif_grid(
      folder / "grid.gif", video[: config.train.preview_samples], fps=spec.fps
    )
    return {}

  return preview
