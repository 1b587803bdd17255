"""Attention with bounded scores, and which formulation suits which hardware.

All take queries `[N, T, K, D]`, keys and values `[N, S, K, D]` and compute
what `ops.attend` says:

* tiled: scores of a few elements, or of a few queries, at a time; any backend.
* packed: short sequences side by side in one, whose scores are masked.
* pallas: JAX's flash attention for TPUs.
* cudnn: cuDNN's, for GPUs.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike

from mmdiff_jax.models import plain

# Scores that are computed at once: 32 MiB, which stay in a TPU's fast memory.
TILE = 2**23
# Rows and columns of a TPU's matrix unit. Shorter sequences are padded to it.
_UNIT = 128

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
BOUNDED = {"tiled": tiled, "packed": packed, "pallas": pallas}
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
    return packed if max(q.shape[1], k.shape[1]) <= _UNIT // 2 else tiled

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
