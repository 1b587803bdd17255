"""Attention that fills the lanes of a TPU, with a backward pass of its own.

The backward pass keeps the softmax's denominators, not the scores (as
FlashAttention does, arXiv 2205.14135). There is no forward-mode derivative.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmdiff_jax.models.remat import product
from mmdiff_jax.models.tiled_attention import TILE, UNIT, divisor, tiled


class _Part(NamedTuple):
  """Attention of a part of the batch, with its backward pass.

  Attributes:
    forward: maps queries, keys and values to averages and the logarithms of
      the softmax's denominators.
    backward: maps the three, what `forward` made of them and the gradient of
      the averages to the gradients of the three.
    axis: of the batch, in all these arrays.
  """

  forward: Callable[..., tuple[jax.Array, jax.Array]]
  backward: Callable[..., tuple[jax.Array, ...]]
  axis: int

  def cut(self, x: jax.Array, i: jax.Array, size: int) -> jax.Array:
    """Takes the i-th part of `size` elements."""
    return jax.lax.dynamic_slice_in_dim(x, i * size, size, self.axis)

  def put(self, x: jax.Array, part: jax.Array, i: jax.Array) -> jax.Array:
    """Puts the i-th part in its place."""
    start = i * part.shape[self.axis]
    return jax.lax.dynamic_update_slice_in_dim(x, part, start, self.axis)


def _forward(
  attention: _Part, size: int, q: jax.Array, k: jax.Array, v: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Runs `attention.forward` on `size` elements at a time."""

  def step(i: jax.Array, made: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    parts = attention.forward(*(attention.cut(x, i, size) for x in (q, k, v)))
    return tuple(
      attention.put(x, part, i) for x, part in zip(made, parts, strict=True)
    )

  shapes = jax.eval_shape(attention.forward, q, k, v)
  made = tuple(jnp.zeros(x.shape, x.dtype) for x in shapes)
  out, log_total = jax.lax.fori_loop(
    0, q.shape[attention.axis] // size, step, made
  )
  return out, log_total


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _in_parts(
  attention: _Part, size: int, q: jax.Array, k: jax.Array, v: jax.Array
) -> jax.Array:
  """Attention of `size` elements at a time, whose scores nobody keeps."""
  return _forward(attention, size, q, k, v)[0]


def _in_parts_forward(
  attention: _Part, size: int, q: jax.Array, k: jax.Array, v: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  out, log_total = map(product, _forward(attention, size, q, k, v))
  return out, (q, k, v, out, log_total)


def _in_parts_backward(
  attention: _Part,
  size: int,
  kept: tuple[jax.Array, ...],
  gradient: jax.Array,
) -> tuple[jax.Array, ...]:
  *qkv, out, log_total = kept

  def step(i: jax.Array, qkv: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    given = (*qkv, out, log_total, gradient)
    parts = attention.backward(*(attention.cut(x, i, size) for x in given))
    # Gradients take the place of what they belong to: a part is read once.
    return tuple(
      attention.put(x, part, i) for x, part in zip(qkv, parts, strict=True)
    )

  steps = out.shape[attention.axis] // size
  return jax.lax.fori_loop(0, steps, step, tuple(qkv))


_in_parts.defvjp(_in_parts_forward, _in_parts_backward)


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
  return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _lanes_forward(
  q: jax.Array, k: jax.Array, v: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Attention of queries `[N, K, D, T]`, keys and values `[N, K, D, S]`."""
  width = q.shape[2]
  scores = _product("nkds,nkdt->nkst", k, q * width**-0.5)
  peak = scores.max(2)
  weights = jnp.exp(scores - peak[:, :, None]).astype(v.dtype)
  # One more channel, of ones, has the weights summed by the same product.
  ones = jnp.ones_like(v[:, :, :1])
  sums = _product("nkds,nkst->nkdt", jnp.concatenate([v, ones], 2), weights)
  out, total = sums[:, :, :width], sums[:, :, width]
  out = (out / total[:, :, None]).astype(v.dtype)
  return out, peak + jnp.log(total)


def _lanes_backward(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  out: jax.Array,
  log_total: jax.Array,
  gradient: jax.Array,
) -> tuple[jax.Array, ...]:
  """Gradients of `_lanes_forward`."""
  scale = q.shape[2] ** -0.5
  # Read before the first gradient takes their place: XLA would rather copy
  # the whole of `k` and `v` for every part.
  q, k, v, gradient = jax.lax.optimization_barrier((q, k, v, gradient))
  q = q * scale
  scores = _product("nkds,nkdt->nkst", k, q)
  weights = jnp.exp(scores - log_total[:, :, None])
  mean = (out.astype(jnp.float32) * gradient.astype(jnp.float32)).sum(2)
  change = _product("nkds,nkdt->nkst", v, gradient) - mean[:, :, None]
  change = (weights * change).astype(q.dtype)
  return (
    (_product("nkds,nkst->nkdt", k, change) * scale).astype(q.dtype),
    _product("nkdt,nkst->nkds", q, change).astype(k.dtype),
    _product("nkdt,nkst->nkds", gradient, weights.astype(v.dtype)).astype(
      v.dtype
    ),
  )


def lanes(
  q: jax.Array, k: jax.Array, v: jax.Array, tile: int = TILE
) -> jax.Array:
  """Attention whose tokens lie in the lanes of a TPU, where heads do not.

  Linear maps write such arrays at no cost, and softmax reduces over rows.
  Longer sequences than have `tile` scores are left to `tiled`.
  """
  n, queries, heads, _ = q.shape
  scores = heads * queries * k.shape[1]
  if scores > tile:
    return tiled(q, k, v, tile)
  q, k, v = (x.transpose(0, 2, 3, 1) for x in (q, k, v))
  part = _Part(_lanes_forward, _lanes_backward, 0)
  out = _in_parts(part, divisor(n, tile // scores), q, k, v)
  return out.transpose(0, 3, 1, 2)


def _elementwise_forward(
  q: jax.Array, k: jax.Array, v: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Attention of queries `[T, K, D, N]`, keys and values `[S, K, D, N]`."""
  scale, dtype = q.shape[2] ** -0.5, v.dtype
  q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
  out, log_total = [], []
  for query in q:
    scores = (query * k).sum(2) * scale
    peak = scores.max(0)
    weights = jnp.exp(scores - peak)
    total = weights.sum(0)
    mean = (weights[:, :, None] * v).sum(0) / total[:, None]
    out.append(mean.astype(dtype))
    log_total.append(peak + jnp.log(total))
  return jnp.stack(out), jnp.stack(log_total)


def _elementwise_backward(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  out: jax.Array,
  log_total: jax.Array,
  gradient: jax.Array,
) -> tuple[jax.Array, ...]:
  """Gradients of `_elementwise_forward`."""
  scale, dtype = q.shape[2] ** -0.5, q.dtype
  q, k, v, out, gradient = (
    x.astype(jnp.float32) for x in (q, k, v, out, gradient)
  )
  dq, dk, dv = [], jnp.zeros_like(k), jnp.zeros_like(v)
  for i, query in enumerate(q):
    weights = jnp.exp((query * k).sum(2) * scale - log_total[i])
    mean = (out[i] * gradient[i]).sum(1)
    change = weights * ((gradient[i] * v).sum(2) - mean) * scale
    dq.append((change[:, :, None] * k).sum(0).astype(dtype))
    dk += change[:, :, None] * query
    dv += weights[:, :, None] * gradient[i]
  return jnp.stack(dq), dk.astype(dtype), dv.astype(dtype)


def elementwise(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """Attention over few tokens by products of elements, not of matrices.

  Elements of the batch lie in the lanes of a TPU: neither tokens nor heads,
  which would not fill them, are moved or padded.
  """
  n = q.shape[0]
  # Few enough to stay in fast memory, many enough to make steps rare.
  size = UNIT * divisor(n // UNIT, 4) if n % UNIT == 0 else n
  q, k, v = (x.transpose(1, 2, 3, 0) for x in (q, k, v))
  part = _Part(_elementwise_forward, _elementwise_backward, -1)
  return _in_parts(part, size, q, k, v).transpose(3, 0, 1, 2)
