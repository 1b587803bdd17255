"""Attention that computes a bounded number of scores at a time."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mmdiff_jax.models import plain

# Scores that are computed at once: 32 MiB, which stay in a TPU's fast memory.
TILE = 2**23
# Rows and columns of a TPU's matrix unit. Shorter sequences are padded to it.
UNIT = 128


def tiled(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  tile: int = TILE,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Attention that holds at most `tile` scores.

  The backward pass computes them again rather than read them from memory.

  Args:
    q: queries.
    k: keys.
    v: values.
    tile: number of scores; one query, or an element with a mask, may have
      more.
    mask: bool `[T, S]`, whether a query sees a key; None is always.
  """
  n, queries, heads, _ = q.shape
  scores = heads * queries * k.shape[1]
  if n * scores <= tile:
    return plain.attend(q, k, v, mask)
  one: Callable[..., jax.Array]
  if scores > tile and mask is None:
    one = functools.partial(_by_queries, tile=tile)
  else:
    one = jax.checkpoint(functools.partial(plain.attend, mask=mask))
  rows = divisor(n, tile // scores)
  parts = (x.reshape(n // rows, rows, *x.shape[1:]) for x in (q, k, v))
  # Whole elements, heads and all: moving heads ahead of tokens is left to the
  # loop, where it touches fast memory alone.
  return jax.lax.map(lambda part: one(*part), tuple(parts)).reshape(q.shape)


def _by_queries(
  q: jax.Array, k: jax.Array, v: jax.Array, tile: int
) -> jax.Array:
  """Attention of one element, some of its queries at a time."""
  _, queries, heads, width = q.shape
  count = divisor(queries, tile // (heads * k.shape[1]))
  parts = q.reshape(queries // count, 1, count, heads, width)
  one = jax.checkpoint(plain.attend)
  return jax.lax.map(lambda part: one(part, k, v), parts).reshape(q.shape)


def divisor(n: int, limit: int) -> int:
  """The largest divisor of `n` up to a limit, or 1."""
  return max(d for d in range(1, n + 1) if n % d == 0 and d <= max(1, limit))


def packed(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """Attention over few tokens that fill a matrix unit together.

  As many sequences as fill one become a single sequence, in which a query sees
  the keys of its own alone.
  """
  n, queries, heads, width = q.shape
  keys = k.shape[1]
  together = math.gcd(n, max(1, UNIT // max(queries, keys)))
  if together == 1:
    return tiled(q, k, v)
  owner = jnp.arange(together)
  mask = jnp.repeat(owner, queries)[:, None] == jnp.repeat(owner, keys)
  q, k, v = (x.reshape(n // together, -1, heads, width) for x in (q, k, v))
  return tiled(q, k, v, mask=mask).reshape(n, queries, heads, width)
