"""Equations of one DPM-Solver step, and the continuous schedule beneath.

Lu et al. 2022 (arXiv 2206.00927; "++": 2211.01095). Everything here works on
numpy float64 on the host, where the fixed grids are planned, and on traced
per-sample arrays [B], where the adaptive solver chooses its own steps.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.diffusion.schedule import Schedule

Array = Any

GRIDS = ("logSNR", "time_uniform", "time_quadratic")


class Node(NamedTuple):
  """A point on a trajectory, lambda_ = log(alpha / sigma).

  Attributes:
    t: original step index that the network is given there.
    alpha: scale of the signal.
    sigma: scale of the noise.
    lambda_: half the log signal-to-noise ratio.
  """

  t: Array
  alpha: Array
  sigma: Array
  lambda_: Array


@dataclasses.dataclass(frozen=True)
class ContinuousSchedule:
  """A schedule at all times in [1/T, 1]: log alpha linear between entries.

  Entry i of the table sits at time (i + 1) / T.
  """

  schedule: Schedule

  def __post_init__(self):
    if self.schedule.num_timesteps < 2:
      raise ValueError(
        "DPM-Solver needs a schedule of at least 2 steps, got "
        f"{self.schedule.num_timesteps}."
      )

  @functools.cached_property
  def times(self) -> np.ndarray:
    """Times of the table's entries, float64 [T]."""
    count = self.schedule.num_timesteps
    return np.arange(1, count + 1) / count

  @functools.cached_property
  def log_alpha(self) -> np.ndarray:
    """Log of the signal's scale at the table's entries, float64 [T]."""
    return 0.5 * np.log(self.schedule.alphas_cumprod)

  @functools.cached_property
  def lambda_span(self) -> tuple[float, float]:
    """The lambdas at time 1 (noise) and at time 1/T (data)."""
    ab = self.schedule.alphas_cumprod[[-1, 0]]
    start, end = 0.5 * np.log(ab / (1 - ab))
    return float(start), float(end)

  def nodes(self, times: np.ndarray) -> list[Node]:
    """Nodes at given times, in float64."""
    count = self.schedule.num_timesteps
    log_alpha = np.interp(times, self.times, self.log_alpha)
    alpha, sigma = np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))
    index = np.floor((times - 1 / count) * count + 1e-6).astype(int)
    t = self.schedule.timestep_map[np.clip(index, 0, count - 1)]
    lambda_ = log_alpha - np.log(sigma)
    return [Node(*row) for row in zip(t, alpha, sigma, lambda_, strict=True)]

  def time_of(self, lambda_: np.ndarray) -> np.ndarray:
    """Times at given lambdas, in float64."""
    log_alpha = -0.5 * np.logaddexp(0, -2 * lambda_)
    # np.interp wants increasing abscissae; log alpha falls with time.
    return np.interp(log_alpha, self.log_alpha[::-1], self.times[::-1])

  def grid(self, cells: int, kind: str) -> list[Node]:
    """The `cells` + 1 nodes from time 1 down to 1/T.

    Args:
      cells: number of cells.
      kind: "logSNR" (uniform in lambda), "time_uniform" or "time_quadratic"
        (uniform in the square root of time).

    Returns:
      Nodes in the order of sampling.
    """
    first, last = 1.0, 1.0 / self.schedule.num_timesteps
    if kind == "logSNR":
      times = self.time_of(np.linspace(*self.lambda_span, cells + 1))
      times[0], times[-1] = first, last
    elif kind == "time_uniform":
      times = np.linspace(first, last, cells + 1)
    else:
      times = np.linspace(np.sqrt(first), np.sqrt(last), cells + 1) ** 2
    return self.nodes(times)

  def traced_node(self, lambda_: jax.Array) -> Node:
    """The node at traced lambdas [B], in their own precision."""
    log_alpha = -0.5 * jnp.logaddexp(0, -2 * lambda_)
    index = jnp.floor(self.traced_position(lambda_) + 1e-3).astype(jnp.int32)
    return Node(
      t=jnp.asarray(self.schedule.timestep_map, jnp.int32)[index],
      alpha=jnp.exp(log_alpha),
      sigma=jnp.sqrt(-jnp.expm1(2 * log_alpha)),
      lambda_=lambda_,
    )

  def traced_position(self, lambda_: jax.Array) -> jax.Array:
    """Fractional table index in [0, T-1] at traced lambdas [B]."""
    log_alpha = -0.5 * jnp.logaddexp(0, -2 * lambda_)
    table = jnp.asarray(self.log_alpha[::-1], lambda_.dtype)
    entries = jnp.arange(table.size - 1, -1, -1, dtype=lambda_.dtype)
    return jnp.interp(log_alpha, table, entries)


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
  xp = jnp if isinstance(h, jax.Array) else np
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


def singlestep_weights(plus_plus: bool, nodes: list[Node]) -> list[Array]:
  """Weights of the k updates of one singlestep of order k.

  Every update is linear in (x_s, newest m, the one before, ...), so the
  equations applied to the unit vectors are its weights.

  Args:
    plus_plus: family.
    nodes: start, the k - 1 inner nodes, end.

  Returns:
    For each network call its update's weights, over x_s and the k latest m;
    the leading axis is that of the terms.
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
) -> tuple[np.ndarray, float]:
  """Weights of one DPM-Solver++(2M) SDE update, and the scale of its noise.

  The reverse SDE solved with the multistep-2 expansion of x_start: as ++, but
  over the interval 2h, so that x decays by a further e^-h and the lost
  variance sigma_t^2 (1 - e^-2h) comes back as noise.

  Args:
    s: start of the step.
    t: its end.
    past: the node of the m before, or none.
    terms: length of the weights.

  Returns:
    Weights as `multistep_weights`, and the scale of the noise.
  """
  h = t.lambda_ - s.lambda_
  x, m0, *before = np.eye(terms)
  lost = -np.expm1(-2 * h)
  d1 = 0.0
  if past:
    r0 = (s.lambda_ - past[0].lambda_) / h
    d1 = (m0 - before[0]) / r0
  update = t.sigma / s.sigma * np.exp(-h) * x + t.alpha * lost * (m0 + d1 / 2)
  return update, t.sigma * np.sqrt(lost)


def unit_vectors(count: int, like: Array) -> Array:
  """Rows of the identity, shaped to broadcast against scalars or [B]."""
  xp = jnp if isinstance(like, jax.Array) else np
  unit = xp.eye(count, dtype=like.dtype)
  return unit.reshape(count, count, *(1,) * like.ndim)
