"""Batches of samples of any length, with or without known values."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax import samplers
from mmdiff_jax.av import AVSpec, unit_to_uint8
from mmdiff_jax.devices import sharding
from mmdiff_jax.devices.mesh import check_batch_size
from mmdiff_jax.samplers import Condition
from mmdiff_jax.sampling.extend import extend
from mmdiff_jax.sampling.known_sources import Job
from mmdiff_jax.sampling.known_values import KnownValues, merge, padded
from mmdiff_jax.sampling.sequence import (
  SEQUENCES,
  check_sequence,
  in_sequence,
)
from mmdiff_jax.sampling.stepwise import WatchedSampler
from mmdiff_jax.task import Task

# What an option of `Condition` is called in `config.sample`, where it differs.
_CONDITION_KEYS = {"method": "condition_method", "scale": "guidance_scale"}


@dataclasses.dataclass(frozen=True)
class Lengths:
  """How long samples are, in frames.

  Attributes:
    total: frames of a sample.
    overlap: frames that neighbouring pieces of a long sample share, and that
      the condition "continue" takes; None where neither applies.
  """

  total: int
  overlap: int | None

  @classmethod
  def of(
    cls,
    spec: AVSpec,
    condition: str | None,
    duration: float | None,
    overlap: float | None,
  ) -> "Lengths":
    """Checks the lengths that were asked for.

    Args:
      spec: geometry of the model's clip.
      condition: None, "audio", "video", "continue" or "edit".
      duration: seconds of a sample; None is one clip.
      overlap: seconds; None is half a clip.

    Raises:
      ValueError: for lengths that do not fit the model's clip, or have no
        effect.
    """
    total = spec.frames
    if duration is not None:
      total = _to_frames("duration", duration, spec.fps)
    if total < spec.frames:
      raise ValueError(
        f"--duration={duration} is shorter than the model's clip of "
        f"{spec.duration:g} s."
      )
    takes_part = condition in ("continue", "edit")
    if duration is None and not takes_part and overlap is not None:
      raise ValueError(
        f"--overlap={overlap} has no effect without --duration or "
        "--condition=continue."
      )
    # Of the frames that two pieces share, one is cross-faded.
    least = 1 if total == spec.frames else 2
    frames = max(spec.frames // 2, least)
    if overlap is not None:
      frames = _to_frames("overlap", overlap, spec.fps)
    if total == spec.frames and not takes_part:
      return cls(total, None)
    if not least <= frames < spec.frames:
      raise ValueError(
        f"An overlap of {frames} frames does not fit the model's clip of "
        f"{spec.frames}: give --overlap from {least / spec.fps:g} to "
        f"{(spec.frames - 1) / spec.fps:g} s."
      )
    return cls(total, frames)

  def pieces(self, frames: int) -> int:
    """Pieces of `frames` frames that make up a sample."""
    if self.overlap is None or self.total == frames:
      return 1
    return 1 + -(-(self.total - frames) // (frames - self.overlap))

  def known(self, condition: str) -> int:
    """Frames that a condition knows."""
    if condition == "continue" and self.overlap is not None:
      return self.overlap
    return self.total


class ClipSampler:
  """Samples of one clip's length, or longer ones piece by piece.

  Every piece but the first continues the end of the one before it (`extend`),
  so that device memory does not grow with the duration.

  Attributes:
    nfe: network evaluations per sample, known after the first batch.
  """

  def __init__(
    self,
    task: Task,
    settings: ConfigDict,
    lengths: Lengths,
    params: Any,
    mesh: Mesh,
    seed: int,
    inputs: Mapping[str, Any] | None = None,
    force: bool = False,
  ):
    """Prepares the sampler.

    Args:
      task: what is sampled; it generates video and audio.
      settings: `config.sample`.
      lengths: of the samples.
      params: of the network.
      mesh: devices that share a batch.
      seed: of all samples.
      inputs: of the network by name, the same for all samples.
      force: see `WatchedSampler`.

    Raises:
      ValueError: for options of sampler or conditioning that do not fit
        together.
    """
    check_batch_size(mesh, settings.batch_size, "config.sample.batch_size")
    self.nfe = 0
    self._spec, self._lengths = task.spec, lengths
    self._batch_size = settings.batch_size
    self._options = condition_options(settings)
    self._sequence = settings.get("sequence", "joint")
    check_sequence(self._sequence, task)
    self._split = sharding.batch_sharded(mesh)
    self._sample = WatchedSampler(task, settings, mesh, force)
    self._params = params
    self._rng = jax.random.key(seed)
    repeated = task.repeat_inputs(inputs or {}, self._batch_size)
    self._inputs = jax.tree.map(self._put, dict(repeated))

  def count_steps(self, known: bool) -> int | None:
    """Steps of the sampler per batch; None where it chooses them itself.

    Args:
      known: whether a source holds known values.
    """
    condition = Condition({}, **self._options)
    first = self._sample.count(condition if known else None)
    others = self._sample.count(condition)
    if first is None or others is None:
      return None
    pieces = self._lengths.pieces(self._spec.frames)
    steps = first + (pieces - 1) * others
    return steps * (2 if SEQUENCES[self._sequence] else 1)

  def __call__(
    self,
    jobs: Sequence[Job],
    watch: Callable[[int], Any] = lambda steps: None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Samples a batch.

    Args:
      jobs: at most `config.sample.batch_size`, all with the same kind of
        source of the same length, or all without.
      watch: is told of the sampler's steps as they are made.

    Returns:
      uint8 video `[N, F, H, W, 3]` and float32 audio `[N, L, 1]` in [-1, 1];
      known values are in them unchanged.
    """
    # The last batch is filled up, so that one program serves all.
    filled = list(jobs) + [jobs[-1]] * (self._batch_size - len(jobs))
    indices = self._put(np.array([job.index for job in filled], np.int32))
    known = KnownValues.of(filled)
    total = max(self._lengths.total, jobs[0].frames)
    evaluations = 0

    def sample_piece(
      number: int, start: int, before: dict[str, np.ndarray] | None
    ) -> dict[str, np.ndarray]:
      nonlocal evaluations
      rng = jax.random.fold_in(self._rng, number)
      condition = self._condition(known, start, before)
      x: Any = None
      for run in in_sequence(self._sequence, condition, self._options):
        x, nfe = self._sample(
          self._params, rng, indices, run(x), self._inputs, watch
        )
        evaluations += nfe
      return jax.device_get(x)

    pieces: Iterable[dict[str, np.ndarray]]
    if total == self._spec.frames:
      pieces = [sample_piece(0, 0, None)]
    else:
      overlap = self._lengths.overlap or max(2, self._spec.frames // 2)
      pieces = extend(sample_piece, self._spec, total, overlap)
    videos, audios = [], []
    for piece in pieces:
      videos.append(unit_to_uint8(piece["video"]))
      audios.append(piece["audio"])
    self.nfe = evaluations
    video, audio = np.concatenate(videos, 1), np.concatenate(audios, 1)
    # Cross-fades between pieces round; known values stay as they are.
    if "video" in known.values:
      known.restore("video", video, unit_to_uint8(known.values["video"]))
    if "audio" in known.values:
      known.restore("audio", audio, known.values["audio"])
    return video[: len(jobs)], np.clip(audio[: len(jobs)], -1.0, 1.0)

  def _condition(
    self,
    source: KnownValues,
    start: int,
    before: dict[str, np.ndarray] | None,
  ) -> Condition | None:
    """What is known of a piece that begins at frame `start`."""
    spec = self._spec
    origins = {"video": start, "audio": spec.frames_to_samples(start)}
    lengths = {"video": spec.frames, "audio": spec.audio_length}
    known, mask, origin = {}, {}, {}
    for name, length in lengths.items():
      part = source.cut(name, origins[name], length)
      tail = (before or {}).get(name)
      if part is None and tail is None:
        continue
      value, where = merge(part, tail, length)
      known[name], mask[name] = self._put(value), jnp.asarray(where)
      if part is not None:
        origin[name] = self._put(padded(part[0], length))
    if not known:
      return None
    options = dict(self._options)
    if source.strength is not None and origin:
      options |= {"origin": origin, "strength": source.strength}
    return Condition(known, mask, **options)

  def _put(self, x: np.ndarray) -> jax.Array:
    return jax.device_put(x, self._split)


def _to_frames(flag: str, seconds: float, fps: float) -> int:
  if not math.isfinite(seconds * fps):
    raise ValueError(f"--{flag}={seconds} is not a length; give seconds.")
  return round(seconds * fps)


def condition_options(settings: ConfigDict) -> dict[str, Any]:
  """Options of `Condition` from `config.sample`.

  Raises:
    ValueError: if they do not fit together.
  """
  options = {
    name: settings[_CONDITION_KEYS.get(name, name)]
    for name in samplers.CONDITION_OPTIONS
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
