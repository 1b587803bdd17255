"""Batches of samples of any length, with or without something given."""

import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax import sharding, task
from mmdiff_jax.av import unit_to_uint8
from mmdiff_jax.samplers import Condition
from mmdiff_jax.sampling import sample_fn
from mmdiff_jax.sampling.extend import extend
from mmdiff_jax.sampling.given import Job
from mmdiff_jax.sampling.upscale import load_sampling_params


class WindowSampler:
  """Samples of one clip's length, or longer ones window by window.

  Every window but the first is given the end of the one before it
  (`sampling.extend`), so that device memory does not grow with the duration.

  Attributes:
    spec: geometry of one window, the model's clip.
    total_frames: length of the samples.
    overlap_frames: frames that neighbouring windows share, and that the
      condition "continue" is given.
    nfe: network evaluations per sample, known after the first batch.
  """

  def __init__(
    self,
    config: ConfigDict,
    checkpoint: str | os.PathLike,
    mesh: Mesh,
    seed: int,
    duration: float | None = None,
    overlap: float | None = None,
  ):
    """Loads the averaged parameters and prepares the sampler.

    Args:
      config: the checkpoint's configuration with the run's `sample` section.
      checkpoint: where the parameters are.
      mesh: devices that share a batch.
      seed: of all samples.
      duration: seconds; None is one clip.
      overlap: seconds; None is half a clip.

    Raises:
      ValueError: for lengths that do not fit the model's clip, or options of
        conditioning that do not fit together.
    """
    self.spec = spec = task.av_spec(config)
    self.total_frames = spec.frames
    if duration is not None:
      self.total_frames = _to_frames("duration", duration, spec.fps)
    self.overlap_frames = spec.frames // 2
    if overlap is not None:
      self.overlap_frames = _to_frames("overlap", overlap, spec.fps)
    if self.total_frames < spec.frames:
      raise ValueError(
        f"--duration={duration} is shorter than the model's clip of "
        f"{spec.duration:g} s."
      )
    if not 2 <= self.overlap_frames < spec.frames:
      raise ValueError(
        f"An overlap of {self.overlap_frames} frames does not fit the model's "
        f"clip of {spec.frames}: give --overlap from {2 / spec.fps:g} to "
        f"{(spec.frames - 1) / spec.fps:g} s."
      )
    sharding.check_batch_size(
      mesh, config.sample.batch_size, "config.sample.batch_size"
    )
    self.nfe = 0
    self._batch_size = config.sample.batch_size
    self._options = condition_options(config.sample)
    self._split = sharding.batch_sharded(mesh)
    self._sample = sample_fn.make_sample_fn(config, mesh)
    self._params = load_sampling_params(config, checkpoint, mesh)
    self._rng = jax.random.key(seed)

  def known_frames(self, condition: str) -> int:
    """Length in frames of what a condition gives."""
    return self.overlap_frames if condition == "continue" else self.total_frames

  def __call__(self, jobs: Sequence[Job]) -> tuple[np.ndarray, np.ndarray]:
    """Samples a batch.

    Args:
      jobs: at most `config.sample.batch_size`, all with the same kind of
        source or all without.

    Returns:
      uint8 video `[N, F, H, W, 3]` and float32 audio `[N, L, 1]` in [-1, 1];
      what a source gives is in them as given.
    """
    # The last batch is filled up, so that one program serves all.
    padded = list(jobs) + [jobs[-1]] * (self._batch_size - len(jobs))
    indices = self._put(np.array([job.index for job in padded], np.int32))
    given = _stack_known(padded)
    evaluations = 0

    def sample_window(
      number: int, start: int, before: dict[str, np.ndarray] | None
    ) -> dict[str, np.ndarray]:
      nonlocal evaluations
      rng = jax.random.fold_in(self._rng, number)
      condition = self._condition(given, start, before)
      x, nfe = self._sample(self._params, rng, indices, condition)
      evaluations += int(np.max(jax.device_get(nfe)))
      return jax.device_get(x)

    if self.total_frames == self.spec.frames:
      pieces = [sample_window(0, 0, None)]
    else:
      pieces = extend(
        sample_window, self.spec, self.total_frames, self.overlap_frames
      )
    videos, audios = [], []
    for piece in pieces:
      videos.append(unit_to_uint8(piece["video"]))
      audios.append(piece["audio"])
    self.nfe = evaluations
    video, audio = np.concatenate(videos, 1), np.concatenate(audios, 1)
    # Cross-fades between windows round: what was given stays as given.
    if "video" in given:
      video[:, : given["video"].shape[1]] = unit_to_uint8(given["video"])
    if "audio" in given:
      audio[:, : given["audio"].shape[1]] = given["audio"]
    return video[: len(jobs)], np.clip(audio[: len(jobs)], -1.0, 1.0)

  def _condition(
    self,
    given: dict[str, np.ndarray],
    start: int,
    before: dict[str, np.ndarray] | None,
  ) -> Condition | None:
    """What a window that begins at frame `start` is given."""
    origins = {"video": start, "audio": self.spec.frames_to_samples(start)}
    lengths = {"video": self.spec.frames, "audio": self.spec.audio_length}
    known, mask = {}, {}
    for name, length in lengths.items():
      origin = origins[name]
      values = (before or {}).get(name)
      if name in given and given[name].shape[1] > origin:
        values = given[name][:, origin : origin + length]
      if values is None:
        continue
      count = values.shape[1]
      rest = [(0, 0)] * values.ndim
      rest[1] = (0, length - count)
      known[name] = self._put(np.pad(values, rest).astype(np.float32))
      shape = (1, length) + (1,) * (values.ndim - 2)
      mask[name] = jnp.asarray(np.arange(length) < count).reshape(shape)
    return Condition(known, mask, **self._options) if known else None

  def _put(self, x: np.ndarray) -> jax.Array:
    return jax.device_put(x, self._split)


def _to_frames(flag: str, seconds: float, fps: float) -> int:
  if not math.isfinite(seconds * fps):
    raise ValueError(f"--{flag}={seconds} is no length; give seconds.")
  return round(seconds * fps)


def condition_options(settings: ConfigDict) -> dict[str, Any]:
  """Options of `Condition` from `config.sample`.

  Raises:
    ValueError: if they do not fit together.
  """
  options = {
    "method": settings.condition_method,
    "scale": settings.guidance_scale,
    "resample_repeats": settings.resample_repeats,
    "resample_jump": settings.resample_jump,
  }
  options = {k: v for k, v in options.items() if v is not None}
  method, scale = settings.condition_method, settings.guidance_scale
  if method == "gradient" and not (scale or 0) > 0:
    raise ValueError(
      "config.sample.condition_method=gradient needs "
      f"config.sample.guidance_scale above 0, got {scale}."
    )
  try:
    Condition({}, **options)
  except ValueError as error:
    raise ValueError(
      f"config.sample.condition_method={method}: {error}"
    ) from error
  return options


def _stack_known(jobs: Sequence[Job]) -> dict[str, np.ndarray]:
  if jobs[0].source is None:
    return {}
  names = jobs[0].source.known
  return {
    name: np.stack([job.source.known[name] for job in jobs]) for name in names
  }
