"""Formulations of attention, and which one suits which hardware.

All take queries `[N, T, K, D]`, keys and values `[N, S, K, D]` and compute
what `ops.attend` says:

* tiled: scores of a few elements, or of a few queries, at a time; any backend.
* lanes: tokens in a TPU's lanes, scores of a few elements at a time.
* elementwise: few tokens, whose products are not matrix products; elements of
  the batch in a TPU's lanes.
* packed: short sequences side by side in one, whose scores are masked.
* pallas: kernels for TPUs (`models.tpu`), which also read what a linear map
  made in its place.
* cudnn: cuDNN's, for GPUs.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike

from mmdiff_jax.models.lane_attention import elementwise, lanes
from mmdiff_jax.models.tiled_attention import UNIT, packed, tiled
from mmdiff_jax.models.tpu import cross_attention, self_attention, tiles

# Tokens of which `elementwise` writes out every query.
_FEW = 32

# Tokens that the kernels for TPUs hold in fast memory at once, at most.
_HELD = 4096
# Bytes of a ring of keys with its sums that they may hold there.
_RING = 2**25

_CUDNN_TYPES = (jnp.bfloat16, jnp.float16)
_CUDNN_MAX_WIDTH = 128
# Of sequences: one more, and cuDNN fails when it is run (seen by others with
# cuDNN 9.2 on an H100: https://github.com/pytorch/pytorch/pull/181235).
_CUDNN_MAX_BATCH = 2**16 - 1


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
  "pallas": cross_attention.attend,
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
    tokens, channels = max(q.shape[1], k.shape[1]), math.prod(q.shape[2:])
    if self._kernels(channels) and _FEW < tokens <= _HELD:
      return cross_attention.attend
    if tokens <= _FEW:
      return elementwise
    return packed if tokens <= UNIT // 2 else lanes

  def _kernels(self, channels: int) -> bool:
    """Whether kernels for TPUs are used, which need whole registers."""
    return (
      self.platform == "tpu"
      and self.name in ("auto", "pallas")
      and channels % tiles.LANES == 0
    )

  def in_place(self, shape: Sequence[int], heads: int) -> bool:
    """Whether `self_attend` takes what is projected from such an array."""
    if not self._kernels(shape[-1]) or shape[-1] % heads:
      return False
    if len(shape) == 3:
      return shape[1] <= _HELD
    _, frames, pixels, _ = shape
    tile = frames * self_attention.pixels_at_once(frames, pixels)
    return pixels % 16 == 0 and tile <= 512

  def self_attend(self, x: jax.Array, heads: int) -> jax.Array:
    """See `tpu.self_attention`; every device for itself."""
    one = functools.partial(self_attention.self_attend, heads=heads)
    return self._apart(one, x)

  def takes_windows(
    self, queries: Sequence[int], keys: Sequence[int], window: int
  ) -> bool:
    """Whether `attend_windows` takes arrays `[B, F, T, C]` of such shapes."""
    *_, frames, tokens, channels = keys
    held = tokens if window == 1 else frames * tokens
    # In bfloat16 twice and float32 sums, of keys and of values.
    fits = window == 1 or held * tiles.LANES * 2 * 12 <= _RING
    return (
      self._kernels(channels)
      and max(queries[2], window * tokens) <= _HELD
      and fits
    )

  def attend_windows(
    self,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    heads: int,
    window: int,
    shift: int | jax.Array,
  ) -> jax.Array:
    """See `tpu.cross_attention`; every device for itself."""

    def one(
      shift: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array
    ) -> jax.Array:
      return cross_attention.attend_windows(q, k, v, heads, window, shift)

    return self._apart(one, q, k, v, whole=(jnp.asarray(shift, jnp.int32),))

  def _apart(
    self,
    function: Callable[..., jax.Array],
    *args: jax.Array,
    whole: tuple[jax.Array, ...] = (),
  ) -> jax.Array:
    """Calls `function(*whole, *args)` on every device's share of `args`."""
    if self.mesh is None or args[0].shape[0] % self.mesh.size:
      return function(*whole, *args)
    # A loop over a split axis would gather it, and kernels cannot be split.
    split = PartitionSpec(self.mesh.axis_names)
    specs = (PartitionSpec(),) * len(whole) + (split,) * len(args)
    return jax.shard_map(
      function,
      mesh=self.mesh,
      in_specs=specs,
      out_specs=split,
      check_vma=False,
    )(*whole, *args)

  def __call__(
    self, q: jax.Array, k: jax.Array, v: jax.Array
  ) -> jax.Array | None:
    """Attends on every device for itself; None leaves it to XLA."""
    chosen = self.choose(q, k, v)
    return chosen and self._apart(chosen, q, k, v)
