"""Errors of model configurations and input shapes, before anything compiles."""

from collections.abc import Sequence
from numbers import Real
from typing import Any

import jax
import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.models import attention, embedders, ops, remat
from mmdiff_jax.models.group_norm import GROUPS

CHOICES = {
  "dtype": ("bfloat16", "float32"),
  "remat": remat.NAMES,
  "attention": attention.NAMES,
  "kernels": ops.KERNELS,
}


def _is_count(value: object) -> bool:
  return (
    isinstance(value, int | np.integer)
    and not isinstance(value, bool)
    and int(value) > 0
  )


def _divides(name: str, count: int, channels: int, where: str) -> None:
  if channels % count:
    raise ValueError(
      f"model.{name}={count} does not divide the {channels} channels {where}. "
      f"Change model.{name} or the channels."
    )


def check_unet(model: Any) -> None:
  """Checks the fields that both networks have."""
  for name, allowed in CHOICES.items():
    value = getattr(model, name)
    if value not in allowed:
      raise ValueError(
        f"model.{name}={value!r} is unknown; allowed are "
        f"{', '.join(map(repr, allowed))}."
      )
  for name in ("model_channels", "num_res_blocks", "num_heads"):
    value = getattr(model, name)
    if not _is_count(value):
      raise ValueError(f"model.{name}={value!r} must be a positive integer.")
  mult = model.channel_mult
  if not mult or not all(map(_is_count, mult)):
    raise ValueError(
      f"model.channel_mult={mult!r} must hold one positive integer per level."
    )
  for name in ("use_scale_shift_norm", "learn_sigma"):
    value = getattr(model, name)
    if not isinstance(value, bool | np.bool_):
      raise ValueError(f"model.{name}={value!r} must be True or False.")
  rate = model.dropout
  if not isinstance(rate, Real) or not 0 <= float(rate) < 1:
    raise ValueError(f"model.dropout={rate!r} must lie in [0, 1).")
  if model.model_channels % GROUPS:
    raise ValueError(
      f"model.model_channels={model.model_channels} must be a multiple of "
      f"{GROUPS}, the number of groups of the norms."
    )


def check_resolutions(model: Any, name: str) -> None:
  """Checks a list of `ds` values; those below the last level have no effect.

  (The release's lists for four levels thus serve shallower networks.)
  """
  values = getattr(model, name)
  wrong = [v for v in values if not _is_count(v) or v & (v - 1)]
  if wrong or len(set(values)) != len(values):
    raise ValueError(
      f"model.{name}={values!r} must hold different powers of two: the "
      "down-sampling factors of levels, 1, 2, 4, ..."
    )


