"""Formulations of attention, and which one suits which hardware.

All take queries `[N, T, K, D]`, keys and values `[N, S, K, D]` and compute
what `ops.attend` says:

* tiled: scores of a few elements, or of a few queries, at a time; any backend.
* lanes: tokens in a TPU's lanes, scores of a few elements at a time.
* elementwise: few tokens, whose products are not matrix products; elements of
  the batch in a TPU's lanes.
* packed: short sequences side by side in one, whose scores are masked.
* pallas: JAX's flash attention for TPUs.
* cudnn: cuDNN's, for GPUs.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike

from mmdiff_jax.models.lane_attention import elementwise, lanes
from mmdiff_jax.models.tiled_attention import UNIT, packed, tiled

# Tokens of which `elementwise` writes out every query.
_FEW = 32

_CUDNN_TYPES = (jnp.bfloat16, jnp.float16)
_CUDNN_MAX_WIDTH = 128
# Of sequences: one more, and cuDNN fails when it is run (seen by others with
# cuDNN 9.2 on an H100: https://github.com/pytorch/pytorch/pull/181235).
_CUDNN_MAX_BATCH = 2**16 - 1


def pallas(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """JAX's flash attention for TPUs; lengths must be multiples of 128."""
  for name, x in (("queries", q), ("keys", k)):
    if x.shape[1] % UNIT:
      raise ValueError(
        f"model.attention='pallas' takes multiples of {UNIT} tokens, not "
        f"{x.shape[1]} {name}. Use 'auto'."
      )
  from jax.experimental.pallas.ops.tpu import flash_attention

  q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
  out = flash_attention.flash_attention(q, k, v, sm_scale=q.shape[-1] ** -0.5)
  return out.swapaxes(1, 2)


def cudnn(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """Flash attention of cuDNN, of as many sequences at a time as it takes."""
  count = -(-q.shape[0] // _CUDNN_MAX_BATCH)
  parts = zip(*(jnp.array_split(x, count) for x in (q, k, v)), strict=True)
  # Not a loop: it would copy all three.
  out = [
    jax.nn.dot_product_attention(*part, implementation="cudnn")
    for part in parts
  ]
  return jnp.concatenate(out) if count > 1 else out[0]


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

  Its absence, for one: no program can be lowered for CUDA with it then. The
  gradient has conditions of its own, such as an even number of tokens.
  """

  def total(*args: jax.Array) -> jax.Array:
    return cudnn(*args).sum()

  try:
    jax.eval_shape(jax.grad(total, argnums=(0, 1, 2)), q, k, v)
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
    return packed if tokens <= UNIT // 2 else lanes

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
