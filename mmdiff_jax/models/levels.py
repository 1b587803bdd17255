"""Noise levels of a clip: one for all, one per stream, or one per frame.

A network is told the levels as step indices `t`: `[B]`, or by stream a dict of
`[B]` or `[B, F]`. One embedding serves all of them, so that equal levels are
the same network whichever way they are given.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.av import frame_of

# What a network accepts; each includes those before it.
LEVELS = ("shared", "stream", "frame")

Levels = jax.Array | Mapping[str, jax.Array]


def kind_of(t: Levels) -> str:
  """The member of `LEVELS` that step indices `t` belong to."""
  if not isinstance(t, Mapping):
    return "shared"
  return "stream" if all(x.ndim == 1 for x in t.values()) else "frame"


def check_levels(t: Levels, accepted: str, shapes: Mapping[str, Any]) -> None:
  """Raises ValueError for step indices that a network does not take.

  Args:
    t: `[B]`, or a dict by stream of `[B]` or `[B, F]`.
    accepted: member of `LEVELS`.
    shapes: of the noisy streams by name; video is `[B, F, ...]`.
  """
  kind = kind_of(t)
  if LEVELS.index(kind) > LEVELS.index(accepted):
    raise ValueError(
      f"t holds one noise level per {kind}, but this network takes "
      f"{_WORDS[accepted]}."
    )
  if isinstance(t, Mapping) and t.keys() != shapes.keys():
    raise ValueError(
      f"t names the streams {sorted(t)}; expected {sorted(shapes)}."
    )
  batch = next(iter(shapes.values()))[0]
  allowed: list[tuple[int, ...]] = [(batch,)]
  if kind == "frame":
    allowed.append((batch, shapes["video"][1]))
  by_name = t if isinstance(t, Mapping) else {"": t}
  for name, leaf in by_name.items():
    if leaf.shape not in allowed:
      what = f"t[{name!r}]" if name else "t"
      raise ValueError(
        f"{what} has shape {leaf.shape}; expected one step index per sample, "
        f"{' or per frame, '.join(map(str, allowed))}."
      )


_WORDS = {
  "shared": "one level for all streams of a sample, [B]",
  "stream": "at most one level per stream, a dict of [B]",
  "frame": "levels per frame",
}


def spread(values: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Lays values of samples or frames out along a stream.

  Args:
    values: `[B, C]`, or `[B, F, C]`.
    shape: of the stream, `[B, F, H, W, C]` or `[B, L, C]`.

  Returns:
    An array that broadcasts against the stream.
  """
  if values.ndim == 2:
    return jnp.expand_dims(values, tuple(range(1, len(shape) - 1)))
  frames = values.shape[1]
  if len(shape) > 3:
    return jnp.expand_dims(values, tuple(range(2, len(shape) - 1)))
  length = shape[1]
  if length % frames == 0:
    # A plain repeat: its gradient is a sum of neighbours, not a scatter.
    return jnp.repeat(values, length // frames, axis=1)
  member = np.eye(frames, dtype=np.float32)[frame_of(length, frames)]
  return jnp.einsum("lf,bfc->blc", member, values, precision="highest")
