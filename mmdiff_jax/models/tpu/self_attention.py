"""Self-attention over pixels or frames, read where queries, keys, values lie.

Arrays are what one linear map makes, `[..., 3C]`, q beside k beside v; their
gradient is written in the same place. Nothing is transposed, cut or padded in
the main memory, and no scores are written there.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mmdiff_jax.models.remat import product
from mmdiff_jax.models.tpu import tiles

# Tokens of a step of short sequences, of which several are taken.
_TOKENS = 512
# Frames x pixels of a tile of attention over frames: one masked product.
_TILE = 256
MEMORY = 2**26


def compiler_params(*semantics: Any) -> pltpu.CompilerParams:
  """What Mosaic is told of a kernel, by what it may do with each grid axis."""
  return pltpu.CompilerParams(
    dimension_semantics=semantics, vmem_limit_bytes=MEMORY
  )


def cost(
  products: int, pairs: int, heads: int, width: int, moved: list[Any]
) -> pl.CostEstimate:
  """What a kernel costs, for XLA and for our counts.

  Args:
    products: of queries' and keys' size.
    pairs: of a query and a key, over the whole batch.
    heads: of each.
    width: of a head.
    moved: arrays that are read or written.
  """
  return pl.CostEstimate(
    flops=2 * products * pairs * heads * width,
    transcendentals=pairs * heads,
    bytes_accessed=sum(math.prod(x.shape) * x.dtype.itemsize for x in moved),
  )


def pixels_at_once(frames: int, pixels: int) -> int:
  """Pixels of a tile of attention over frames: rows of whole registers."""
  wanted = max(16, _TILE // frames // 16 * 16)
  return wanted if pixels % wanted == 0 else pixels


def _groups(channels: int, width: int) -> list[slice]:
  size = tiles.group_width(channels, width)
  return [slice(at, at + size) for at in range(0, channels, size)]


def _moved(lanes: slice, by: int) -> slice:
  return slice(lanes.start + by, lanes.stop + by)


def _tokens_forward(
  x_ref: Any, bias_ref: Any, out_ref: Any, *, width: int
) -> None:
  """Attention of whole sequences `[rows, T, 3C]`."""
  rows, tokens, channels = out_ref.shape
  size = tiles.queries_at_once(tokens)

  def row(r: Any) -> None:
    for lanes in _groups(channels, width):

      def part(i: Any, lanes: slice = lanes) -> None:
        at = pl.ds(i * size, size)
        keys, values = (
          x_ref[r, :, _moved(lanes, channels * n)] for n in (1, 2)
        )
        q = x_ref[r, at, lanes] + bias_ref[0:1, lanes]
        out = tiles.forward(q, [keys], [values], width, x_ref.dtype)
        out += bias_ref[0:1, _moved(lanes, 2 * channels)]
        out_ref[r, at, lanes] = out.astype(out_ref.dtype)

      tiles.repeat(tokens // size, part)

  tiles.repeat(rows, row)


def _tokens_backward(
  x_ref: Any,
  bias_ref: Any,
  out_ref: Any,
  grad_ref: Any,
  dx_ref: Any,
  sums_ref: Any,
  dk_ref: Any,
  dv_ref: Any,
  *,
  width: int,
) -> None:
  rows, tokens, channels = out_ref.shape
  size = tiles.queries_at_once(tokens)
  sums_ref[...] = jnp.zeros_like(sums_ref)

  def row(r: Any) -> None:
    for lanes in _groups(channels, width):
      key_lanes, value_lanes = (_moved(lanes, channels * n) for n in (1, 2))
      dk_ref[...] = jnp.zeros_like(dk_ref)
      dv_ref[...] = jnp.zeros_like(dv_ref)

      def part(
        i: Any,
        lanes: slice = lanes,
        key_lanes: slice = key_lanes,
        value_lanes: slice = value_lanes,
      ) -> None:
        at = pl.ds(i * size, size)
        grad = grad_ref[r, at, lanes]
        dq, dk, dv = tiles.backward(
          x_ref[r, at, lanes] + bias_ref[0:1, lanes],
          [x_ref[r, :, key_lanes]],
          [x_ref[r, :, value_lanes]],
          out_ref[r, at, lanes] - bias_ref[0:1, value_lanes],
          grad,
          width,
          x_ref.dtype,
        )
        sums_ref[0, 0:1, lanes] += dq.sum(0, keepdims=True)
        total = grad.astype(jnp.float32).sum(0, keepdims=True)
        sums_ref[0, 0:1, value_lanes] += total
        dx_ref[r, at, lanes] = dq.astype(dx_ref.dtype)
        dk_ref[...] += dk[0]
        dv_ref[...] += dv[0]

      tiles.repeat(tokens // size, part)
      dx_ref[r, :, key_lanes] = dk_ref[...].astype(dx_ref.dtype)
      dx_ref[r, :, value_lanes] = dv_ref[...].astype(dx_ref.dtype)

  tiles.repeat(rows, row)


def _same_pixel(frames: int, pixels: int) -> jax.Array:
  """Mask of tokens `[F x P]` that are of one pixel."""
  size = frames * pixels
  row = jax.lax.broadcasted_iota(jnp.int32, (size, size), 0)
  column = jax.lax.broadcasted_iota(jnp.int32, (size, size), 1)
  return jax.lax.rem(row, pixels) == jax.lax.rem(column, pixels)


def _frames_forward(
  x_ref: Any, bias_ref: Any, out_ref: Any, *, width: int
) -> None:
  """Attention of each pixel of `[1, F, P, 3C]` over its frames."""
  _, frames, pixels, channels = out_ref.shape
  mask = _same_pixel(frames, pixels)
  for lanes in _groups(channels, width):
    q, k, v = (
      x_ref[0, :, :, _moved(lanes, channels * n)].reshape(frames * pixels, -1)
      for n in range(3)
    )
    q = q + bias_ref[0:1, lanes]
    out = tiles.forward(q, [k], [v], width, k.dtype, mask)
    out += bias_ref[0:1, _moved(lanes, 2 * channels)]
    out = out.astype(out_ref.dtype)
    out_ref[0, :, :, lanes] = out.reshape(frames, pixels, -1)


def _frames_backward(
  x_ref: Any,
  bias_ref: Any,
  out_ref: Any,
  grad_ref: Any,
  dx_ref: Any,
  sums_ref: Any,
  *,
  width: int,
) -> None:
  _, frames, pixels, channels = out_ref.shape
  sums_ref[...] = jnp.zeros_like(sums_ref)
  mask = _same_pixel(frames, pixels)
  for lanes in _groups(channels, width):
    q, k, v = (
      x_ref[0, :, :, _moved(lanes, channels * n)].reshape(frames * pixels, -1)
      for n in range(3)
    )
    out, grad = (
      ref[0, :, :, lanes].reshape(frames * pixels, -1)
      for ref in (out_ref, grad_ref)
    )
    value_lanes = _moved(lanes, 2 * channels)
    q = q + bias_ref[0:1, lanes]
    out = out - bias_ref[0:1, value_lanes]
    dq, dk, dv = tiles.backward(q, [k], [v], out, grad, width, k.dtype, mask)
    sums_ref[0, 0:1, lanes] = dq.sum(0, keepdims=True)
    total = grad.astype(jnp.float32).sum(0, keepdims=True)
    sums_ref[0, 0:1, value_lanes] = total
    for n, part in enumerate((dq, dk[0], dv[0])):
      part = part.astype(dx_ref.dtype).reshape(frames, pixels, -1)
      dx_ref[0, :, :, _moved(lanes, channels * n)] = part


def _call(
  x: jax.Array, bias: jax.Array, heads: int, kept: tuple[jax.Array, ...]
) -> Any:
  """Runs a kernel: the backward one where there is something kept."""
  lanes, channels = x.shape[-1], x.shape[-1] // 3
  width, over_frames = channels // heads, x.ndim == 4
  back, scratch = bool(kept), []
  kernel: Any
  shape: tuple[int, ...]
  if over_frames:
    batch, frames, total, _ = x.shape
    pixels = pixels_at_once(frames, total)
    inner, shape = total // pixels, (1, frames, pixels)
    kernel = _frames_backward if back else _frames_forward
    pairs, steps = batch * total * frames**2, batch * inner

    def place(i: Any) -> tuple[Any, ...]:
      return jax.lax.div(i, inner), 0, jax.lax.rem(i, inner), 0

  else:
    count, tokens, _ = x.shape
    rows = math.gcd(count, max(1, _TOKENS // tokens))
    kernel = _tokens_backward if back else _tokens_forward
    pairs, steps, shape = count * tokens**2, count // rows, (rows, tokens)
    if back:
      group = tiles.group_width(channels, width)
      scratch = [pltpu.VMEM((tokens, group), jnp.float32)] * 2

    def place(i: Any) -> tuple[Any, ...]:
      return i, 0, 0

  def spec(size: int) -> pl.BlockSpec:
    return pl.BlockSpec((*shape, size), place)

  made: Any = jax.ShapeDtypeStruct((*x.shape[:-1], channels), x.dtype)
  out_specs: Any = spec(channels)
  if back:
    # Sums for the gradient of the bias, of each step for itself.
    sums = jax.ShapeDtypeStruct((steps, 1, lanes), jnp.float32)
    made = [jax.ShapeDtypeStruct(x.shape, x.dtype), sums]
    own = pl.BlockSpec((1, 1, lanes), lambda i: (i, 0, 0))
    out_specs = [spec(lanes), own]
  whole = pl.BlockSpec((1, lanes), lambda i: (0, 0))
  inputs = [x, bias.astype(jnp.float32).reshape(1, lanes), *kept]
  return pl.pallas_call(
    functools.partial(kernel, width=width),
    grid=(steps,),
    in_specs=[spec(lanes), whole, *(spec(a.shape[-1]) for a in kept)],
    out_specs=out_specs,
    out_shape=made,
    scratch_shapes=scratch,
    compiler_params=compiler_params("parallel"),
    cost_estimate=cost(
      5 if back else 2,
      pairs,
      heads,
      width,
      [*inputs, *jax.tree.leaves(made)],
    ),
    name=f"attend_{'frames' if over_frames else 'tokens'}"
    f"{'_backward' if back else ''}",
  )(*inputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def self_attend(x: jax.Array, bias: jax.Array, heads: int) -> jax.Array:
  """Self-attention of tokens, or of each pixel over its frames.

  The bias is added here, where its gradient costs next to nothing. That of the
  keys adds the same to all scores of a query, which no softmax sees; that of
  the values adds to their mean.

  Args:
    x: queries, keys and values side by side, without their bias, `[N, T, 3C]`
      for attention over T or `[B, F, P, 3C]` over F.
    bias: `[3C]`.
    heads: in each of the three, side by side.

  Returns:
    `[N, T, C]` or `[B, F, P, C]`.
  """
  return _call(x, bias, heads, ())


def _forward(
  x: jax.Array, bias: jax.Array, heads: int
) -> tuple[jax.Array, Any]:
  out = product(_call(x, bias, heads, ()))
  return out, (x, bias, out)


def _backward(
  heads: int, kept: Any, grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
  x, bias, out = kept
  dx, sums = _call(x, bias, heads, (out, grad))
  return dx, sums.sum((0, 1)).astype(bias.dtype)


self_attend.defvjp(_forward, _backward)
