"""The usual kinds of condition, made from media.

Values are in [-1, 1]: video [B, F, H, W, 3], audio [B, L, 1]; B may be 1 to
serve a whole batch. `**options` are Condition's method, scale, resample_*.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.samplers.condition import Condition


def condition_on_audio(audio: jax.Array, **options: Any) -> Condition:
  """Audio -> video: the whole audio [B, L, 1] is known."""
  return Condition({"audio": audio}, **options)


def condition_on_video(video: jax.Array, **options: Any) -> Condition:
  """Video -> audio: the whole video [B, F, H, W, 3] is known."""
  return Condition({"video": video}, **options)


def continuation(
  video: jax.Array, audio: jax.Array, spec: AVSpec, **options: Any
) -> Condition:
  """The beginning of a clip is known, the rest follows.

  Args:
    video: [B, K, H, W, 3], the first K < F frames.
    audio: [B, k, 1], the first samples; normally those of K frames.
    spec: geometry of the whole clip.
    **options: see Condition.

  Returns:
    The condition.

  Raises:
    ValueError: if nothing is known or nothing is left to generate.
  """
  known = {"video": video, "audio": audio}
  lengths = {"video": spec.frames, "audio": spec.audio_length}
  for name, length in lengths.items():
    if not 0 < known[name].shape[1] < length:
      raise ValueError(
        f"a continuation was given {known[name].shape[1]} of the clip's "
        f"{length} {name} steps; give at least 1 and fewer than {length}."
      )
  mask = {
    name: _time_mask(np.arange(length) < known[name].shape[1], known[name])
    for name, length in lengths.items()
  }
  known = {name: _pad(known[name], lengths[name]) for name in known}
  return Condition(known, mask, **options)


def in_betweening(
  video: jax.Array,
  audio: jax.Array | None,
  spec: AVSpec,
  first: int,
  last: int,
  **options: Any,
) -> Condition:
  """Both ends of a clip are known, what is between them is generated.

  Args:
    video: [B, F, H, W, 3]; its middle may hold anything.
    audio: [B, L, 1], likewise; None if no sound is known.
    spec: geometry of the clip.
    first: number of known frames at the beginning.
    last: number of known frames at the end.
    **options: see Condition.

  Returns:
    The condition.

  Raises:
    ValueError: if the known ends do not leave a gap.
  """
  if min(first, last) < 1 or first + last >= spec.frames:
    raise ValueError(
      f"in-betweening with first={first}, last={last} frames of "
      f"{spec.frames}; both must be at least 1 and leave a gap."
    )
  frame = np.arange(spec.frames)
  known = {"video": video}
  mask = {"video": (frame < first) | (frame >= spec.frames - last)}
  if audio is not None:
    sample = np.arange(spec.audio_length)
    resumes = spec.frames_to_samples(spec.frames - last)
    known["audio"] = audio
    mask["audio"] = (sample < spec.frames_to_samples(first)) | (
      sample >= resumes
    )
  mask = {name: _time_mask(mask[name], known[name]) for name in known}
  return Condition(known, mask, **options)


def inpainting(
  video: jax.Array,
  region: np.ndarray,
  audio: jax.Array | None = None,
  **options: Any,
) -> Condition:
  """A region of the video is generated, its surroundings are known.

  Args:
    video: [B, F, H, W, 3]; the region may hold anything.
    region: [H, W] or [F, H, W], true where to generate.
    audio: [B, L, 1] if it is known too; None generates it.
    **options: see Condition.

  Returns:
    The condition.

  Raises:
    ValueError: if the region's shape is not the video's.
  """
  region = np.asarray(region, bool)
  if region.shape not in (video.shape[2:4], video.shape[1:4]):
    raise ValueError(
      f"region has shape {region.shape}; give {video.shape[2:4]} (H, W) or "
      f"{video.shape[1:4]} (F, H, W)."
    )
  frames = region.shape[0] if region.ndim == 3 else 1
  mask = ~region.reshape(1, frames, *video.shape[2:4], 1)
  known = {"video": video} | ({} if audio is None else {"audio": audio})
  return Condition(known, {"video": mask}, **options)


def audio_restoration(
  audio: jax.Array,
  damaged: np.ndarray,
  video: jax.Array | None = None,
  **options: Any,
) -> Condition:
  """Damaged stretches of the audio are generated anew.

  Args:
    audio: [B, L, 1]; damaged samples may hold anything.
    damaged: [L], true where to generate.
    video: [B, F, H, W, 3] if it is known too; None generates it.
    **options: see Condition.

  Returns:
    The condition.

  Raises:
    ValueError: if `damaged` is not one flag per sample.
  """
  damaged = np.asarray(damaged, bool)
  if damaged.shape != audio.shape[1:2]:
    raise ValueError(
      f"damaged has shape {damaged.shape}; give {audio.shape[1:2]}, one flag "
      "per audio sample."
    )
  known = {"audio": audio} | ({} if video is None else {"video": video})
  return Condition(known, {"audio": _time_mask(~damaged, audio)}, **options)


def _time_mask(mask: np.ndarray, like: jax.Array) -> np.ndarray:
  return mask.reshape(1, -1, *(1,) * (like.ndim - 2))


def _pad(x: jax.Array, length: int) -> jax.Array:
  widths = [(0, 0)] * x.ndim
  widths[1] = (0, length - x.shape[1])
  return jnp.pad(x, widths)
