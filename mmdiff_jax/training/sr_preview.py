"""Comparisons that super-resolution writes while training."""

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax.av import uint8_to_unit, unit_to_uint8
from mmdiff_jax.devices import sharding
from mmdiff_jax.media import image_quality, transforms, writing
from mmdiff_jax.sampling.sample_fn import make_sample_fn
from mmdiff_jax.task import Task
from mmdiff_jax.training.divergence import check_samples
from mmdiff_jax.training.shown import Shown


def make_image_preview(
  task: Task,
  settings: ConfigDict,
  config: ConfigDict,
  mesh: Mesh,
  directory: pathlib.Path,
) -> Callable[[Any, int], Shown]:
  """Returns `preview(params, step)`, which upsamples held-out images.

  The images are `config.train.preview_samples` crops of the held-out videos
  (of all videos where none are held out), the same in every preview, degraded
  as in training. `directory/<step>/sample_<i>.png` shows them side by side:
  low resolution, bicubic, ours, truth.

  Args:
    task: super-resolution.
    settings: the sampler, as in `config.sample`.
    config: of the run.
    mesh: devices that share the images.
    directory: receives a folder per preview.

  Returns:
    A function to the pictures and the scalars `psnr` (dB) and `sharpness` (of
    the truth's), and the same of bicubic upsampling with suffix `_bicubic`.
  """
  wanted = config.train.preview_samples
  count = -(-wanted // mesh.size) * mesh.size
  truth, low = held_out_pairs(config, count)
  height, width = truth.shape[1:3]
  bicubic = np.stack([transforms.resize_bicubic(x, height, width) for x in low])
  sample = make_sample_fn(task, settings, mesh)
  rng = jax.random.fold_in(jax.random.key(config.seed), 1)
  split = sharding.batch_sharded(mesh)

  def preview(params: Any, step: int) -> Shown:
    x, _ = sample(
      params,
      rng,
      jax.device_put(jnp.arange(count), split),
      inputs={"low_res": jax.device_put(uint8_to_unit(low), split)},
    )
    x = jax.device_get(jax.device_put(x, sharding.replicated(mesh)))
    check_samples(x)
    ours = unit_to_uint8(x["image"])
    pictures = {
      f"preview/sample_{i:02d}": side_by_side(
        low[i], bicubic[i], ours[i], truth[i]
      )
      for i in range(wanted)
    }
    if jax.process_index() == 0:
      folder = directory / f"{step:08d}"
      for name, panels in pictures.items():
        writing.write_png(folder / f"{name.split('/')[1]}.png", panels)
    scalars = {
      name + suffix: measure(images[:wanted], truth[:wanted])
      for name, measure in (
        ("psnr", image_quality.psnr),
        ("sharpness", image_quality.sharpness),
      )
      for suffix, images in (("", ours), ("_bicubic", bicubic))
    }
    return Shown(scalars, pictures)

  return preview


def held_out_pairs(
  config: ConfigDict, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Reads images of the held-out videos and degrades them as in training.

  Args:
    config: its sections `data` and `sr` and its seed determine the images.
    count: how many.

  Returns:
    uint8 `[N, H, W, 3]` and `[N, H / factor, W / factor, 3]`.
  """
  # Late: only the data pipeline needs grain.
  from mmdiff_jax.data import pipeline, views

  loader = pipeline.create_loader(
    config.data,
    view="images",
    names=["image", "low_res"],
    sr=config.sr,
    batch_size=count,
    seed=config.seed,
    train=False,
  )
  with contextlib.closing(loader):
    batch = next(loader)
  degrade = views.Degradation.from_config(config.sr)
  rng = np.random.default_rng(config.seed)
  low = unit_to_uint8(batch["low_res"])
  return batch["image"], np.stack([degrade(image, rng) for image in low])


def side_by_side(
  low: np.ndarray, bicubic: np.ndarray, ours: np.ndarray, truth: np.ndarray
) -> np.ndarray:
  """Joins four pictures of an image; `low` is enlarged without smoothing.

  Args:
    low: uint8 `[h, w, 3]`.
    bicubic: uint8 `[H, W, 3]`.
    ours: like `bicubic`.
    truth: like `bicubic`.

  Returns:
    uint8 `[H, 4 W, 3]`.
  """
  rows, columns = (
    large // small
    for large, small in zip(truth.shape[:2], low.shape[:2], strict=True)
  )
  enlarged = low.repeat(rows, axis=0).repeat(columns, axis=1)
  return np.concatenate([enlarged, bicubic, ours, truth], axis=1)
