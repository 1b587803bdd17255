"""Which streams of a file are read, and their packets on one time axis."""

import collections
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from mmdiff_jax.media.container import MediaError, opened
from mmdiff_jax.media.edits import WHOLE, Edit, packets_of, read_edits

# Packets that show which of several video streams are films.
_SURVEY_PACKETS = 400
# Sound that shows whether a stream holds any (seconds), and its least peak.
_SURVEY_SECONDS, _AUDIBLE = 60.0, 1e-3
# Clocks restart where they fall back by more than this (seconds) ...
_BACKWARD = 0.5
# ... or, in formats whose clocks may jump, all run ahead by more than this.
_FORWARD = 10.0
# FFmpeg's AVFMT_TS_DISCONT.
_CLOCKS_MAY_JUMP = 0x0200


@dataclasses.dataclass(frozen=True)
class Streams:
  """The streams that are read of a file.

  Attributes:
    video: index of the stream with the pictures; None where there is none.
    audio: index of the stream with the sound; None where there is none.
    notes: what was chosen of several, in words.
    video_edits: stretches of the pictures that are played.
    audio_edits: stretches of the sound that are played.
  """

  video: int | None
  audio: int | None
  notes: tuple[str, ...] = ()
  video_edits: tuple[Edit, ...] = (WHOLE,)
  audio_edits: tuple[Edit, ...] = (WHOLE,)


def choose_streams(path: str | os.PathLike) -> Streams:
  """Chooses the film and its sound.

  Of several films it is the one that is marked as the default, else the one
  with the largest picture; covers and single pictures are no films. Of several
  sounds it is the default one, else the first; but one that is silent for its
  first minute stands back behind one that is not.

  Raises:
    MediaError: if the file is missing or damaged.
  """
  with opened(path) as container:
    films = _films(path, container)
    sounds = _by_default(container.streams.audio)
    # Of a closed container nothing may be asked.
    video = films[0].index if films else None
    notes = []
    if len(films) > 1:
      size = f"{films[0].width}x{films[0].height}"
      notes.append(
        f"picture: stream {films[0].index} ({size}) of {len(films)} taken"
      )
    indices = [stream.index for stream in sounds]
    edits = read_edits(path, container)
  audio = indices[0] if indices else None
  if len(indices) > 1:
    audio = next((i for i in indices if _is_audible(path, i)), audio)
    notes.append(f"sound: stream {audio} of {len(indices)} taken")
  stretches = (
    (WHOLE,) if index is None else edits.get(index, (WHOLE,))
    for index in (video, audio)
  )
  return Streams(video, audio, tuple(notes), *stretches)


def has_film(container) -> bool:
  """Whether a container has pictures besides its cover."""
  return bool(_without_covers(container))


def may_jump(container) -> bool:
  """Whether clocks may jump in a container's format, as in MPEG-TS."""
  return bool(container.format.flags & _CLOCKS_MAY_JUMP)


def _without_covers(container) -> list:
  import av

  cover = av.stream.Disposition.attached_pic
  return [
    s
    for s in container.streams.video
    if not s.disposition & cover and s.codec_context is not None
  ]


def _films(path, container) -> list:
  """Video streams that are no pictures of the cover, the best one first."""
  streams = _without_covers(container)
  if len(streams) > 1:
    counts = _packet_counts(path, [stream.index for stream in streams])
    if max(counts.values()) > 1:
      streams = [s for s in streams if counts[s.index] > 1]
  # Sorting is stable: the default one stays in front of equals.
  streams.sort(key=lambda s: -s.width * s.height)
  return _by_default(streams)


def _by_default(streams) -> list:
  """Puts the streams first that are marked as the default."""
  import av

  default = av.stream.Disposition.default
  return sorted(streams, key=lambda s: not s.disposition & default)


def _packet_counts(path, indices: list[int]) -> collections.Counter:
  counts: collections.Counter[int] = collections.Counter()
  with opened(path) as container:
    for packet in container.demux([container.streams[i] for i in indices]):
      counts[packet.stream_index] += packet.size > 0
      if counts.total() >= _SURVEY_PACKETS:
        break
  return counts


def _is_audible(path, index: int) -> bool:
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


class Packets:
  """Packets of one stream, their clocks joined where they restart.

  Files that were joined byte by byte start their clocks again at each piece.
  The pieces have one offset for all streams, so that readers of different
  streams of one file see the same time axis.
  """

  def __init__(
    self, container, streams: Streams, wanted: int, edit: Edit = WHOLE
  ):
    """Reads `wanted` of the chosen streams of an open container.

    Args:
      container: open.
      streams: that are read of it.
      wanted: index of the one whose packets these are.
      edit: what of it is played; the packets may begin earlier, and go on.
    """
    self._container, self._wanted, self._edit = container, wanted, edit
    indices = [i for i in (streams.video, streams.audio) if i is not None]
    self._streams = [container.streams[i] for i in indices]
    self._may_jump = may_jump(container)
    # Seconds that are added in each piece; the piece in which a stream is, its
    # last time on its own clock, and its end on the joined time axis.
    self._offsets = [0.0]
    self._pieces = dict.fromkeys(indices, 0)
    self._clocks: dict[int, float] = {}
    self._ends: dict[int, float] = {}

  @property
  def restarts(self) -> int:
    """How often the clocks have restarted so far."""
    return len(self._offsets) - 1

  def __iter__(self) -> Iterator[tuple[Any, int]]:
    """Yields (packet, restarts of its stream's clock up to it).

    These are the packets with content, then the one that empties the decoder.
    """
    if self._edit is WHOLE:
      source = self._container.demux(self._streams)
    else:
      stream = self._container.streams[self._wanted]
      source = packets_of(self._container, stream, self._edit)
    final = None
    for packet in source:
      # A final packet has no index of its own.
      wanted = packet.stream.index == self._wanted
      if packet.size == 0:
        # An empty one on the way (Theora: "as before") would end the decoder.
        final = packet if wanted else final
        continue
      self._join(packet)
      if wanted:
        yield packet, self._pieces[self._wanted]
    if final is not None:
      yield final, self._pieces[self._wanted]

  def _join(self, packet) -> None:
    if packet.dts is None or not packet.time_base:
      return
    base, index = packet.time_base, packet.stream.index
    clock = float(packet.dts * base)
    if index in self._clocks and self._restarts_at(index, clock):
      self._pieces[index] += 1
      if self._pieces[index] == len(self._offsets):
        self._offsets.append(max(self._ends.values()) - clock)
    offset = self._offsets[self._pieces[index]]
    end = clock + float((packet.duration or 0) * base) + offset
    self._clocks[index] = max(clock, self._clocks.get(index, clock))
    if clock < self._clocks[index] - _BACKWARD:
      self._clocks[index] = clock
    self._ends[index] = max(end, self._ends.get(index, end))
    if offset:
      ticks = round(offset / base)
      packet.dts += ticks
      if packet.pts is not None:
        packet.pts += ticks

  def _restarts_at(self, index: int, clock: float) -> bool:
    if clock < self._clocks[index] - _BACKWARD:
      return True
    if not self._may_jump or clock < self._clocks[index] + _FORWARD:
      return False
    # A picture may stand long; where all streams jump, the clock has.
    joined = clock + self._offsets[self._pieces[index]]
    behind = self._pieces[index] < self.restarts
    return behind or joined > max(self._ends.values()) + _FORWARD