def check_self_attention(model: Any, resolutions: Sequence[int]) -> None:
  """Checks the heads at the listed `ds` and in the middle."""
  deepest = 2 ** (len(model.channel_mult) - 1)
  for ds in _reached(model, {*resolutions, deepest}):
    channels = _channels(model, ds)
    _divides("num_heads", model.num_heads, channels, f"at ds={ds}")
    check_kernel(model, channels // model.num_heads)


def check_kernel(model: Any, width: int) -> None:
  """Checks that a demanded attention kernel can run."""
  if model.attention == "cudnn":
    ops.check_cudnn(width, model.dtype, model.kernels)


def _reached(model: Any, resolutions: set[int]) -> list[int]:
  return sorted(ds for ds in resolutions if ds < 2 ** len(model.channel_mult))


def _channels(model: Any, ds: int) -> int:
  return model.model_channels * model.channel_mult[ds.bit_length() - 1]


def check_coupling(model: Any) -> None:
  """Checks what only the coupled U-Net has."""
  for name in ("cross_attention_shift", "middle_cross_attention"):
    value = getattr(model, name)
    if not isinstance(value, bool | np.bool_):
      raise ValueError(f"model.{name}={value!r} must be True or False.")
  embedders.check_sizes(model)
  resolutions = model.cross_attention_resolutions
  for kind in ("video", "audio", "cross"):
    check_resolutions(model, f"{kind}_attention_resolutions")
  check_self_attention(
    model,
    (*model.video_attention_resolutions, *model.audio_attention_resolutions),
  )

  windows = model.cross_attention_windows
  if len(windows) != len(resolutions):
    raise ValueError(
      f"model.cross_attention_windows={windows!r} must hold one window for "
      f"each of model.cross_attention_resolutions={resolutions!r}."
    )
  if not all(map(_is_count, windows)):
    raise ValueError(
      f"model.cross_attention_windows={windows!r} must hold positive "
      "integers (frames)."
    )

  places = set(resolutions)
  if model.middle_cross_attention:
    places.add(2 ** (len(model.channel_mult) - 1))
  width = model.num_head_channels
  if width is not None and not _is_count(width):
    raise ValueError(
      f"model.num_head_channels={width!r} must be a positive integer, or None "
      "to use model.num_heads."
    )
  for ds in _reached(model, places):
    channels = _channels(model, ds)
    if width is not None:
      _divides("num_head_channels", width, channels, f"at ds={ds}")
    else:
      _divides("num_heads", model.num_heads, channels, f"at ds={ds}")
    check_kernel(model, width or channels // model.num_heads)


def check_size(model: Any, height: int, width: int) -> None:
  """Checks that an image survives the down-sampling."""
  factor = 2 ** (len(model.channel_mult) - 1)
  if height % factor or width % factor or height <= 0 or width <= 0:
    raise ValueError(
      f"Frames of {height}x{width} pixels cannot be halved "
      f"{len(model.channel_mult) - 1} times: height and width must be "
      f"multiples of {factor} (2^(levels-1) of model.channel_mult), such as "
      f"{_nearest(height, factor)}x{_nearest(width, factor)}."
    )


def _nearest(value: int, multiple: int) -> int:
  return max(1, round(value / multiple)) * multiple


def check_rate(model: Any, spec: AVSpec) -> None:
  """Checks that the audio of a clip survives the down-sampling, by 4 a level.

  Raises:
    ValueError: naming the nearest sample rates that work.
  """
  multiple = 4 ** (len(model.channel_mult) - 1)
  if spec.audio_length % multiple == 0:
    return
  rates = " and ".join(map(str, spec.nearest_rates(multiple)))
  raise ValueError(
    f"data.sample_rate={spec.sample_rate}: a clip of {spec.frames} frames at "
    f"{spec.fps:g} fps has {spec.audio_length} audio samples, which must be a "
    f"multiple of {multiple} (4^(levels-1) of model.channel_mult). The nearest "
    f"rates that work: {rates or 'none'}; or take other frames or fewer levels."
  )


def check_clip(
  model: Any, video_shape: Sequence[int], audio_shape: Sequence[int]
) -> None:
  """Checks clips `[..., F, H, W, C]` and `[..., L, C]` against the model."""
  if len(video_shape) not in (4, 5) or len(audio_shape) not in (2, 3):
    raise ValueError(
      f"Got video {tuple(video_shape)} and audio {tuple(audio_shape)}; "
      "expected [F, H, W, C] and [L, C], with or without a batch axis."
    )
  if len(video_shape) == 5 and len(audio_shape) == 3:
    if video_shape[0] != audio_shape[0]:
      raise ValueError(
        f"Video has {video_shape[0]} clips, audio {audio_shape[0]}; they must "
        "belong together one by one."
      )
  frames, height, width, _ = video_shape[-4:]
  length = audio_shape[-2]
  check_size(model, height, width)

  windows = model.cross_attention_windows
  coupled = _reached(model, {*model.cross_attention_resolutions})
  used = [
    window
    for ds, window in zip(
      model.cross_attention_resolutions, windows, strict=True
    )
    if ds in coupled
  ]
  if max(used, default=0) > frames:
    raise ValueError(
      f"model.cross_attention_windows={windows!r} has a window longer than the "
      f"clip of {frames} frames. Shorten the window or lengthen the clip."
    )
  levels = len(model.channel_mult) - 1
  if length % 4**levels:
    raise ValueError(
      f"Audio of {length} samples cannot be divided by 4 {levels} times: it "
      f"must be a multiple of {4**levels} (4^(levels-1) of "
      "model.channel_mult)."
    )
  if model.middle_cross_attention:
    coupled.append(2**levels)
  # Audio shrinks by 4 where video shrinks by 2.
  deepest = max(coupled, default=1) ** 2
  if length // deepest < frames:
    raise ValueError(
      f"Audio of {length} samples is shorter than one token per frame "
      f"({frames} frames) where it is divided by {deepest}: at least "
      f"{frames * deepest} samples are needed, or fewer levels."
    )


def check_shifts(
  shifts: Sequence[int | jax.Array], limits: Sequence[int]
) -> None:
  """Checks given window shifts; the values of traced ones are not known."""
  if len(shifts) != len(limits):
    raise ValueError(
      f"Got {len(shifts)} shifts; this network has {len(limits)} RS-MMA blocks "
      "(forward order, the middle one included)."
    )
  for i, (shift, limit) in enumerate(zip(shifts, limits, strict=True)):
    if isinstance(shift, jax.core.Tracer):
      continue
    if not 0 <= int(shift) <= limit:
      raise ValueError(
        f"Shift {int(shift)} of RS-MMA block {i} is outside 0..{limit} "
        "(frames - window)."
      )


def check_images(
  model: Any,
  image_shape: Sequence[int],
  low_res_shape: Sequence[int] | None,
) -> None:
  """Checks images `[..., H, W, C]` and their small versions."""
  if len(image_shape) not in (3, 4):
    raise ValueError(
      f"Got image {tuple(image_shape)}; expected [H, W, C], with or without a "
      "batch axis."
    )
  check_size(model, *image_shape[-3:-1])
  if low_res_shape is None:
    return
  same = (
    len(low_res_shape) == len(image_shape)
    and low_res_shape[:-3] == image_shape[:-3]
    and low_res_shape[-1] == image_shape[-1]
  )
  if not same:
    raise ValueError(
      f"low_res {tuple(low_res_shape)} must have the batch size and the "
      f"channels of the image, {tuple(image_shape)}."
    )
