"""Which packets need no decoding: nobody will see their pictures."""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# Packets that are looked at ahead of the one that is decoded next, and behind:
# the picture that follows it on display may come later, or have come before.
_AHEAD, _BEHIND = 16, 16
# Decoders that can be told, packet by packet, to leave out a picture to which
# no other one refers. (In HEVC such a mark holds within its sub-layer alone.)
_CODECS = ("h264", "mpeg2video")


class Skipper:
  """Tells a decoder, packet by packet, whether its picture is needed.

  A picture is needed if a point of the time grid falls between it and the one
  after it on display. One that is not, and to which no other picture refers,
  is left out: what is decoded comes out the same.

  Attributes:
    grid: time (seconds) -> number of the first grid point at or after it; None
      while all pictures are needed.
  """

  def __init__(self, context: Any):
    """For the packets of a codec context."""
    self.grid: Callable[[float], int] | None = None
    self._context = context
    self._able = context.name in _CODECS

  def stop(self) -> None:
    """Ends the leaving out, for good."""
    self._able = False

  def watch(
    self, packets: Iterable[tuple[Any, int]]
  ) -> Iterator[tuple[Any, int]]:
    """Yields the packets; each is to be decoded before the next is taken."""
    if not self._able:
      yield from packets
      return
    source = iter(packets)
    ahead = collections.deque(
      (item, _time(item[0])) for item in itertools.islice(source, _AHEAD)
    )
    behind: collections.deque[float | None] = collections.deque(maxlen=_BEHIND)
    while ahead:
      item, time = ahead.popleft()
      needed = self._needed(time, behind, (t for _, t in ahead))
      self._context.skip_frame = "DEFAULT" if needed else "NONREF"
      yield item
      behind.append(time)
      for item in itertools.islice(source, 1):
        ahead.append((item, _time(item[0])))

  def _needed(
    self,
    time: float | None,
    behind: Iterable[float | None],
    ahead: Iterable[float | None],
  ) -> bool:
    if self.grid is None or not self._able or time is None:
      return True
    later = (
      other
      for other in itertools.chain(behind, ahead)
      if other is not None and other > time
    )
    following = min(later, default=None)
    return following is None or self.grid(following) > self.grid(time)


def _time(packet) -> float | None:
  if packet.pts is None or not packet.time_base:
    return None
  return float(packet.pts * packet.time_base)
