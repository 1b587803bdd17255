"""Which streams of a file are read, and their packets on one time axis."""

import collections
import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

from mmdiff_jax.media.container import MediaError, opened
from mmdiff_jax.media.edits import WHOLE, Edit, packets_of, stretches
from mmdiff_jax.media.sounds import choose_sound, is_default
from mmdiff_jax.media.tracks import Track, read_tracks
from mmdiff_jax.media.transport import read_programs

# Packets that show which of several video streams are films.
_SURVEY_PACKETS = 400
# Clocks restart where they fall back by more than this (seconds) ...
_BACKWARD = 0.5
# ... or, in formats whose clocks may jump, all run ahead by more than this.
_FORWARD = 10.0
# As long nothing new may be seen or heard: so many seconds, with sound and
# without, or this part of what the file declares.
_NOTHING, _NOTHING_ALONE, _NOTHING_SHARE = 10.0, 300.0, 0.5
# Why a photograph takes no part.
STILL = "a still picture"
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
    right_edits: those of its right channel.
    right: index of the stream with the right channel, where `audio` holds the
      left one alone.
    track: what the container says of the pictures.
  """

  video: int | None
  audio: int | None
  notes: tuple[str, ...] = ()
  video_edits: tuple[Edit, ...] = (WHOLE,)
  audio_edits: tuple[Edit, ...] = (WHOLE,)
  right_edits: tuple[Edit, ...] = (WHOLE,)
  right: int | None = None
  track: Track = Track()

  def check_colours(self, path: str | os.PathLike) -> None:
    """Raises MediaError where no conversion shows the pictures right."""
    profile = self.track.dolby_vision
    if profile:
      words = f"is Dolby Vision of profile {profile}"
      raise MediaError(path, f"{words}: its colours cannot be converted")

  def sounds(self) -> list["Streams"]:
    """The same with one stream of sound each: its only one, or both sides."""
    if self.right is None:
      return [self]
    right = dataclasses.replace(
      self, audio=self.right, audio_edits=self.right_edits
    )
    return [self, right]


def choose_streams(path: str | os.PathLike) -> Streams:
  """Chooses the film and its sound.

  Of several films it is the one that is marked as the default, else one whose
  program has sound, else the one with the largest picture; covers and single
  pictures are not films. Its sound is one of its program, see `choose_sound`.

  Raises:
    MediaError: if the file is missing or damaged.
  """
  with opened(path) as container:
    if is_still(container):
      raise MediaError(path, STILL)
    sounds = list(container.streams.audio)
    films = _films(path, container)
    notes = []
    if len(films) > 1 or len(sounds) > 1:
      programs = _programs(path, container)
      with_sound = {
        film.index: _of_program(programs, film, sounds) for film in films
      }
      # Sorting is stable: the largest one stays in front of equals.
      films.sort(key=lambda s: (not is_default(s), not with_sound[s.index]))
      sounds = with_sound[films[0].index] if films else sounds
      own = [i for i, p in enumerate(programs, 1) if films and films[0].id in p]
      if own:
        notes.append(f"program {own[0]} of {len(programs)} taken")
    # Of a closed container nothing may be asked.
    video = films[0].index if films else None
    if len(films) > 1:
      size = f"{films[0].width}x{films[0].height}"
      notes.append(f"picture: stream {video} ({size}) of {len(films)} taken")
    sound = choose_sound(path, container, sounds)
    tracks = read_tracks(path, container)
  notes += [sound.note] if sound.note else []
  chosen = (video, sound.stream, sound.right)
  seen, heard, right = stretches(
    path,
    [None if i is None else tracks.get(i, Track()).edits for i in chosen],
  )
  return Streams(
    video,
    sound.stream,
    tuple(notes),
    seen,
    heard,
    right,
    sound.right,
    tracks.get(video, Track()),
  )


def _programs(path: str | os.PathLike, container) -> list[set[int]]:
  """Numbers of the streams of each program; none where there are not two."""
  programs = read_programs(path) if container.format.name == "mpegts" else []
  return programs if len(programs) > 1 else []


def _of_program(programs: list[set[int]], film, sounds: Sequence) -> list:
  """The sounds of a film's programs."""
  own = [program for program in programs if film.id in program]
  if not own:
    return list(sounds)
  return [s for s in sounds if any(s.id in program for program in own)]


