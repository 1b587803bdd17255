"""How several hosts share the clips of a set, and exchange what they found."""

import jax
import numpy as np


def share_of_host(count: int) -> range:
  """Indices of the clips, of `count`, that this host takes: a run of them."""
  size = -(-count // jax.process_count())
  first = min(jax.process_index() * size, count)
  return range(first, min(first + size, count))


def anywhere(flags: np.ndarray | list[bool]) -> np.ndarray:
  """Whether each flag is set on any host."""
  if jax.process_count() == 1:
    return np.asarray(flags, bool)
  from jax.experimental import multihost_utils

  everyone = multihost_utils.process_allgather(np.asarray(flags, bool))
  return np.any(everyone, axis=0)


def join_shares(rows: list[np.ndarray], count: int) -> np.ndarray:
  """The rows of all hosts in the order of the clips.

  Args:
    rows: float32, of this host's share, all of one shape.
    count: of the clips of all hosts.
  """
  if jax.process_count() == 1:
    return np.stack(rows)
  from jax.experimental import multihost_utils

  # A host without a clip cannot know the rows' shape.
  shape = rows[0].shape if rows else ()
  shapes = multihost_utils.process_allgather(
    np.array([len(shape), *shape, 0, 0, 0, 0][:5], np.int32)
  )
  longest = max(shapes.tolist())
  shape = tuple(longest[1 : 1 + longest[0]])
  size = -(-count // jax.process_count())
  mine = np.zeros((size, *shape), np.float32)
  for place, row in zip(mine, rows, strict=False):
    place[...] = row
  everyone = np.asarray(multihost_utils.process_allgather(mine))
  return everyone.reshape(-1, *shape)[:count]
