"""Attention to windows of another stream's frames, read where they lie.

Windows overlap and are shifted; none is cut out or repeated in the main memory.
A kernel's step has one frame of queries. A window of one frame is the block
that the step reads; of wider ones it has the whole ring at hand.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mmdiff_jax.models.remat import product
from mmdiff_jax.models.tpu import tiles
from mmdiff_jax.models.tpu.self_attention import compiler_params, cost


def _window(ref: Any, window: int, shift: Any) -> list[Any]:
  """Where in a block `[1, R, S, G]` the frames of a window are."""
  if window == 1:
    return [0]
  first = pl.program_id(2) + shift
  return [jax.lax.rem(first + j, ref.shape[1]) for j in range(window)]


def _forward_kernel(
  shift_ref: Any,
  q_ref: Any,
  k_ref: Any,
  v_ref: Any,
  out_ref: Any,
  *,
  width: int,
  window: int,
) -> None:
  tokens = q_ref.shape[2]
  size = tiles.queries_at_once(tokens)
  frames = _window(k_ref, window, shift_ref[0])

  def part(i: Any) -> None:
    at = pl.ds(i * size, size)
    keys, values = ([ref[0, f] for f in frames] for ref in (k_ref, v_ref))
    out = tiles.forward(q_ref[0, 0, at], keys, values, width)
    out_ref[0, 0, at] = out.astype(out_ref.dtype)

  tiles.repeat(tokens // size, part)


def _backward_kernel(
  shift_ref: Any,
  q_ref: Any,
  k_ref: Any,
  v_ref: Any,
  out_ref: Any,
  grad_ref: Any,
  dq_ref: Any,
  dk_ref: Any,
  dv_ref: Any,
  sum_k_ref: Any,
  sum_v_ref: Any,
  *,
  width: int,
  window: int,
) -> None:
  tokens, step = q_ref.shape[2], pl.program_id(2)
  size = tiles.queries_at_once(tokens)
  frames = _window(k_ref, window, shift_ref[0])
  sums = ((dk_ref, sum_k_ref), (dv_ref, sum_v_ref))

  @pl.when(jnp.logical_or(step == 0, window == 1))
  def _begin() -> None:
    for _, total in sums:
      total[...] = jnp.zeros_like(total)

  def part(i: Any) -> None:
    at = pl.ds(i * size, size)
    keys, values = ([ref[0, f] for f in frames] for ref in (k_ref, v_ref))
    dq, dk, dv = tiles.backward(
      q_ref[0, 0, at],
      keys,
      values,
      out_ref[0, 0, at],
      grad_ref[0, 0, at],
      width,
    )
    dq_ref[0, 0, at] = dq.astype(dq_ref.dtype)
    for f, one_k, one_v in zip(frames, dk, dv, strict=True):
      sum_k_ref[f] += one_k
      sum_v_ref[f] += one_v

  tiles.repeat(tokens // size, part)

  @pl.when(jnp.logical_or(step == pl.num_programs(2) - 1, window == 1))
  def _end() -> None:
    for ref, total in sums:
      ref[0] = total[...].astype(ref.dtype)


def _call(
  width: int,
  window: int,
  shift: jax.Array,
  qkv: tuple[jax.Array, ...],
  kept: tuple[jax.Array, ...],
) -> Any:
  """Runs a kernel: the backward one where there is something kept."""
  q, k, _ = qkv
  batch, frames, queries, channels = q.shape
  ring, keys = k.shape[1:3]
  group = tiles.group_width(channels, width)
  back = bool(kept)
  held = 1 if window == 1 else ring
  if window == 1:

    def place(b: Any, g: Any, i: Any, shift_ref: Any) -> tuple[Any, ...]:
      return b, jax.lax.rem(i + shift_ref[0], ring), 0, g

  else:

    def place(b: Any, g: Any, i: Any, shift_ref: Any) -> tuple[Any, ...]:
      return b, 0, 0, g

  query = pl.BlockSpec((1, 1, queries, group), lambda b, g, i, s: (b, i, 0, g))
  key = pl.BlockSpec((1, held, keys, group), place)
  inputs = [*qkv, *kept]
  made: Any = jax.ShapeDtypeStruct(q.shape, q.dtype)
  out_specs: Any = query
  scratch = []
  if back:
    like_k = jax.ShapeDtypeStruct(k.shape, k.dtype)
    made, out_specs = [made, like_k, like_k], [query, key, key]
    scratch = [pltpu.VMEM((held, keys, group), jnp.float32)] * 2
  kernel = _backward_kernel if back else _forward_kernel
  # A ring's sums are of all its steps, in turn.
  last = "parallel" if window == 1 or not back else "arbitrary"
  return pl.pallas_call(
    functools.partial(kernel, width=width, window=window),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=(batch, channels // group, frames),
      in_specs=[query, key, key, *(query for _ in kept)],
      out_specs=out_specs,
      scratch_shapes=scratch,
    ),
    out_shape=made,
    compiler_params=compiler_params("parallel", "parallel", last),
    cost_estimate=cost(
      5 if back else 2,
      batch * frames * queries * window * keys,
      channels // width,
      width,
      [*inputs, *jax.tree.leaves(made)],
    ),
    name=f"attend_windows{'_backward' if back else ''}",
  )(shift, *inputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(
  width: int,
  window: int,
  shift: jax.Array,
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
) -> jax.Array:
  return _call(width, window, shift, (q, k, v), ())


def _forward(
  width: int, window: int, shift: jax.Array, *qkv: jax.Array
) -> tuple[jax.Array, Any]:
  out = product(_call(width, window, shift, qkv, ()))
  return out, (shift, qkv, out)


def _backward(
  width: int, window: int, kept: Any, grad: jax.Array
) -> tuple[Any, ...]:
  shift, qkv, out = kept
  no_shift = np.zeros(shift.shape, jax.dtypes.float0)
  return no_shift, *_call(width, window, shift, qkv, (out, grad))


_attend.defvjp(_forward, _backward)


def attend_windows(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  heads: int,
  window: int = 1,
  shift: int | jax.Array = 0,
) -> jax.Array:
  """Attention of each frame to a window of another stream's frames.

  Frame i sees all tokens of the frames `(i + shift + j) mod F`, `j < window`.

  Args:
    q: queries `[B, F, T, C]`, heads side by side.
    k: keys `[B, F, S, C]`.
    v: values, likewise.
    heads: of each.
    window: in frames.
    shift: may be traced; not negative.

  Returns:
    `[B, F, T, C]`.
  """
  first = jnp.asarray(shift, jnp.int32).reshape(1)
  return _attend(q.shape[-1] // heads, window, first, q, k, v)


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """See `models.attention`: queries `[N, T, K, D]`."""
  heads = q.shape[2]

  def flat(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], 1, x.shape[1], math.prod(x.shape[2:]))

  return attend_windows(flat(q), flat(k), flat(v), heads).reshape(q.shape)
