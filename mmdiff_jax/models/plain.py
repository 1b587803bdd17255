"""The networks' operations as accelerators run them: one XLA operation each.

`models.cpu` has the same functions in other formulations; `models.ops`
chooses between them and says what they compute.
"""

import jax
import jax.numpy as jnp


def convolve(x: jax.Array, kernel: jax.Array, dilation: int = 1) -> jax.Array:
  """See `ops.convolve`."""
  axes = kernel.ndim - 2
  # Axes left alone take part as convolved ones with a single tap.
  sizes = kernel.shape[:axes] + (1,) * (x.ndim - 2 - axes)
  spatial = "DHW"[-len(sizes) :]
  return jax.lax.conv_general_dilated(
    x,
    kernel.reshape(*sizes, *kernel.shape[axes:]),
    window_strides=(1,) * len(sizes),
    padding=[((k - 1) // 2 * dilation,) * 2 for k in sizes],
    rhs_dilation=(dilation,) * len(sizes),
    dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
  )


def linear(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """See `ops.linear`."""
  return x @ kernel


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
  """See `ops.add_bias`."""
  return x + bias


def _add_bias(x: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
  return x + bias, None


def _bias_gradient(_: None, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
  return grad, jax.lax.platform_dependent(
    grad, tpu=_row_of_sums, default=_sum_of_rows
  )


def _row_of_sums(x: jax.Array) -> jax.Array:
  """Sums `[..., C]` to `[C]` on a TPU's matrix unit, in float32."""
  rows = x.reshape(-1, x.shape[-1])
  ones = jnp.ones((1, rows.shape[0]), x.dtype)
  row = jnp.matmul(ones, rows, preferred_element_type=jnp.float32)
  return row[0].astype(x.dtype)


def _sum_of_rows(x: jax.Array) -> jax.Array:
  return x.sum(tuple(range(x.ndim - 1)))


add_bias.defvjp(_add_bias, _bias_gradient)


def attend(
  q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
  """See `ops.attend`, and `softmax_average` for the mask."""
  # Heads ahead of tokens: every head of every element is one matrix product.
  q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
  return softmax_average((q, k, v), mask).swapaxes(1, 2)


def softmax_average(
  qkv: tuple[jax.Array, ...], mask: jax.Array | None = None
) -> jax.Array:
  """`softmax(q k^T / sqrt(D)) v` of matrices `[..., T, D]`.

  Args:
    qkv: queries, keys and values.
    mask: bool `[T, S]`, whether a query sees a key; None is always.
  """
  q, k, v = qkv
  scale = q.shape[-1] ** -0.25
  scores = jnp.matmul(
    q * scale, (k * scale).mT, preferred_element_type=jnp.float32
  )
  if mask is not None:
    scores = jnp.where(mask, scores, -jnp.inf)
  peak = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
  weights = jnp.exp(scores - peak)
  # The division comes after the second product: T x D instead of T x S
  # elements.
  total = weights.sum(-1, keepdims=True)
  out = jnp.matmul(
    weights.astype(v.dtype), v, preferred_element_type=jnp.float32
  )
  return (out / total).astype(v.dtype)
