"""Which of several sounds is the film's own."""

import itertools
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmdiff_jax.media.container import MediaError, opened

# Sound that shows whether a stream holds any (seconds), and its least peak.
_SURVEY_SECONDS, _AUDIBLE = 60.0, 1e-3
# Marks of sounds that are for some listeners, or not what was recorded.
_ASIDE = (
  "dub", "comment", "lyrics", "karaoke", "hearing_impaired",
  "visual_impaired", "clean_effects", "non_diegetic", "descriptions",
  "dependent",
)  # fmt: skip
_ASIDE_TITLE = re.compile(r"comment|descri(ption|bed)|karaoke|\bdub", re.I)


class Sound(NamedTuple):
  """The sound that is taken.

  Attributes:
    stream: its index, or None.
    right: index of the stream with its right channel, where `stream` holds the
      left one alone.
    note: what was chosen of several, in words; "" where there was no choice.
  """

  stream: int | None = None
  right: int | None = None
  note: str = ""


def choose_sound(
  path: str | os.PathLike, container, streams: Sequence
) -> Sound:
  """Chooses the film's sound.

  What is marked, or titled, as a comment, a description, a dubbed version or
  the like stands back; then what is silent for its first minute; then what is
  not the default; then the later ones. Left and right may be two streams, as
  in MXF and the files of QuickTime.

  Args:
    path: of the file.
    container: open.
    streams: of sound, those of the film's program.
  """
  if not streams:
    return Sound()
  if len(streams) == 1:
    return Sound(streams[0].index)
  ranked = sorted(streams, key=lambda s: (_is_aside(s), not is_default(s)))
  pair = _find_pair(container, [s for s in streams if not _is_aside(s)])
  indices = [stream.index for stream in ranked]
  heard = (i for i in indices if _is_audible(path, i))
  if pair and all(_is_audible(path, stream.index) for stream in pair):
    left, right = (stream.index for stream in pair)
    words = f"sound: streams {left} and {right} of {len(indices)} taken"
    return Sound(left, right, f"{words}, as left and right")
  index = next(heard, indices[0])
  return Sound(index, None, f"sound: stream {index} of {len(indices)} taken")


def is_default(stream) -> bool:
  """Whether a stream is marked as the default."""
  import av

  return bool(stream.disposition & av.stream.Disposition.default)


def _is_aside(stream) -> bool:
  import av

  marks = (getattr(av.stream.Disposition, name) for name in _ASIDE)
  if any(stream.disposition & mark for mark in marks):
    return True
  return bool(_ASIDE_TITLE.search(stream.metadata.get("title", "")))


def _find_pair(container, streams: Sequence) -> tuple | None:
  """The first two streams that are left and right of one sound."""
  formats = container.format.name.split(",")
  # Of the family of mp4, QuickTime's files alone hold channels apart.
  brand = container.metadata.get("major_brand", "qt")
  apart = "mxf" in formats or ("mov" in formats and brand.startswith("qt"))
  for pair in itertools.combinations(streams, 2):
    if len({_kind(stream) for stream in pair}) == 1 and _is_mono(pair[0]):
      left, right = sorted(pair, key=lambda s: _place(s) == "(FR)")
      if apart or (_place(left), _place(right)) == ("(FL)", "(FR)"):
        return left, right
  return None


def _kind(stream) -> tuple:
  """What left and right have in common."""
  context = stream.codec_context
  language = stream.metadata.get("language", "und")
  if context is None:
    return (None, stream.index)
  return (context.name, context.sample_rate, context.channels, language)


def _is_mono(stream) -> bool:
  return stream.codec_context is not None and stream.codec_context.channels == 1


def _place(stream) -> str:
  """The place of a single channel: FFmpeg calls it "1 channels (FL)"."""
  return stream.codec_context.layout.name.removeprefix("1 channels ")


def _is_audible(path: str | os.PathLike, index: int) -> bool:
  import av

  try:
    with opened(path) as container:
      stream = container.streams[index]
      resampler = av.AudioResampler("flt", "stereo")
      seconds = 0.0
      for frame in container.decode(stream):
        for part in resampler.resample(frame):
          if np.abs(part.to_ndarray()).max() > _AUDIBLE:
            return True
        seconds += frame.samples / frame.sample_rate
        if seconds > _SURVEY_SECONDS:
          return False
  except MediaError:
    pass  # Where all are damaged, the reading of the chosen one says so.
  return False
