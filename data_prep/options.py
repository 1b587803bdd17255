"""How clips are prepared, as a command line and a configuration say it."""

import argparse
import dataclasses
import os
from typing import Any

from ml_collections import ConfigDict

from data_prep.clip_task import ClipOptions
from data_prep.emptiness import Limits
from mmdiff_jax.av import AVSpec
from mmdiff_jax.media.container import ReadOptions, check_hwaccel

# Frames up to this size (pixels) are stored uncompressed by default.
_RAW_SIZE = 64
# Networks of four levels, as configs/default.py has, want multiples of this.
_SAMPLES = 64


def geometry(
  frames: int | None,
  size: tuple[int, int] | None,
  fps: float | None,
  sample_rate: int | None,
) -> dict[str, Any]:
  """Those fields of `AVSpec` that are not None; `size` is (height, width)."""
  height, width = size or (None, None)
  values = {
    "frames": frames,
    "height": height,
    "width": width,
    "fps": fps,
    "sample_rate": sample_rate,
  }
  return {name: value for name, value in values.items() if value is not None}


def choose(
  flags: argparse.Namespace, workers: int, config: ConfigDict | None = None
) -> tuple[ClipOptions, str | None]:
  """Flags take precedence over a configuration, that over the defaults.

  Args:
    flags: of the command `prepare`.
    workers: processes that share the machine.
    config: to prepare for; its network must take the clips.

  Returns:
    The options, and what to know of their geometry, if anything.

  Raises:
    ValueError: for flags that do not fit together, a configuration that does
      not take the clips, and hardware that is absent.
  """
  own = geometry(flags.clip_frames, flags.size, flags.fps, flags.sample_rate)
  if config is None:
    spec, fit = AVSpec(**own), flags.fit or "pad"
    note = _note(spec)
  else:
    spec = dataclasses.replace(AVSpec.from_config(config.data), **own)
    fit, note = flags.fit or config.data.get("fit", "pad"), None
    _check(config, spec)
  frame_format = flags.frame_format
  if frame_format is None:
    small = max(spec.height, spec.width) <= _RAW_SIZE
    frame_format = "raw" if small else "png"
  if flags.jpeg_quality is not None and frame_format != "jpeg":
    raise ValueError("--jpeg_quality goes with --frame_format=jpeg only.")
  quality = (flags.jpeg_quality or 95) if frame_format == "jpeg" else None
  if flags.hwaccel:
    check_hwaccel(flags.hwaccel)
  reading = ReadOptions(
    flags.max_pixels,
    flags.time_limit,
    flags.hdr,
    # Frames are decoded by all cores where the videos are too few for that.
    max(1, (os.cpu_count() or 1) // workers),
    fit=fit,
    hwaccel=flags.hwaccel,
  )
  limits = Limits(flags.min_loudness, flags.max_silence, flags.max_frozen)
  options = ClipOptions(
    spec,
    frame_format,
    quality,
    flags.channels,
    flags.missing_audio,
    reading,
    limits,
    flags.crop_bars,
  )
  return options, note


def _check(config: ConfigDict, spec: AVSpec) -> None:
  """Raises ValueError if the configuration's network cannot take such clips."""
  # Late: preparation without a configuration needs no JAX.
  from mmdiff_jax.models import create_network

  config = config.copy_and_resolve_references()
  config.data.update(dataclasses.asdict(spec))
  network = create_network(config.model)
  network.check_shapes(network.declare(config)[0])


def _note(spec: AVSpec) -> str | None:
  """What to know of a geometry that no configuration was named for."""
  # Single frames are for super-resolution, which hears nothing.
  if spec.frames == 1 or spec.audio_length % _SAMPLES == 0:
    return None
  rates = " and ".join(map(str, spec.nearest_rates(_SAMPLES)))
  return (
    f"note: clips have {spec.audio_length} audio samples; networks of four "
    f"levels (configs/default.py) take multiples of {_SAMPLES} alone. The "
    f"nearest --sample_rate: {rates or 'none'}; --for=CONFIG checks another."
  )
