"""The exponential integrator: one step of DPM-Solver, of any order.

Lu et al. 2022 (arXiv 2206.00927; "++": 2211.01095). Numbers, arrays and unit
vectors (`linear.py`) all go through these equations; on the host they are
numpy float64, traced they are per-sample arrays [B].
"""

from typing import Any, NamedTuple

from mmdiff_jax.diffusion.process import array_module
from mmdiff_jax.samplers.nodes import Node

Array = Any


class Step(NamedTuple):
  """Coefficients of x_t = A x_s - B [phi1 m0 + phi2 D1 + phi3 D2]."""

  A: Array
  B: Array
  phi1: Array
  phi2: Array
  phi3: Array


def exponential_step(plus_plus: bool, s: Node, t: Node) -> Step:
  """Coefficients of the step from s to t.

  Args:
    plus_plus: whether m is x_start (DPM-Solver++) or eps (DPM-Solver).
    s: where the step starts.
    t: where it leads.

  Returns:
    The coefficients; both families share phi_k once h has ++'s sign.
  """
  h = t.lambda_ - s.lambda_
  if plus_plus:
    return Step(t.sigma / s.sigma, t.alpha, *_phis(-h))
  return Step(t.alpha / s.alpha, t.sigma, *_phis(h))


def _phis(h: Array) -> tuple[Array, Array, Array]:
  xp = array_module(h)
  # phi1 / h cancels against 1 where h is small: there, the Taylor series.
  small = xp.abs(h) < 0.1
  safe = xp.where(small, 1.0, h)
  phi1 = xp.expm1(h)
  phi2 = xp.where(small, _series(h, 2), xp.expm1(safe) / safe - 1)
  phi3 = xp.where(small, _series(h, 3), phi2 / safe - 0.5)
  return phi1, phi2, phi3


def _series(h: Array, start: int) -> Array:
  """Sum over n >= 1 of h^n / (n + start - 1)!, for start 2 or 3."""
  total = 0.0 * h
  for n in range(9, 0, -1):
    total = h / (n + start - 1) * (1 + total)
  return total / (start - 1)


def first_order(c: Step, x: Array, m0: Array) -> Array:
  """Order 1 (DDIM)."""
  return c.A * x - c.B * (c.phi1 * m0)


def second_order(c: Step, x: Array, m0: Array, d1: Array) -> Array:
  """Order 2, where D1 is weighted by phi1 / 2 in place of phi2."""
  return c.A * x - c.B * (c.phi1 * m0 + c.phi1 * d1 / 2)


def third_order(
  c: Step, x: Array, m0: Array, d1: Array, d2: Array | float = 0.0
) -> Array:
  """The full expansion to order 3."""
  return c.A * x - c.B * (c.phi1 * m0 + c.phi2 * d1 + c.phi3 * d2)


def unit_vectors(count: int, like: Array) -> Array:
  """Rows of the identity, shaped to broadcast against scalars or [B]."""
  xp = array_module(like)
  unit = xp.eye(count, dtype=like.dtype)
  return unit.reshape(count, count, *(1,) * like.ndim)
