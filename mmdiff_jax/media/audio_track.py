"""Sound of a media file as samples on the file's time axis."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mmdiff_jax.media.audio_clock import Aligner
from mmdiff_jax.media.audio_mixer import ALL_CHANNELS, CHANNELS, Mixer
from mmdiff_jax.media.audio_pair import Pair
from mmdiff_jax.media.container import Deadline, MediaError, ReadOptions, opened
from mmdiff_jax.media.edits import WHOLE, Edit
from mmdiff_jax.media.streams import Packets, Streams, choose_streams

# A shorter lack of sound at the ends is not worth a word (seconds).
_AUDIO_GAP = 0.05
# Nor is a rest of sound, up to this part of the film.
_LONG_REST = 0.5
# Packets in a row that a decoder may refuse before it has found its start.
_LEAD_IN = 8


class AudioTrack:
  """Sound on the file's time axis, decoded as it is asked for.

  What lies before the last `cut` is forgotten, so that a file of any length
  takes little memory.
  """

  def __init__(
    self,
    first: np.ndarray,
    blocks: Iterator[np.ndarray],
    parts: Sequence[Mixer | Aligner | Pair],
    aligner: Aligner,
    rate: int,
  ):
    """Takes the sound over.

    Args:
      first: its first block, float32 `[n, C]`.
      blocks: those that follow without a gap.
      parts: which know what was repaired.
      aligner: which knows when the first block starts.
      rate: samples per second.
    """
    self.sample_rate = rate
    self._blocks, self._parts, self._aligner = blocks, parts, aligner
    self._held = [first]
    # Samples before the held ones, and up to their end.
    self._before, self._decoded = 0, len(first)

  @property
  def start(self) -> float:
    """Time of the first sample in seconds."""
    return self._aligner.start

  def end(self, needed: float = float("inf")) -> float:
    """Time after the last sample in seconds; decodes the rest of the track.

    Args:
      needed: samples after this time are not kept.
    """
    limit = (needed - self.start) * self.sample_rate
    for block in self._blocks:
      if self._decoded < limit:
        self._held.append(block)
      self._decoded += len(block)
    return self.start + self._decoded / self.sample_rate

  def blocks(self) -> Iterator[np.ndarray]:
    """Yields the whole track, float32 `[n, C]` at a time, and uses it up."""
    assert not self._before, "the beginning is forgotten"
    yield from self._held
    yield from self._blocks

  def cut(self, origin: float, begin: int, end: int) -> np.ndarray:
    """Samples `begin` to `end` after time `origin`; zero where there are none.

    A later cut may not begin before an earlier one.

    Returns:
      float32 `[end - begin, C]`.
    """
    first = round((origin - self.start) * self.sample_rate) + begin
    last = first + end - begin
    while self._decoded < last:
      block = next(self._blocks, None)
      if block is None:
        break
      self._held.append(block)
      self._decoded += len(block)
    while len(self._held) > 1 and self._before + len(self._held[0]) <= first:
      self._before += len(self._held.pop(0))
    assert first >= self._before or self._before == 0, "cuts go forwards"
    out = np.zeros((end - begin, self._held[0].shape[1]), np.float32)
    position = self._before - first
    for block in self._held:
      low, high = max(position, 0), min(position + len(block), len(out))
      if low < high:
        out[low:high] = block[low - position : high - position]
      position += len(block)
    return out

  def repairs(self, origin: float, duration: float) -> list[str]:
    """Says where the track was padded or moved (over 0.05 s at its ends)."""
    words = []
    end = self.end(needed=origin + duration)
    if self.start - origin > _AUDIO_GAP:
      late = min(self.start - origin, duration)
      words.append(f"audio starts {late:.2f} s late: padded with silence")
    if origin + duration - end > _AUDIO_GAP:
      early = min(origin + duration - end, duration)
      words.append(f"audio ends {early:.2f} s early: padded with silence")
    if end - origin - duration > _LONG_REST * duration:
      rest = end - origin - duration
      words.append(f"audio goes on for {rest:.2f} s after the pictures: cut")
    return words + [w for part in self._parts for w in part.repairs()]


def read_track(
  path: str | os.PathLike,
  sample_rate: int | None = None,
  channels: str = "mean",
  options: ReadOptions | None = None,
) -> AudioTrack | None:
  """Opens the sound of a file; None where there is none or it is empty.

  Args:
    path: of the file.
    sample_rate: to resample to (Hz); None keeps the file's.
    channels: one of `CHANNELS` makes one of several, "all" keeps up to two.
    options: bounds of reading.

  Raises:
    MediaError: if the file is missing or damaged, or its sound cannot be
      decoded.
    ValueError: if an argument is out of range.
  """
  if channels not in (*CHANNELS, ALL_CHANNELS):
    raise ValueError(
      f"channels must be one of {(*CHANNELS, ALL_CHANNELS)}, got {channels!r}."
    )
  if sample_rate is not None and sample_rate <= 0:
    raise ValueError(f"sample_rate must be positive, got {sample_rate}.")
  streams = choose_streams(path)
  if streams.audio is None:
    return None
  with opened(path) as container:
    context = container.streams[streams.audio].codec_context
    if context is None:
      raise MediaError(path, "its sound is of a kind that cannot be decoded")
    rate = sample_rate or context.sample_rate
  if not rate:
    raise MediaError(path, "its sound has no sampling rate")
  mixer, aligner = Mixer(path, channels, rate), Aligner(rate)
  sides = [
    mixer.convert(_frames(path, one, options or ReadOptions()))
    for one in streams.sounds()
  ]
  pair = Pair(sides, rate) if len(sides) > 1 else None
  blocks = aligner.align(mixer.mix(pair.pieces() if pair else sides[0]))
  first = next(blocks, None)
  if first is None:
    return None
  parts: list[Mixer | Aligner | Pair] = [mixer, aligner]
  parts += [pair] if pair else []
  return AudioTrack(first, blocks, parts, aligner, rate)


def _frames(
  path: str | os.PathLike, streams: Streams, options: ReadOptions
) -> Iterator[tuple[Any, Edit]]:
  """Yields the decoded frames of the sound, and what of them is played."""
  deadline = Deadline(path, options.time_limit)
  for edit in streams.audio_edits:
    with opened(path, plays_edits=edit is WHOLE) as container:
      for frame in _decode(path, container, streams, edit, deadline):
        if frame.time is not None and edit.is_after(frame.time):
          break
        yield frame, edit


def _decode(
  path: str | os.PathLike,
  container,
  streams: Streams,
  edit: Edit,
  deadline: Deadline,
) -> Iterator:
  import av

  assert streams.audio is not None
  refused, found, restarts = 0, False, 0
  packets = Packets(container, streams, streams.audio, edit)
  for packet, piece in packets:
    deadline.check()
    packets.check_nothing(path)
    try:
      frames = packet.decode()
    except av.error.InvalidDataError:
      # A recording, or a piece of one, may start in the middle of a frame.
      starts = not found or piece > restarts
      refused += 1
      if not starts or refused > _LEAD_IN:
        raise
      continue
    if frames:
      found, refused, restarts = True, 0, piece
    yield from frames
  if refused and not found:
    raise MediaError(path, "its sound cannot be decoded")
