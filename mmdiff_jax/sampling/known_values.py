"""Known values of a batch, cut to the pieces that are sampled."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mmdiff_jax.sampling.known_sources import Job


@dataclasses.dataclass(frozen=True)
class KnownValues:
  """What a batch of sources holds: values, and where they are kept.

  Attributes:
    values: by stream `[B, n, ...]`.
    kept: by stream, bool arrays that broadcast against the values.
    strength: see `edit.Edit`.
  """

  values: dict[str, np.ndarray]
  kept: dict[str, np.ndarray]
  strength: float | None = None

  @classmethod
  def of(cls, jobs: Sequence[Job]) -> "KnownValues":
    """Stacks the sources of jobs of one kind."""
    sources = [job.source for job in jobs if job.source is not None]
    if not sources:
      return cls({}, {})
    first = sources[0]
    values = {
      name: np.stack([source.known[name] for source in sources])
      for name in first.known
    }
    if first.kept is None:
      kept = {name: np.ones((1,) * x.ndim, bool) for name, x in values.items()}
    else:
      kept = {
        name: np.stack([(source.kept or {})[name] for source in sources])
        for name in first.kept
      }
    return cls(values, kept, first.strength)

  def cut(
    self, name: str, first: int, length: int
  ) -> tuple[np.ndarray, np.ndarray] | None:
    """Values of a stretch and where they are kept, or None where none are."""
    if name not in self.values or self.values[name].shape[1] <= first:
      return None
    values = self.values[name][:, first : first + length]
    kept = self.kept[name]
    if kept.shape[1] > 1:
      kept = kept[:, first : first + length]
    return values, np.broadcast_to(
      kept, (kept.shape[0], values.shape[1], *kept.shape[2:])
    )

  def restore(self, name: str, made: np.ndarray, values: np.ndarray) -> None:
    """Puts what is kept into what was made, as it is."""
    part = made[:, : values.shape[1]]
    np.copyto(part, values, where=self.kept[name])


def merge(
  part: tuple[np.ndarray, np.ndarray] | None,
  tail: np.ndarray | None,
  length: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Known values of a piece, and where they are known.

  Args:
    part: values of the source and where they are kept.
    tail: the end of the piece before, which is known where the source is not.
    length: of the piece.
  """
  if part is None:
    assert tail is not None
    where = np.arange(length) < tail.shape[1]
    return padded(tail, length), where.reshape(
      1, length, *(1,) * (tail.ndim - 2)
    )
  values, kept = part
  value, where = padded(values, length), padded(kept, length)
  if tail is not None:
    count = tail.shape[1]
    value[:, :count] = np.where(where[:, :count], value[:, :count], tail)
    where[:, :count] = True
  return value, where


def padded(x: np.ndarray, length: int) -> np.ndarray:
  """A copy of `x` that is zero beyond its end."""
  rest = [(0, 0)] * x.ndim
  rest[1] = (0, length - x.shape[1])
  result = np.pad(x, rest)
  return result if result.dtype == bool else result.astype(np.float32)
