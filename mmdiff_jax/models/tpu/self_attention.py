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


def _tokens_forward(x_ref: Any, out_ref: Any, *, width: int) -> None:
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
        out = tiles.forward(x_ref[r, at, lanes], [keys], [values], width)
        out_ref[r, at, lanes] = out.astype(out_ref.dtype)

      tiles.repeat(tokens // size, part)

  tiles.repeat(rows, row)


def _tokens_backward(
  x_ref: Any,
  out_ref: Any,
  grad_ref: Any,
  dx_ref: Any,
  dk_ref: Any,
  dv_ref: Any,
  *,
  width: int,
) -> None:
  rows, tokens, channels = out_ref.shape
  size = tiles.queries_at_once(tokens)

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
        dq, dk, dv = tiles.backward(
          x_ref[r, at, lanes],
          [x_ref[r, :, key_lanes]],
          [x_ref[r, :, value_lanes]],
          out_ref[r, at, lanes],
          grad_ref[r, at, lanes],
          width,
        )
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


def _frames_forward(x_ref: Any, out_ref: Any, *, width: int) -> None:
  """Attention of each pixel of `[1, F, P, 3C]` over its frames."""
  _, frames, pixels, channels = out_ref.shape
  mask = _same_pixel(frames, pixels)
  for lanes in _groups(channels, width):
    q, k, v = (
      x_ref[0, :, :, _moved(lanes, channels * n)].reshape(frames * pixels, -1)
      for n in range(3)
    )
    out = tiles.forward(q, [k], [v], width, mask).astype(out_ref.dtype)
    out_ref[0, :, :, lanes] = out.reshape(frames, pixels, -1)


def _frames_backward(
  x_ref: Any, out_ref: Any, grad_ref: Any, dx_ref: Any, *, width: int
) -> None:
  _, frames, pixels, channels = out_ref.shape
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
    dq, dk, dv = tiles.backward(q, [k], [v], out, grad, width, mask)
    for n, part in enumerate((dq, dk[0], dv[0])):
      part = part.astype(dx_ref.dtype).reshape(frames, pixels, -1)
      dx_ref[0, :, :, _moved(lanes, channels * n)] = part


def _call(x: jax.Array, heads: int, kept: tuple[jax.Array, ...]) -> jax.Array:
  """Runs a kernel: the backward one where there is something kept."""
  channels = x.shape[-1] // 3
  width, over_frames = channels // heads, x.ndim == 4
  back, scratch = bool(kept), []
  kernel: Any
  if over_frames:
    batch, frames, total, _ = x.shape
    pixels = pixels_at_once(frames, total)
    grid: tuple[int, ...] = (batch, total // pixels)
    kernel = _frames_backward if back else _frames_forward
    pairs = batch * total * frames**2

    def spec(lanes: int) -> pl.BlockSpec:
      return pl.BlockSpec((1, frames, pixels, lanes), lambda b, p: (b, 0, p, 0))

  else:
    count, tokens, _ = x.shape
    rows = math.gcd(count, max(1, _TOKENS // tokens))
    grid, pairs = (count // rows,), count * tokens**2
    kernel = _tokens_backward if back else _tokens_forward
    if back:
      group = tiles.group_width(channels, width)
      scratch = [pltpu.VMEM((tokens, group), jnp.float32)] * 2

    def spec(lanes: int) -> pl.BlockSpec:
      return pl.BlockSpec((rows, tokens, lanes), lambda n: (n, 0, 0))

  lanes = 3 * channels if back else channels
  made = jax.ShapeDtypeStruct((*x.shape[:-1], lanes), x.dtype)
  return pl.pallas_call(
    functools.partial(kernel, width=width),
    grid=grid,
    in_specs=[spec(a.shape[-1]) for a in (x, *kept)],
    out_specs=spec(lanes),
    out_shape=made,
    scratch_shapes=scratch,
    compiler_params=compiler_params(*("parallel",) * len(grid)),
    cost_estimate=cost(5 if back else 2, pairs, heads, width, [x, *kept, made]),
    name=f"attend_{'frames' if over_frames else 'tokens'}"
    f"{'_backward' if back else ''}",
  )(x, *kept)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def self_attend(x: jax.Array, heads: int) -> jax.Array:
  """Self-attention of tokens, or of each pixel over its frames.

  Args:
    x: queries, keys and values side by side, `[N, T, 3C]` for attention over
      T or `[B, F, P, 3C]` over F.
    heads: in each of the three, side by side.

  Returns:
    `[N, T, C]` or `[B, F, P, C]`.
  """
  return _call(x, heads, ())


def _forward(x: jax.Array, heads: int) -> tuple[jax.Array, Any]:
  out = product(_call(x, heads, ()))
  return out, (x, out)


def _backward(heads: int, kept: Any, grad: jax.Array) -> tuple[jax.Array]:
  x, out = kept
  return (_call(x, heads, (out, grad)),)


self_attend.defvjp(_forward, _backward)
