"""Which steps the adaptive solver accepts, and how long the next one is."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from mmdiff_jax.samplers.base import Tree


@dataclasses.dataclass(frozen=True)
class StepControl:
  """A controller of the step size by an error estimate.

  Attributes:
    atol: absolute tolerance of a step.
    rtol: tolerance relative to the size of x.
    max_growth: how many times longer a step may be than the one before.
    safety: factor of the step size that the error estimate suggests.
  """

  atol: float
  rtol: float
  max_growth: float
  safety: float

  @classmethod
  def create(
    cls,
    atol: float | None,
    rtol: float | None,
    max_growth: float | None,
    safety: float,
  ) -> "StepControl":
    """Completes a controller: the published one if it states a tolerance.

    Args:
      atol: absolute tolerance, or None.
      rtol: relative tolerance, or None.
      max_growth: bound of the growth, or None.
      safety: as it is.

    Returns:
      The given values; for the others .002, .01 and 2 if both tolerances are
      None, else those of arXiv 2206.00927: .0078, .05 and no bound.

    Raises:
      ValueError: for a value that is not positive, or a growth up to 1.
    """
    if atol is None and rtol is None:
      default = cls(0.002, 0.01, 2.0, safety)
    else:
      default = cls(0.0078, 0.05, math.inf, safety)
    control = cls(
      default.atol if atol is None else atol,
      default.rtol if rtol is None else rtol,
      default.max_growth if max_growth is None else max_growth,
      safety,
    )
    for name in ("atol", "rtol", "safety"):
      if not getattr(control, name) > 0:
        raise ValueError(
          f"{name} must be positive, got {getattr(control, name)}."
        )
    if not control.max_growth > 1:
      raise ValueError(f"max_growth must exceed 1, got {control.max_growth}.")
    return control

  def error(
    self, high: Tree, low: Tree, x_prev: Tree, generated: Tree
  ) -> jax.Array:
    """Estimates the error of a step in units of the tolerance.

    Args:
      high: result of the higher order, [B, ...].
      low: result of the lower order.
      x_prev: the lower order's result of the last accepted step.
      generated: true for the elements that count, those not known.

    Returns:
      [B]: rms over a sample's elements, the largest of its modalities'; a
      step is good enough if it is at most 1.
    """

    def rms(
      high: jax.Array, low: jax.Array, x_prev: jax.Array, generated: jax.Array
    ) -> jax.Array:
      size = jnp.maximum(jnp.abs(low), jnp.abs(x_prev))
      error = (high - low) / jnp.maximum(self.atol, self.rtol * size)
      axes = tuple(range(1, error.ndim))
      total = jnp.sum(jnp.where(generated, error**2, 0), axes)
      return jnp.sqrt(total / jnp.maximum(jnp.sum(generated, axes), 1))

    errors = jax.tree.map(rms, high, low, x_prev, generated)
    return jnp.max(jnp.stack(jax.tree.leaves(errors)), axis=0)

  def growth(self, error: jax.Array, order: int) -> jax.Array:
    """How many times longer the next step is, [B], by the last one's error."""
    factor = self.safety * error ** (-1 / order)
    factor = jnp.minimum(factor, self.max_growth)
    # An error that is not finite says nothing but "too far".
    return jnp.where(jnp.isnan(error), 0.5, factor)