def is_still(container) -> bool:
  """Whether a container holds single pictures alone, as AVIF and HEIC do."""
  formats, streams = container.format.name.split(","), container.streams
  return (
    "mov" in formats
    and len(streams.video) == len(streams)
    and all(s.duration is None and s.frames == 1 for s in streams)
  )


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
  """Video streams that are not cover pictures, the best one first."""
  streams = _without_covers(container)
  if len(streams) > 1:
    counts = _packet_counts(path, [stream.index for stream in streams])
    if max(counts.values()) > 1:
      streams = [s for s in streams if counts[s.index] > 1]
  streams.sort(key=lambda s: -s.width * s.height)
  return streams


def _packet_counts(path, indices: list[int]) -> collections.Counter:
  counts: collections.Counter[int] = collections.Counter()
  with opened(path) as container:
    for packet in container.demux([container.streams[i] for i in indices]):
      counts[packet.stream_index] += packet.size > 0
      if counts.total() >= _SURVEY_PACKETS:
        break
  return counts


class Packets:
  """Packets of one stream, their clocks joined where they restart.

  Files that were joined byte by byte start their clocks again at each piece.
  The pieces have one offset for all streams, so that readers of different
  streams of one file see the same time axis.

  Attributes:
    end: when the content of the wanted packets so far ends, those without a
      picture of their own included (seconds, or None).
    repeats: whether the last wanted packet has no picture of its own.
    nothing: seconds in which nothing new is seen or heard, the most so far.
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
    if edit is not WHOLE:
      indices = [wanted]
    self._streams = [container.streams[i] for i in indices]
    self._bound = _NOTHING if len(indices) > 1 else _NOTHING_ALONE
    if container.duration is not None:
      self._bound = max(self._bound, _NOTHING_SHARE * container.duration / 1e6)
    self._reached: float | None = None
    self._may_jump = may_jump(container)
    self.end: float | None = None
    self.repeats = False
    self.nothing = 0.0
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
      if packet.size == 0 and packet.pts is None and packet.dts is None:
        final = packet if wanted else final
        continue
      self._join(packet)
      if wanted and not packet.is_discard:
        self._follow(packet)
      if packet.size == 0:
        # One on the way means "as before", in Theora, in AVI. It would end the
        # decoder.
        continue
      if wanted:
        yield packet, self._pieces[self._wanted]
    if final is not None:
      yield final, self._pieces[self._wanted]

  def check_nothing(self, path: str | os.PathLike) -> None:
    """Raises MediaError where nothing new is seen or heard for too long."""
    if self.nothing > self._bound:
      raise MediaError(
        path, f"nothing new is seen or heard for {self.nothing:.0f} s"
      )

  def reach_end(self) -> None:
    """Counts the time until the last wanted packet's content ends."""
    if self.end is not None:
      self._reach(self.end, self.end)

  def _reach(self, begin: float, end: float) -> None:
    """Notes that something new is seen or heard."""
    if self._reached is not None:
      self.nothing = max(self.nothing, begin - self._reached)
    self._reached = max(end, end if self._reached is None else self._reached)

  def _follow(self, packet) -> None:
    """Notes when the content of a wanted packet ends."""
    ticks = packet.dts if packet.pts is None else packet.pts
    if ticks is not None and packet.time_base:
      end = float((ticks + (packet.duration or 0)) * packet.time_base)
      self.end = end if self.end is None else max(end, self.end)
      self.repeats = packet.size == 0

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
    # A picture may stand: only its beginning is new.
    heard = packet.stream.type == "audio" and not packet.is_discard
    self._reach(clock + offset, end if heard else clock + offset)
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
