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
    first_step: length of the first attempt, in lambda.
    first_growth: how many times longer the second step may be.
    safety: factor of the step size that the error estimate suggests.
  """

  atol: float
  rtol: float
  max_growth: float
  first_step: float
  first_growth: float
  safety: float

  @classmethod
  def create(
    cls,
    atol: float | None,
    rtol: float | None,
    max_growth: float | None,
    first_step: float | None,
    safety: float,
  ) -> "StepControl":
    """Completes a controller: the published one if it states a tolerance.

    Args:
      atol: absolute tolerance, or None.
      rtol: relative tolerance, or None.
      max_growth: bound of the growth, or None.
      first_step: length of the first attempt, or None.
      safety: as it is.

    Returns:
      What was stated; for the rest .002, .01 and 2 if both tolerances are
      None, else those of arXiv 2206.00927: .0078, .05 and no bound. The first
      step is .05; where nothing is stated, it is a probe: by its error, the
      second is up to ten times as long.

    Raises:
      ValueError: for a value that is not positive, or a growth up to 1.
    """
    stated = any(v is not None for v in (atol, rtol, max_growth, first_step))
    if atol is None and rtol is None:
      default = cls(0.002, 0.01, 2.0, 0.05, 10.0, safety)
    else:
      default = cls(0.0078, 0.05, math.inf, 0.05, math.inf, safety)
    growth = default.max_growth if max_growth is None else max_growth
    control = cls(
      default.atol if atol is None else atol,
      default.rtol if rtol is None else rtol,
      growth,
      default.first_step if first_step is None else first_step,
      growth if stated else default.first_growth,
      safety,
    )
    for name in ("atol", "rtol", "first_step", "safety"):
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

  def growth(self, error: jax.Array, order: int, first: jax.Array) -> jax.Array:
    """How many times longer the next step is than the last one.

    Args:
      error: of the last one, [B].
      order: the higher order of the pair.
      first: whether it was the first attempt.

    Returns:
      Factors [B].
    """
    factor = self.safety * error ** (-1 / order)
    bound = jnp.where(first, self.first_growth, self.max_growth)
    factor = jnp.minimum(factor, bound.astype(factor.dtype))
    # An error that is not finite says nothing but "too far".
    return jnp.where(jnp.isnan(error), 0.5, factor)
