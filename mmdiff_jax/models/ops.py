"""The one seam between the networks and the backends.

Each operation that a backend wants in a formulation of its own is called from
here, by the argument `kernels`:

* "plain": `models.plain`, what accelerators run.
* "cpu": `models.cpu`, the same values and gradients, faster on XLA:CPU.
* "auto": whichever suits the platform that the program is lowered for, which
  need not be the host's. Both are traced; the compiler sees one of them, and
  drops what differentiation would have kept for the other.
"""

import functools
from collections.abc import Callable

import jax
from jax.typing import DTypeLike

from mmdiff_jax.models import attention as formulations
from mmdiff_jax.models import normalise as plain_norm
from mmdiff_jax.models import plain
from mmdiff_jax.models.cpu import attention as cpu_attention
from mmdiff_jax.models.cpu import convolution as cpu_convolution
from mmdiff_jax.models.cpu import group_norm as cpu_group_norm
from mmdiff_jax.models.cpu import linear as cpu_linear
from mmdiff_jax.models.normalise import How

KERNELS = ("auto", "plain", "cpu")


def convolve(
  x: jax.Array, kernel: jax.Array, dilation: int = 1, kernels: str = "auto"
) -> jax.Array:
  """Convolves the first axes after the batch, zero padded to the same size.

  Args:
    x: `[N, D1, ..., C]`; axes between the convolved ones and the channels are
      left alone.
    kernel: `[k1, ..., C, features]` with odd sizes; as many axes are convolved
      as it has sizes.
    dilation: distance of the taps, on every convolved axis.
    kernels: see the module.

  Returns:
    `[N, D1, ..., features]`.
  """

  def with_dilation(side: Callable) -> Callable:
    return lambda x, kernel: side(x, kernel, dilation)

  return _choose(
    kernels,
    with_dilation(plain.convolve),
    with_dilation(cpu_convolution.convolve),
    x,
    kernel,
  )


def linear(x: jax.Array, kernel: jax.Array, kernels: str = "auto") -> jax.Array:
  """Maps `[..., C]` to `[..., features]` with a kernel `[C, features]`."""
  return _choose(kernels, plain.linear, cpu_linear.linear, x, kernel)


def add_bias(x: jax.Array, bias: jax.Array, kernels: str = "auto") -> jax.Array:
  """Adds `[C]` to `[..., C]`."""
  return x + bias if kernels == "cpu" else plain.add_bias(x, bias)


def normalise(
  x: jax.Array,
  gain: jax.Array,
  bias: jax.Array,
  how: How,
  kernels: str = "auto",
) -> jax.Array:
  """Group normalisation, and SiLU where it says so.

  Args:
    x: `[N, ..., C]`.
    gain: float32, of a shape that is broadcast to `x`; for a CPU `[C]` or
      `[N, 1, ..., C]`.
    bias: likewise.
    how: axes, groups, activation and type of the result.
    kernels: see the module.

  Returns:
    Array like `x`, of type `how.dtype`.
  """
  return _choose(
    kernels,
    functools.partial(plain_norm.normalise, how),
    functools.partial(cpu_group_norm.normalise, how),
    x,
    gain,
    bias,
  )


def attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  attention: str | formulations.On = "auto",
  kernels: str = "auto",
) -> jax.Array:
  """Softmax attention, `softmax(q k^T / sqrt(D)) v`.

  Args:
    q: queries `[N, T, K, D]`.
    k: keys `[N, S, K, D]`.
    v: values `[N, S, K, D]`.
    attention: a formulation of `models.attention`, or "xla", that of
      `kernels`. "auto" is cuDNN's where the program is lowered for CUDA and
      type and width allow; on hardware that is known (`On`) also one with
      bounded scores.
    kernels: see the module.

  Returns:
    `[N, T, K, D]`.

  Raises:
    ValueError: "cudnn" was asked for where it cannot run, as far as that is
      known while tracing. Lowering it for another platform than CUDA is JAX's
      NotImplementedError.
  """
  if isinstance(attention, formulations.On):
    out = attention(q, k, v)
    if out is not None:
      return out
    attention = attention.name
  if attention in formulations.BOUNDED:
    return formulations.BOUNDED[attention](q, k, v)
  if attention == "cudnn":
    check_cudnn(q.shape[-1], q.dtype, kernels)
    refusal = formulations.cudnn_refusal(q, k, v)
    if refusal is not None:
      raise ValueError(_impossible(refusal))
    return formulations.cudnn(q, k, v)
  others = {}
  if attention == "auto" and not (
    formulations.cudnn_obstacle(q.shape[-1], q.dtype)
    or formulations.cudnn_refusal(q, k, v)
  ):
    others["cuda"] = formulations.cudnn
  return _choose(kernels, plain.attend, cpu_attention.attend, q, k, v, **others)


def check_cudnn(width: int, dtype: DTypeLike, kernels: str = "auto") -> None:
  """Raises ValueError where cuDNN's attention could run on no platform.

  Args:
    width: channels per head.
    dtype: compute type.
    kernels: see the module.
  """
  obstacle = formulations.cudnn_obstacle(width, dtype)
  if kernels == "cpu":
    obstacle = "it needs a GPU, model.kernels is 'cpu'"
  if obstacle is not None:
    raise ValueError(_impossible(obstacle))


def _impossible(obstacle: str) -> str:
  return (
    f"model.attention='cudnn' is impossible here: {obstacle}. "
    "Use 'auto' or 'xla'."
  )


def _choose(
  kernels: str,
  default: Callable[..., jax.Array],
  on_cpu: Callable[..., jax.Array],
  *args: jax.Array,
  **platforms: Callable[..., jax.Array],
) -> jax.Array:
  """Calls one of several formulations of a function.

  Args:
    kernels: see the module.
    default: the plain one.
    on_cpu: that of "cpu".
    *args: of the function.
    **platforms: what replaces `default` on single platforms.
  """
  if kernels not in KERNELS:
    raise ValueError(
      f"kernels={kernels!r} is unknown; allowed are "
      f"{', '.join(map(repr, KERNELS))}."
    )
  if kernels == "cpu":
    return on_cpu(*args)
  if kernels == "auto":
    platforms["cpu"] = on_cpu
  if not platforms:
    return default(*args)
  return jax.lax.platform_dependent(*args, default=default, **platforms)
