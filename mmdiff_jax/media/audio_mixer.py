"""Mixes any number of audio channels, by FFmpeg's own resampler."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from mmdiff_jax.media.audio_clock import Piece
from mmdiff_jax.media.container import MediaError
from mmdiff_jax.media.edits import WHOLE, Edit

CHANNELS = ("mean", "first")
ALL_CHANNELS = "all"

# Sound that is tried for opposite phase (seconds); two channels cancel where
# their mean holds less than this part of their power.
_SURVEY_SECONDS, _CANCELLED = 30.0, 1e-3
# Mean power below which sound is silence.
_SILENT = 1e-8


class Mixer:
  """Frames of the file's layout -> samples of one, or of up to two, channels.

  More than two channels are mixed by FFmpeg's coefficients: the surround 3 dB
  below the front, no low frequency effects, the centre 3 dB below in each
  channel of a stereo mix. The "first" channel of such a file is the left one
  of its stereo mix, in which the centre is heard.
  """

  def __init__(self, path: str | os.PathLike, channels: str, rate: int):
    """Mixes to sound of `rate` Hz; `channels` is "mean", "first" or "all"."""
    self._path, self._channels, self._rate = path, channels, rate
    self._cancelled = False
    self._clipped = 0

  def mix(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Yields pieces of the mix in [-1, 1].

    Args:
      pieces: of one channel or two.

    Raises:
      MediaError: if the sound holds values that are not finite, or its number
        of channels changes and all are wanted.
    """
    if self._channels == "mean":
      pieces = self._survey(pieces)
    width = 0
    for time, samples in pieces:
      if self._channels == ALL_CHANNELS:
        width = width or samples.shape[1]
        if samples.shape[1] != width:
          raise MediaError(self._path, "the number of audio channels changes")
      elif self._channels == "first" or self._cancelled:
        samples = samples[:, :1]
      elif samples.shape[1] > 1:
        samples = samples.mean(axis=1, keepdims=True)
      peak = max(samples.max(initial=0.0), -samples.min(initial=0.0))
      if not np.isfinite(peak):
        raise MediaError(
          self._path, "the audio holds values that are not finite"
        )
      if peak > 1:
        self._clipped += int(np.count_nonzero(np.abs(samples) > 1.0))
        samples = np.clip(samples, -1.0, 1.0)
      yield time, samples

  def repairs(self) -> list[str]:
    """What was done besides mixing so far, in words."""
    words = []
    if self._cancelled:
      words.append(
        "the audio's two channels are in opposite phase: the first one taken"
      )
    if self._clipped:
      words.append(f"audio exceeds full scale: {self._clipped} samples clipped")
    return words

  def convert(self, frames: Iterable[tuple[Any, Edit]]) -> Iterator[Piece]:
    """Yields frames at the rate, of one channel or two.

    Args:
      frames: decoded ones, each with the stretch that is played of them.
    """
    resample, setup, played = None, None, WHOLE
    for frame, edit in frames:
      now = (frame.format.name, frame.layout.name, frame.sample_rate, edit)
      if resample is None or setup != now:
        if resample is not None:
          yield from self._pieces(resample(None), played)
        resample, setup, played = self._resampler(frame), now, edit
      yield from self._pieces(resample(frame), edit)
    if resample is not None:
      yield from self._pieces(resample(None), played)

  def _pieces(self, frames: Iterable, edit: Edit) -> Iterator[Piece]:
    """Samples of frames, as far as they are played, and when."""
    for frame in frames:
      channels = frame.layout.nb_channels
      samples = np.array(frame.to_ndarray(), np.float32).reshape(-1, channels)
      time = frame.time
      if edit is not WHOLE and time is not None:
        first, last = (
          round(min(max(edge - time, 0.0) * self._rate, len(samples)))
          for edge in (edit.begin, edit.end)
        )
        samples = samples[first:last]
        time = edit.place(time + first / self._rate)
      yield time, samples

  def _resampler(self, frame):
    """Returns a function from frames to frames at the rate."""
    import av

    if frame.layout.nb_channels <= 2:
      layout = frame.layout.name
    else:
      layout = "mono" if self._channels == "mean" else "stereo"
    probe = _silence_like(frame)
    try:
      # Packed samples: their planes are one, whatever the channels.
      av.AudioResampler("flt", layout, self._rate).resample(probe)
    except (av.error.FFmpegError, ValueError):
      return _Average(frame.layout.nb_channels, self._rate)
    return av.AudioResampler("flt", layout, self._rate).resample

  def _survey(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Holds the beginning back to see whether two channels cancel."""
    held: list[Piece] = []
    seconds = 0.0
    for piece in pieces:
      held.append(piece)
      seconds += len(piece[1]) / self._rate
      if seconds > _SURVEY_SECONDS:
        break
    stereo = [x for _, x in held if x.shape[1] == 2]
    if stereo:
      joined = np.concatenate(stereo).astype(np.float64)
      power = np.mean(joined**2)
      mean = np.mean(joined.mean(axis=1) ** 2)
      self._cancelled = bool(power > _SILENT and mean < _CANCELLED * power)
    yield from held
    yield from pieces


class _Average:
  """The mean of channels whose places are unknown, by FFmpeg's pan filter."""

  def __init__(self, count: int, rate: int):
    self._count, self._rate = count, rate
    self._graph: Any = None

  def __call__(self, frame) -> list:
    import av

    if self._graph is None:
      graph = av.filter.Graph()
      weights = "+".join(f"{1 / self._count}*c{i}" for i in range(self._count))
      graph.link_nodes(
        graph.add_abuffer(
          sample_rate=frame.sample_rate,
          format=frame.format.name,
          layout=frame.layout.name,
          time_base=frame.time_base,
        ),
        graph.add("pan", f"mono|c0={weights}"),
        graph.add(
          "aformat",
          sample_fmts="flt",
          sample_rates=str(self._rate),
          channel_layouts="mono",
        ),
        graph.add("abuffersink"),
      ).configure()
      self._graph = graph
    self._graph.push(frame)
    frames = []
    while True:
      try:
        frames.append(self._graph.pull())
      except (av.error.BlockingIOError, av.error.EOFError):
        return frames


def _silence_like(frame):
  """A frame of the same layout, to try a resampler with."""
  import av

  # Packed, since PyAV miscounts the planes of eight channels and more.
  probe = av.AudioFrame("flt", frame.layout.name, 64)
  probe.planes[0].update(bytes(probe.planes[0].buffer_size))
  probe.sample_rate, probe.pts = frame.sample_rate, 0
  probe.time_base = frame.time_base
  return probe
