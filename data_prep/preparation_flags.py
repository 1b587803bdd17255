"""The flags of the preparation, and the options that follow from them."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

from data_prep import clip_task, for_config
from data_prep.clip_task import ClipOptions
from data_prep.command_line import FPS, SAMPLE_RATE, Parser, bounded
from data_prep.emptiness import Limits
from data_prep.listing import LABELS
from mmdiff_jax.av import AVSpec
from mmdiff_jax.configuration import load_config
from mmdiff_jax.data.clips import FRAME_FORMATS
from mmdiff_jax.media.container import FITS, HDR, ReadOptions, check_hwaccel
from mmdiff_jax.media.reading import CHANNELS

# Frames up to this size (pixels) are stored uncompressed by default.
_RAW_SIZE = 64


def _size(text: str) -> tuple[int, int]:
  try:
    numbers = [int(side) for side in text.lower().split("x")]
  except ValueError:
    numbers = []
  if len(numbers) not in (1, 2) or min(numbers) < 1:
    raise argparse.ArgumentTypeError(
      f"must be N or HxW, such as 64 or 48x64, got {text}"
    )
  return numbers[0], numbers[-1]


# Options of each flag, for argparse.
_FLAGS: dict[str, dict[str, Any]] = {
  "--input": {
    "required": True,
    "metavar": "PATH",
    "help": "folder of videos, or one",
  },
  "--output": {
    "required": True,
    "metavar": "DIR",
    "help": "folder of the data set",
  },
  "--for": {
    "metavar": "CONFIG",
    "help": "configuration to prepare for, a file or a name: what"
    " of the five flags below is not given follows from it, and its network"
    " must take the clips",
  },
  "--fps": {
    "type": bounded(float, *FPS),
    "help": "frames per second [10]",
  },
  "--size": {
    "type": _size,
    "metavar": "N|HxW",
    "help": "height and width of the frames in pixels [64]",
  },
  "--sample_rate": {
    "type": bounded(int, *SAMPLE_RATE),
    "help": "audio samples per second [16000]",
  },
  "--clip_frames": {
    "type": bounded(int, 1),
    "help": "frames of a clip [16]",
  },
  "--fit": {
    "choices": FITS,
    "help": "pictures of another aspect ratio: pad with black bars, crop the"
    " edges, or stretch [pad]",
  },
  "--labels": {
    "choices": LABELS,
    "default": "none",
    "help": "folders: a video's label is the first folder below --input [none]",
  },
  "--workers": {
    "type": bounded(int, 1),
    "default": os.cpu_count() or 1,
    "help": "processes; does not change the result [one per core]",
  },
  "--shards": {
    "type": bounded(int, 1),
    "default": 0,
    "help": "number of shards, at most one per video [one per 64 videos]",
  },
  "--missing_audio": {
    "choices": clip_task.MISSING_AUDIO,
    "default": "skip",
    "help": "what to do with a video that has no sound [skip]",
  },
  "--channels": {
    "choices": CHANNELS,
    "default": "mean",
    "help": "how several audio channels become one [mean]",
  },
  "--min_loudness": {
    "type": bounded(float, -200, 0),
    "help": "leave out clips whose sound is quieter (dBFS, RMS) [none]",
  },
  "--max_silence": {
    "type": bounded(float, 0, 1),
    "default": 1.0,
    "help": "leave out clips of which more is digital silence [1]",
  },
  "--max_frozen": {
    "type": bounded(float, 0, 1),
    "default": 1.0,
    "help": "leave out clips of which in more the picture stands still [1]",
  },
  "--max_pixels": {
    "type": bounded(int, 64),
    "default": ReadOptions().max_pixels,
    "help": "leave out videos with larger pictures [%(default)s]",
  },
  "--time_limit": {
    "type": bounded(float, 1),
    "default": ReadOptions().time_limit,
    "help": "seconds after which a video is left out [%(default)s]",
  },
  "--hdr": {
    "choices": HDR,
    "default": "map",
    "help": "videos of high dynamic range: map to BT.709, or skip [map]",
  },
  "--hwaccel": {
    "default": "",
    "metavar": "NAME",
    "help": "hardware that decodes, by FFmpeg's name (cuda, vaapi, qsv,"
    " videotoolbox); what it cannot, the CPU decodes [none]",
  },
  "--frame_format": {
    "choices": FRAME_FORMATS,
    "help": "storage of the frames [raw up to 64 pixels, else png]",
  },
  "--jpeg_quality": {
    "type": bounded(int, 1, 100),
    "help": "1-100, for --frame_format=jpeg [95]",
  },
  "--runner": {
    "choices": ("processes", "beam"),
    "default": "processes",
    "help": "what runs the work: processes of this program, or Apache Beam"
    " (extra `beam`) [processes]",
  },
  "--beam_options": {
    "default": "",
    "metavar": "TEXT",
    "help": "options of --runner=beam as Beam spells them, in one argument:"
    " --beam_options='--runner=PrismRunner ...' [its DirectRunner]",
  },
  "--overwrite": {
    "action": "store_true",
    "help": "replace a data set of other videos or options in --output",
  },
}


def parse(
  arguments: Sequence[str] | None, program: str, description: str | None
) -> argparse.Namespace:
  """Reads the command line of a program that is called `program`."""
  parser = Parser(
    prog=program,
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  for name, options in _FLAGS.items():
    parser.add_argument(name, **options)
  return parser.parse_args(arguments)


def _geometry(flags: argparse.Namespace) -> tuple[AVSpec, str]:
  """Geometry and fit: flags go before --for, that before the defaults."""
  height, width = flags.size or (None, None)
  given = {
    "frames": flags.clip_frames,
    "height": height,
    "width": width,
    "fps": flags.fps,
    "sample_rate": flags.sample_rate,
  }
  given = {name: value for name, value in given.items() if value is not None}
  path = getattr(flags, "for")
  if path is None:
    spec = AVSpec(**given)
    note = for_config.note(spec)
    if note is not None:
      print(note, file=sys.stderr)
    return spec, flags.fit or "pad"
  config = load_config(path, "--for")
  spec = dataclasses.replace(AVSpec.from_config(config.data), **given)
  for_config.check(config, spec)
  return spec, flags.fit or config.data.get("fit", "pad")


def clip_options(flags: argparse.Namespace) -> ClipOptions:
  """What the flags say of the clips.

  Raises:
    ValueError: for flags that do not fit together, a configuration that does
      not take the clips, and hardware that is absent.
  """
  spec, fit = _geometry(flags)
  frame_format = flags.frame_format
  if frame_format is None:
    small = max(spec.height, spec.width) <= _RAW_SIZE
    frame_format = "raw" if small else "png"
  if flags.jpeg_quality is not None and frame_format != "jpeg":
    raise ValueError("--jpeg_quality goes with --frame_format=jpeg only.")
  quality = (flags.jpeg_quality or 95) if frame_format == "jpeg" else None
  # Frames are decoded by all cores where the videos are too few for that.
  threads = max(1, (os.cpu_count() or 1) // flags.workers)
  if flags.hwaccel:
    check_hwaccel(flags.hwaccel)
  return ClipOptions(
    spec,
    frame_format,
    quality,
    flags.channels,
    flags.missing_audio,
    ReadOptions(
      flags.max_pixels,
      flags.time_limit,
      flags.hdr,
      threads,
      fit=fit,
      hwaccel=flags.hwaccel,
    ),
    Limits(flags.min_loudness, flags.max_silence, flags.max_frozen),
  )
