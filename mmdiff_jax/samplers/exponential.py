"""The equations of all DPM-Solvers: exponential integrators of any order.

Lu et al. 2022 (arXiv 2206.00927; "++": 2211.01095). A step is linear in x and
the network outputs m, so the equations are applied to the unit vectors of
these terms, which gives the weights of a step. On the host they are numpy
float64, traced they are per-sample arrays [B].
"""

import functools
from typing import Any, NamedTuple

import numpy as np

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


def singlestep_weights(plus_plus: bool, nodes: list[Node]) -> list[Array]:
  """Weights of the k updates of one singlestep of order k.

  Args:
    plus_plus: family.
    nodes: start, the k - 1 inner nodes, end.

  Returns:
    For each network call its update's weights, over x_s and the latest m,
    newest first; the leading axis is that of the terms.
  """
  s, *inner, t = nodes
  k = len(inner) + 1
  unit = unit_vectors(k + 1, s.lambda_)
  step = functools.partial(exponential_step, plus_plus, s)
  x, m0 = unit[:2]
  if k == 1:
    return [first_order(step(t), x, m0)]
  h = t.lambda_ - s.lambda_
  r1 = (inner[0].lambda_ - s.lambda_) / h
  updates = [first_order(step(inner[0]), x, m0)]
  x, m1, m0 = unit[:3]
  if k == 2:
    return [*updates, second_order(step(t), x, m0, (m1 - m0) / r1)]
  r2 = (inner[1].lambda_ - s.lambda_) / h
  updates.append(third_order(step(inner[1]), x, m0, r2 / r1 * (m1 - m0)))
  x, m2, _, m0 = unit
  return [*updates, third_order(step(t), x, m0, (m2 - m0) / r2)]


def multistep_weights(
  plus_plus: bool, s: Node, t: Node, past: list[Node], terms: int
) -> np.ndarray:
  """Weights of one multistep update of order `len(past)` + 1.

  Args:
    plus_plus: family.
    s: start of the step, where the newest m was evaluated.
    t: its end.
    past: nodes of the one or two m before, newest first; or none.
    terms: length of the result.

  Returns:
    Weights over x_s and the latest m, newest first.
  """
  c = exponential_step(plus_plus, s, t)
  x, m0, *before = np.eye(terms)
  if not past:
    return first_order(c, x, m0)
  h = t.lambda_ - s.lambda_
  r0 = (s.lambda_ - past[0].lambda_) / h
  d10 = (m0 - before[0]) / r0
  if len(past) == 1:
    return second_order(c, x, m0, d10)
  r1 = (past[0].lambda_ - past[1].lambda_) / h
  d11 = (before[0] - before[1]) / r1
  d1 = d10 + r0 / (r0 + r1) * (d10 - d11)
  d2 = 2 * (d10 - d11) / (r0 + r1)
  return third_order(c, x, m0, d1, d2)


def sde_weights(
  s: Node, t: Node, past: list[Node], terms: int
) -> tuple[np.ndarray, np.ndarray]:
  """DPM-Solver++(2M) SDE: the reverse SDE with multistep-2's x_start.

  As ++, but over the interval 2h, so that x decays by a further e^-h and the
  lost variance sigma_t^2 (1 - e^-2h) comes back as noise.

  Args:
    s: start of the step, where the newest m was evaluated.
    t: its end.
    past: the node of the m before; or none.
    terms: length of the weights.

  Returns:
    Weights over x_s and the latest m, newest first, and the scale of the noise.
  """
  h = t.lambda_ - s.lambda_
  x, m0, *before = np.eye(terms)
  lost = -np.expm1(-2 * h)
  d1 = 0.0
  if past:
    r0 = (s.lambda_ - past[0].lambda_) / h
    d1 = (m0 - before[0]) / r0
  weights = t.sigma / s.sigma * np.exp(-h) * x + t.alpha * lost * (m0 + d1 / 2)
  return weights, t.sigma * np.sqrt(lost)
