"""Attention of a tile in a TPU's fast memory, channels last.

Heads lie side by side in the lanes. No head is cut out, which would move data:
channels of the others are set to zero, so that products over all lanes of a
group are those of one head. With heads no wider than the matrix unit this
costs it nothing.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

# Lanes of a register, and columns of the matrix unit.
LANES = 128
# Queries that are worked on at once.
QUERIES = 256
# What takes no part in a softmax, yet has no infinite difference.
_NEVER = -1e30

Mask = jax.Array | None


def group_width(channels: int, width: int) -> int:
  """Lanes of the smallest group of whole heads that fills registers."""
  group = math.lcm(width, LANES)
  return group if channels % group == 0 else channels


def queries_at_once(tokens: int) -> int:
  """How many queries are worked on at once."""
  return QUERIES if tokens % QUERIES == 0 else tokens


def repeat(count: int, body: Callable[[Any], None]) -> None:
  """Calls `body(i)` for i below `count`, in a loop of the kernel."""
  if count == 1:
    body(0)
    return

  def step(i: jax.Array, carry: int) -> int:
    body(i)
    return carry

  jax.lax.fori_loop(0, count, step, 0)


def _product(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
  contracted = ((axes[0],), (axes[1],))
  return jax.lax.dot_general(
    a, b, (contracted, ((), ())), preferred_element_type=jnp.float32
  )


def _heads(x: jax.Array, width: int) -> list[jax.Array | None]:
  """For each head its lanes `[1, G]`; None for all of a single one."""
  lanes = x.shape[-1]
  if lanes == width:
    return [None]
  lane = jax.lax.broadcasted_iota(jnp.int32, (1, lanes), 1)
  head = jax.lax.div(lane, width)
  return [head == i for i in range(lanes // width)]


def _own(x: jax.Array, lanes: Mask) -> jax.Array:
  """One head's channels, zero elsewhere."""
  return x if lanes is None else jnp.where(lanes, x, 0.0)


def _put(into: jax.Array | None, x: jax.Array, lanes: Mask) -> jax.Array:
  """Puts one head's channels beside those of earlier ones."""
  return x if into is None or lanes is None else jnp.where(lanes, x, into)


def _weights(
  q: jax.Array, keys: Sequence[jax.Array], mask: Mask
) -> tuple[list[jax.Array], jax.Array]:
  """Exponentials of one head's scores, and their sums `[T, 1]`."""
  scores = [_product(q, k, (1, 1)) for k in keys]
  if mask is not None:
    scores = [jnp.where(mask, s, _NEVER) for s in scores]
  peaks = [s.max(-1, keepdims=True) for s in scores]
  peak = peaks[0]
  for other in peaks[1:]:
    peak = jnp.maximum(peak, other)
  weights = [jnp.exp(s - peak) for s in scores]
  total = weights[0].sum(-1, keepdims=True)
  for other in weights[1:]:
    total = total + other.sum(-1, keepdims=True)
  return weights, total


def forward(
  q: jax.Array,
  keys: Sequence[jax.Array],
  values: Sequence[jax.Array],
  width: int,
  mask: Mask = None,
) -> jax.Array:
  """Attention over all keys of a list.

  Args:
    q: queries `[T, G]`, some heads side by side.
    keys: each `[S, G]`.
    values: likewise.
    width: of a head.
    mask: bool `[T, S]`, whether a query sees a key.

  Returns:
    float32 `[T, G]`.
  """
  wide = q.astype(jnp.float32) * width**-0.5
  out = None
  for lanes in _heads(q, width):
    one = _own(wide, lanes).astype(q.dtype)
    weights, total = _weights(one, keys, mask)
    mean = None
    for w, v in zip(weights, values, strict=True):
      part = _product(w.astype(v.dtype), v, (1, 0))
      mean = part if mean is None else mean + part
    assert mean is not None
    mean = mean / total
    out = _put(out, mean, lanes)
  assert out is not None
  return out


def backward(
  q: jax.Array,
  keys: Sequence[jax.Array],
  values: Sequence[jax.Array],
  out: jax.Array,
  grad: jax.Array,
  width: int,
  mask: Mask = None,
) -> tuple[jax.Array, list[jax.Array], list[jax.Array]]:
  """Gradients of `forward`, whose scores are computed again.

  Args:
    q: see `forward`.
    keys: likewise.
    values: likewise.
    out: what it returned.
    grad: of that.
    width: of a head.
    mask: see `forward`.

  Returns:
    float32 gradients of queries, keys and values.
  """
  dtype, scale = q.dtype, width**-0.5
  wide, wide_grad = q.astype(jnp.float32) * scale, grad.astype(jnp.float32)
  shared = out.astype(jnp.float32) * wide_grad
  dq = None
  dk: list[Any] = [None] * len(keys)
  dv: list[Any] = [None] * len(keys)
  for lanes in _heads(q, width):
    one = _own(wide, lanes).astype(dtype)
    one_grad = _own(wide_grad, lanes).astype(dtype)
    mean = _own(shared, lanes).sum(-1, keepdims=True)
    weights, total = _weights(one, keys, mask)
    inverse = 1.0 / total
    change_of_q = None
    for i, (w, k, v) in enumerate(zip(weights, keys, values, strict=True)):
      p = w * inverse
      ds = (p * (_product(one_grad, v, (1, 1)) - mean)).astype(dtype)
      part = _product(ds, k, (1, 0))
      change_of_q = part if change_of_q is None else change_of_q + part
      for into, a, b in ((dk, ds, one), (dv, p.astype(dtype), one_grad)):
        part = _product(a, b, (0, 0))
        into[i] = part if into[i] is None else into[i] + part
    assert change_of_q is not None
    change_of_q = change_of_q * scale
    dq = _put(dq, change_of_q, lanes)
  assert dq is not None
  return dq, dk, dv
