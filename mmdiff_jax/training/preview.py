"""Samples of the averaged model, written while training."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax.av import unit_to_uint8
from mmdiff_jax.devices import sharding
from mmdiff_jax.media import writing
from mmdiff_jax.sampling.sample_fn import make_sample_fn, sampler_alone
from mmdiff_jax.task import Task
from mmdiff_jax.training.divergence import check_samples
from mmdiff_jax.training.shown import Shown
from mmdiff_jax.training.sr_preview import make_image_preview

Preview = Callable[[Any, int], Shown]


def make_preview(
  task: Task, config: ConfigDict, mesh: Mesh, directory: pathlib.Path
) -> Preview:
  """Returns `preview(params, step)`, which samples and writes media files.

  The samples come from fixed seeds, so that the previews of a run show the
  same clips growing. Files land in `directory/<step>/`. The preview returns
  what it shows; of clips, which have no truth to compare with, no scalars.

  Args:
    task: what is sampled.
    config: of the run; its section `train` says how many samples and steps.
    mesh: devices that share the samples.
    directory: receives a folder per preview.
  """
  settings = config.sample.copy_and_resolve_references()
  with settings.unlocked():
    settings.update(
      sampler_alone("ddim", steps=config.train.preview_steps, eta=0.0)
    )
    settings.update(dict.fromkeys(("cfg_scale", "cfg_interval")))
  views = {"clips": _make_clip_preview, "images": make_image_preview}
  return views[task.network.view](task, settings, config, mesh, directory)


def _make_clip_preview(
  task: Task,
  settings: ConfigDict,
  config: ConfigDict,
  mesh: Mesh,
  directory: pathlib.Path,
) -> Preview:
  """Previews of clips: mp4 files and an animated grid."""
  wanted = config.train.preview_samples
  count = -(-wanted // mesh.size) * mesh.size
  sample = make_sample_fn(task, settings, mesh)
  rng = jax.random.fold_in(jax.random.key(config.seed), 1)
  spec = task.spec

  def preview(params: Any, step: int) -> Shown:
    indices = jax.device_put(jnp.arange(count), sharding.batch_sharded(mesh))
    x, _ = sample(params, rng, indices)
    x = jax.device_get(jax.device_put(x, sharding.replicated(mesh)))
    check_samples(x)
    if jax.process_index() != 0:
      return Shown()
    folder = directory / f"{step:08d}"
    video = unit_to_uint8(x["video"])
    audio = np.clip(x["audio"], -1.0, 1.0)
    for i in range(wanted):
      writing.write_mp4(
        folder / f"sample_{i:02d}.mp4",
        video[i],
        audio[i],
        fps=spec.fps,
        sample_rate=spec.sample_rate,
      )
    writing.write_gif_grid(folder / "grid.gif", video[:wanted], fps=spec.fps)
    # Late: only previews need what draws them.
    from mmdiff_jax.media.rendering import render_clip

    # TensorBoard shows one kind of value by a name.
    return Shown(
      pictures={
        f"preview/sample_{i:02d}": np.asarray(
          render_clip(video[i], audio[i], spec.sample_rate)
        )
        for i in range(wanted)
      },
      sounds={f"sound/sample_{i:02d}": audio[i] for i in range(wanted)},
      sample_rate=spec.sample_rate,
    )

  return preview
