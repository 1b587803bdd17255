"""Attention with bounded scores, and which formulation suits which hardware.

All take queries `[N, T, K, D]`, keys and values `[N, S, K, D]` and compute
what `ops.attend` says:

* tiled: scores of a few elements, or of a few queries, at a time; any backend.
* lanes: tokens in a TPU's lanes, scores of a few elements at a time.
* elementwise: few tokens, whose products are no matrix products; elements of
  the batch in a TPU's lanes.
* packed: short sequences side by side in one, whose scores are masked.
* pallas: JAX's flash attention for TPUs.
* cudnn: cuDNN's, for GPUs.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike

from mmdiff_jax.models import plain

# Scores that are computed at once: 32 MiB, which stay in a TPU's fast memory.
TILE = 2**23
# Rows and columns of a TPU's matrix unit. Shorter sequences are padded to it.
_UNIT = 128
# Tokens of which `elementwise` writes out every query.
_FEW = 32

_CUDNN_TYPES = (jnp.bfloat16, jnp.float16)
_CUDNN_MAX_WIDTH = 128


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
  rows = _divisor(n, tile // scores)
  parts = (x.reshape(n // rows, rows, *x.shape[1:]) for x in (q, k, v))
  # Whole elements, heads and all: moving heads ahead of tokens is left to the
  # loop, where it touches fast memory alone.
  return jax.lax.map(lambda part: one(*part), tuple(parts)).reshape(q.shape)


def _by_queries(
  q: jax.Array, k: jax.Array, v: jax.Array, tile: int
) -> jax.Array:
  """Attention of one element, some of its queries at a time."""
  _, queries, heads, width = q.shape
  count = _divisor(queries, tile // (heads * k.shape[1]))
  parts = q.reshape(queries // count, 1, count, heads, width)
  one = jax.checkpoint(plain.attend)
  return jax.lax.map(lambda part: one(part, k, v), parts).reshape(q.shape)


def _divisor(n: int, limit: int) -> int:
  """The largest divisor of `n` up to a limit, or 1."""
  return max(d for d in range(1, n + 1) if n % d == 0 and d <= max(1, limit))


def packed(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """Attention over few tokens that fill a matrix unit together.

  As many sequences as fill one become a single sequence, in which a query sees
  the keys of its own alone.
  """
  n, queries, heads, width = q.shape
  keys = k.shape[1]
  together = math.gcd(n, max(1, _UNIT // max(queries, keys)))
  if together == 1:
    return tiled(q, k, v)
  owner = jnp.arange(together)
  mask = jnp.repeat(owner, queries)[:, None] == jnp.repeat(owner, keys)
  q, k, v = (x.reshape(n // together, -1, heads, width) for x in (q, k, v))
  return tiled(q, k, v, mask=mask).reshape(n, queries, heads, width)


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
  out, log_total = _forward(attention, size, q, k, v)
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
  out = _in_parts(part, _divisor(n, tile // scores), q, k, v)
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
  size = _UNIT * _divisor(n // _UNIT, 4) if n % _UNIT == 0 else n
  q, k, v = (x.transpose(1, 2, 3, 0) for x in (q, k, v))
  part = _Part(_elementwise_forward, _elementwise_backward, -1)
  return _in_parts(part, size, q, k, v).transpose(3, 0, 1, 2)


def pallas(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """JAX's flash attention for TPUs; lengths must be multiples of 128."""
  for name, x in (("queries", q), ("keys", k)):
    if x.shape[1] % _UNIT:
      raise ValueError(
        f"model.attention='pallas' takes multiples of {_UNIT} tokens, not "
        f"{x.shape[1]} {name}. Use 'auto'."
      )
  from jax.experimental.pallas.ops.tpu import flash_attention

  q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
  out = flash_attention.flash_attention(q, k, v, sm_scale=q.shape[-1] ** -0.5)
  return out.swapaxes(1, 2)


def cudnn(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """Flash attention of cuDNN."""
  return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


def cudnn_obstacle(width: int, dtype: DTypeLike) -> str | None:
  """Why cuDNN takes no heads of such width and type; None if it does."""
  if jnp.dtype(dtype) not in map(jnp.dtype, _CUDNN_TYPES):
    return f"it needs a 16-bit type, dtype is {jnp.dtype(dtype).name!r}"
  if width % 8 or width > _CUDNN_MAX_WIDTH:
    return (
      f"heads must be a multiple of 8 and at most {_CUDNN_MAX_WIDTH} "
      f"channels wide, these have {width}"
    )
  return None


def cudnn_refusal(q: jax.Array, k: jax.Array, v: jax.Array) -> str | None:
  """What keeps JAX from tracing cuDNN's attention; None if nothing does.

  Its absence, for one: no program can be lowered for CUDA with it then.
  """
  try:
    jax.eval_shape(cudnn, q, k, v)
  except (NotImplementedError, RuntimeError, ValueError) as error:
    return str(error).rstrip(".")
  return None


# By the name that `config.model.attention` gives them.
BOUNDED = {
  "tiled": tiled,
  "lanes": lanes,
  "elementwise": elementwise,
  "packed": packed,
  "pallas": pallas,
}
NAMES = ("auto", "xla", *BOUNDED, "cudnn")


@dataclasses.dataclass(frozen=True)
class On:
  """Attention by name, on hardware that is known.

  Attributes:
    name: one of `NAMES`.
    platform: "gpu" or "tpu".
    mesh: devices among which the leading axis is split; None is one device.
  """

  name: str
  platform: str
  mesh: Mesh | None = None

  def choose(
    self, q: jax.Array, k: jax.Array, v: jax.Array
  ) -> Callable[..., jax.Array] | None:
    """The formulation for such arrays of one device; None leaves it to XLA."""
    if self.name in BOUNDED:
      return BOUNDED[self.name]
    if self.name != "auto":
      return None
    if self.platform == "gpu":
      possible = not (
        cudnn_obstacle(q.shape[-1], q.dtype) or cudnn_refusal(q, k, v)
      )
      return cudnn if possible else tiled
    tokens = max(q.shape[1], k.shape[1])
    if tokens <= _FEW:
      return elementwise
    return packed if tokens <= _UNIT // 2 else lanes

  def __call__(
    self, q: jax.Array, k: jax.Array, v: jax.Array
  ) -> jax.Array | None:
    """Attends on every device for itself; None leaves it to XLA."""
    chosen = self.choose(q, k, v)
    if chosen is None or self.mesh is None or q.shape[0] % self.mesh.size:
      return chosen and chosen(q, k, v)
    # A loop over a split axis would gather it, and kernels cannot be split.
    split = PartitionSpec(self.mesh.axis_names)
    return jax.shard_map(
      chosen, mesh=self.mesh, in_specs=split, out_specs=split, check_vma=False
    )(q, k, v)
