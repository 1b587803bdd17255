"""A noise schedule at all times, and the grids that DPM-Solvers walk.

Everything here works on numpy float64 on the host, where the fixed grids are
planned, and on traced per-sample arrays [B], where the adaptive solver chooses
its own steps.
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

  def between(self, s: Node, t: Node) -> Node:
    """The node half way from s to t in lambda."""
    lambda_ = (s.lambda_ + t.lambda_) / 2
    return self.nodes(self.time_of(np.array([lambda_])))[0]

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
