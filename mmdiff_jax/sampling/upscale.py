"""Super-resolution of whole clips, frame by frame in chunks of fixed size."""

import logging
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax import checkpoint
from mmdiff_jax.av import uint8_to_unit, unit_to_uint8
from mmdiff_jax.devices import sharding
from mmdiff_jax.devices.memory import DoesNotFitError
from mmdiff_jax.devices.mesh import make_mesh
from mmdiff_jax.disk.files import as_path, check_directory, local_copy
from mmdiff_jax.disk.leftovers import remove_leftovers
from mmdiff_jax.media import reading, writing
from mmdiff_jax.media.files import find_media
from mmdiff_jax.sampling.parameters import load_sampling_params
from mmdiff_jax.sampling.sample_fn import (
  inherit_sampler,
  make_configured_sampler,
)
from mmdiff_jax.sampling.stepwise import WatchedSampler
from mmdiff_jax.task import make_task

_log = logging.getLogger(__name__)

# Keys of `config.sample` that say nothing of frames which stand alone.
_WITHOUT_EFFECT = (
  "batch_size",
  "cfg_scale",
  "cfg_interval",
  "coupling_video",
  "coupling_audio",
  "sequence",
  "condition_method",
  "guidance_scale",
  "resample_repeats",
  "resample_jump",
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
    mesh: Mesh | None = None,
    seed: int = 0,
    force: bool = False,
  ):
    """Loads a checkpoint.

    Args:
      path: of a super-resolution checkpoint.
      settings: the run's configuration: of `sr` the keys `chunk_frames`,
        `share_noise` and `sample` (which overrides the checkpoint's sampler)
        are taken from it.
      mesh: devices that share the frames; None is all of them.
      seed: of the noise.
      force: start programs that seem too large for the memory, too.

    Raises:
      ValueError: if the checkpoint is not one of super-resolution, or an
        option makes no sense.
    """
    config = checkpoint.load_config(path)
    mesh = make_mesh() if mesh is None else mesh
    task = make_task(config, mesh)
    if task.x.keys() != {"image"} or task.inputs.keys() != {"low_res"}:
      raise ValueError(
        f"--sr_checkpoint={path} holds {config.model.name}; a super-resolution "
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
    config.sample = _merge_sampler(config.sample, settings.sr.sample)
    make_configured_sampler(task, config.sample)
    self.config = config
    self.factor = config.sr.factor
    self.nfe = 0
    self._mesh, self._force = mesh, force
    self._params = load_sampling_params(task, path, mesh)
    self._network = task.network
    self._samplers: dict[tuple[int, int], WatchedSampler] = {}
    self._rng = jax.random.fold_in(jax.random.key(seed), 2)

  def check_size(self, height: int, width: int) -> None:
    """Raises ValueError unless frames of that size can be upsampled."""
    try:
      self._network.check_shapes(
        self._network.declare(self._resized(height, width))[0]
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
      DoesNotFitError: if that needs more memory than there is.
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
    x, self.nfe = self._sampler(*frames.shape[1:3])(
      self._params,
      jax.random.fold_in(self._rng, index),
      jax.device_put(jnp.asarray(seeds), split),
      inputs={"low_res": jax.device_put(uint8_to_unit(padded), split)},
    )
    return unit_to_uint8(jax.device_get(x["image"]))[:count]

  def _resized(self, height: int, width: int) -> ConfigDict:
    """The configuration for frames of another (low) size."""
    config = self.config.copy_and_resolve_references()
    config.data.height, config.data.width = (
      height * self.factor,
      width * self.factor,
    )
    return config

  def _sampler(self, height: int, width: int) -> WatchedSampler:
    """The sampler of frames of that (low) size."""
    if (height, width) not in self._samplers:
      config = self._resized(height, width)
      self._samplers[height, width] = WatchedSampler(
        make_task(config, self._mesh),
        config.sample,
        self._mesh,
        self._force,
        [
          f"a smaller config.sr.chunk_frames (now {config.sr.chunk_frames})",
          f"smaller frames (now {height}x{width})",
        ],
      )
    return self._samplers[height, width]


def _merge_sampler(trained: ConfigDict, run: ConfigDict) -> ConfigDict:
  """The sampler of a checkpoint under the keys set in `config.sr.sample`.

  With another sampler the checkpoint's options go: they belong to its own.

  Raises:
    ValueError: for a key that has no effect on single frames.
  """
  for name in _WITHOUT_EFFECT:
    if run[name] is not None:
      raise ValueError(
        f"config.sr.sample.{name}={run[name]} has no effect on single frames; "
        "leave it out."
      )
  asked = {name: value for name, value in run.items() if value is not None}
  return ConfigDict(inherit_sampler(trained, asked) | {"cfg_scale": None})


def upscale(
  config: ConfigDict,
  *,
  sr_checkpoint: str,
  source: str,
  output: str,
  seed: int,
  force: bool = False,
) -> list[pathlib.Path]:
  """Upsamples a video file, or all of a folder, and keeps their sound.

  Frames are taken at the file's own size. Frame rate and sound stay those of
  the file (the sound is encoded anew; more than two channels become one).

  Args:
    config: its sections `sr` and `mesh` apply.
    sr_checkpoint: a super-resolution checkpoint.
    source: a video file, or a folder that is searched with those below it.
      There, what cannot be upsampled is left out with a warning.
    output: folder that receives `<name>_<height>.mp4` of each, in folders as
      those of `source`.
    seed: of the noise, which is the same for every file: alone or in a
      folder, a video comes out the same.
    force: start programs that seem too large for the memory, too.

  Returns:
    The paths of the mp4 files.

  Raises:
    DoesNotFitError: if a file's frames need more memory than there is.
    ValueError: if the file cannot be read, or has frames of a size that the
      network cannot take; for a folder, if that is so of all its files, or
      two of them would be written to one place.
    NotADirectoryError: if `output` is a file.
  """
  check_directory(output)
  videos = _find_videos(source)
  remove_leftovers(output)
  mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
  upscaler = Upscaler(sr_checkpoint, config, mesh, seed, force)
  if videos is None:
    stem = pathlib.Path(source).stem
    return [_upscale_file(upscaler, source, as_path(output) / stem)]
  paths = []
  for name, path in videos.items():
    try:
      target = as_path(output) / name.rpartition(".")[0]
      paths.append(_upscale_file(upscaler, path, target))
    except (ValueError, DoesNotFitError) as error:
      _log.warning("Left out: %s", error)
  if not paths:
    raise ValueError(f"--source={source}: none of its videos can be upsampled.")
  return paths


def _find_videos(source: str) -> dict[str, str] | None:
  """The videos of a folder by name, or None if it is a file."""
  if not as_path(source).is_dir():
    return None
  named, left_out = find_media(source)
  for name, reason in left_out:
    _log.warning("Left out: %s: %s.", name, reason)
  if not named:
    raise ValueError(f"--source={source}: no video below it.")
  taken: dict[str, str] = {}
  for name, _ in named:
    stem = name.rpartition(".")[0]
    if stem in taken:
      raise ValueError(
        f"--source={source}: {taken[stem]} and {name} would have the same name "
        "as mp4; rename one of them."
      )
    taken[stem] = name
  return dict(named)


def _upscale_file(
  upscaler: Upscaler, source: str, target: pathlib.Path
) -> pathlib.Path:
  """Writes the large video to `target`, to whose name its height is added."""
  with local_copy(source) as file:
    clip = reading.read_media(file, channels="all")
  audio = clip.audio
  if audio is not None and audio.shape[1] > 2:
    _log.warning("%s: %d channels become one.", source, audio.shape[1])
    audio = audio.mean(axis=1, keepdims=True)
  large = upscaler(clip.video, 0)
  path = target.parent / f"{target.name}_{large.shape[1]}.mp4"
  writing.write_mp4(
    path, large, audio, fps=clip.fps, sample_rate=clip.sample_rate
  )
  _log.info("Wrote %s.", path)
  return path
