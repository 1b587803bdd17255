"""The order of a network's backward pass on a CPU."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def in_turn(
  module: nn.Module, *args: jax.Array, remat: bool = False, **options: Any
) -> Any:
  """Calls a module whose backward pass ends before that of earlier ones starts.

  The gradient of a residual stream sums up over all later blocks, and a block
  reads it several times. XLA:CPU fuses elementwise work into each of its
  readers and so computes that sum anew for each; and it puts off the gradients
  of the parameters. Both keep the arrays of all blocks in memory, whatever is
  rematerialised. A conditional is never fused and waits for its operands: one
  around all gradients of a module ends its backward pass.

  Gradients of a module's parameters are computed even where only those of its
  arguments are asked for.

  Args:
    module: a submodule, as its parent made it.
    *args: floating-point arrays.
    remat: the module is rematerialised, and must be so no sooner than its turn
      has come; else XLA finds that it has computed the same before.
    **options: what is not differentiated.

  Returns:
    `module(*args, **options)`.
  """

  def call(module: nn.Module, *args: jax.Array) -> Any:
    return module(*args, **options)

  def forward(module: nn.Module, *args: jax.Array) -> tuple[Any, Any]:
    return nn.vjp(call, module, *args)

  def backward(vjp: Any, grad: Any) -> Any:
    if remat:
      vjp, grad = _together((vjp, grad))
    return _together(vjp(grad))

  return nn.custom_vjp(call, forward, backward)(module, *args)


def _together(arrays: Any) -> Any:
  """The same arrays, none of which can be had before all are there.

  Where the first element of the last one is NaN, they become NaN altogether.
  """
  last = jax.tree.leaves(arrays)[-1]
  return jax.lax.cond(
    jnp.isnan(last[(0,) * last.ndim]),
    # Different in every array, or XLA leads it past the conditional.
    lambda arrays: jax.tree.map(_spoilt, arrays),
    lambda arrays: arrays,
    arrays,
  )


def _spoilt(x: jax.Array) -> jax.Array:
  return (
    jnp.full_like(x, jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x
  )
