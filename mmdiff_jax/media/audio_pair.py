"""Left and right of one sound that lie in two streams."""

from collections.abc import Iterator, Sequence

import numpy as np

from mmdiff_jax.media.audio_clock import Aligner, Piece

# Silence is made in blocks of so many seconds.
_BLOCK = 1.0


class Pair:
  """Puts two single channels side by side on one time axis."""

  def __init__(self, sides: Sequence[Iterator[Piece]], rate: int):
    """Takes the pieces of both, of one channel and `rate` Hz each."""
    self._aligners = [Aligner(rate) for _ in sides]
    self._sides = [
      aligner.align(pieces)
      for aligner, pieces in zip(self._aligners, sides, strict=True)
    ]
    self._rate = rate

  def pieces(self) -> Iterator[Piece]:
    """Yields (seconds at first, then None; float32 `[n, 2]`).

    Where one side has not begun, or has ended, it is silent.
    """
    first = [next(side, None) for side in self._sides]
    starts = [
      aligner.start
      for aligner, block in zip(self._aligners, first, strict=True)
      if block is not None
    ]
    if not starts:
      return
    start = min(starts)
    sources = [
      self._padded(round((aligner.start - start) * self._rate), block, side)
      for aligner, block, side in zip(
        self._aligners, first, self._sides, strict=True
      )
    ]
    time: float | None = start
    held = [next(source, None) for source in sources]
    while any(block is not None for block in held):
      count = min(len(block) for block in held if block is not None)
      yield (
        time,
        np.concatenate(
          [
            np.zeros((count, 1), np.float32) if b is None else b[:count]
            for b in held
          ],
          axis=1,
        ),
      )
      time = None
      held = [
        b[count:] if b is not None and len(b) > count else next(source, None)
        for b, source in zip(held, sources, strict=True)
      ]

  def repairs(self) -> list[str]:
    """What was filled, cut or resampled so far, in words."""
    words = [w for aligner in self._aligners for w in aligner.repairs()]
    return list(dict.fromkeys(words))

  def _padded(
    self, count: int, block: np.ndarray | None, side: Iterator[np.ndarray]
  ) -> Iterator[np.ndarray]:
    """A side behind so many samples of silence."""
    if block is None:
      return
    size = max(1, round(_BLOCK * self._rate))
    for begin in range(0, count, size):
      yield np.zeros((min(size, count - begin), 1), np.float32)
    yield block
    yield from side
