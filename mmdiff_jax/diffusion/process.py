"""The noise process, and what the output of a network means under it.

x_t = alpha_t x_start + sigma_t noise. Training, samplers and guidance ask this
module for alpha and sigma, and nothing else converts between a network's
output, x_start and noise. Both scales may be numbers, numpy float64 or traced
arrays that broadcast against x_t: one level for all, one per sample, or one
per stream and frame.
"""

import abc
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.diffusion.respacing import respaced_indices

Array = Any


class Prediction(NamedTuple):
  """What a network may predict.

  Attributes:
    to_x_start: `(output, x_t, alpha, sigma) -> x_start`.
    target: `(x_start, noise, alpha, sigma) -> ` what it is trained to return.
    needs_signal: whether x_start follows only where alpha is above 0.
  """

  to_x_start: Callable[[Array, Array, Array, Array], Array]
  target: Callable[[Array, Array, Array, Array], Array]
  needs_signal: bool = False


PREDICTIONS = {
  "eps": Prediction(
    lambda out, x_t, alpha, sigma: (x_t - sigma * out) / alpha,
    lambda x_start, noise, alpha, sigma: noise,
    needs_signal=True,
  ),
  "x_start": Prediction(
    lambda out, x_t, alpha, sigma: out,
    lambda x_start, noise, alpha, sigma: x_start,
  ),
  # Salimans & Ho 2022 (arXiv 2202.00512), for any alpha and sigma.
  "v": Prediction(
    lambda out, x_t, alpha, sigma: (
      (alpha * x_t - sigma * out) / (alpha**2 + sigma**2)
    ),
    lambda x_start, noise, alpha, sigma: alpha * noise - sigma * x_start,
  ),
  # dx/ds of rectified flow (Liu et al. 2022, arXiv 2209.03003).
  "velocity": Prediction(
    lambda out, x_t, alpha, sigma: (x_t - sigma * out) / (alpha + sigma),
    lambda x_start, noise, alpha, sigma: noise - x_start,
  ),
}


def noise_of(x_start: Array, x_t: Array, alpha: Array, sigma: Array) -> Array:
  """The noise in x_t, given its x_start."""
  return (x_t - alpha * x_start) / sigma


class Level(NamedTuple):
  """A level of noise, lambda_ = log(alpha / sigma)."""

  alpha: Array
  sigma: Array
  lambda_: Array


class Process(abc.ABC):
  """A noise process over T steps and at all times between them.

  Tables are float64 numpy arrays [T] by step, least noise first. Step i of the
  table is at time (i + 1) / T; between steps, `clock` is linear in time. A
  process states its clock, `variance` and the two functions of the clock.

  Attributes:
    timestep_map: the step index that the network was trained with, for each
      entry of the table; `0..T-1` unless the process is respaced.
  """

  timestep_map: np.ndarray

  @property
  def num_timesteps(self) -> int:
    """Number of steps T of this (possibly respaced) table."""
    return self.timestep_map.size

  # --- The tables. ---

  @functools.cached_property
  @abc.abstractmethod
  def alpha(self) -> np.ndarray:
    """Scale of x_start in x_t."""

  @functools.cached_property
  @abc.abstractmethod
  def variance(self) -> np.ndarray:
    """Variance sigma^2 of the noise in x_t."""

  @functools.cached_property
  def sigma(self) -> np.ndarray:
    """Scale of the noise in x_t."""
    return np.sqrt(self.variance)

  @functools.cached_property
  def log_snr(self) -> np.ndarray:
    """log(alpha^2 / sigma^2); -inf where no signal is left."""
    with np.errstate(divide="ignore"):
      return np.log(self.alpha**2 / self.variance)

  @functools.cached_property
  def alpha_prev(self) -> np.ndarray:
    """`alpha` one step earlier, 1 before the first."""
    return np.append(1.0, self.alpha[:-1])

  @functools.cached_property
  def variance_prev(self) -> np.ndarray:
    """`variance` one step earlier, 0 before the first."""
    return np.append(0.0, self.variance[:-1])

  @functools.cached_property
  def step_alpha(self) -> np.ndarray:
    """Scale of x_{t-1} in x_t."""
    return self.alpha / self.alpha_prev

  @functools.cached_property
  def step_variance(self) -> np.ndarray:
    """Variance of q(x_t | x_{t-1})."""
    return self.variance - self.step_alpha**2 * self.variance_prev

  @functools.cached_property
  def posterior_variance(self) -> np.ndarray:
    """Variance of q(x_{t-1} | x_t, x_start); 0 at t=0."""
    return self.step_variance * self.variance_prev / self.variance

  @functools.cached_property
  def posterior_log_variance_clipped(self) -> np.ndarray:
    """Log of the posterior variance, its 0 at t=0 replaced by t=1's value."""
    return np.log(self._first_from_second(self.posterior_variance))

  @functools.cached_property
  def posterior_mean_coef1(self) -> np.ndarray:
    """Coefficient of x_start in the posterior mean."""
    return self.step_variance * self.alpha_prev / self.variance

  @functools.cached_property
  def posterior_mean_coef2(self) -> np.ndarray:
    """Coefficient of x_t in the posterior mean."""
    return self.variance_prev * self.step_alpha / self.variance

  @functools.cached_property
  def fixed_large_variance(self) -> np.ndarray:
    """`step_variance`, with t=1's posterior variance at t=0."""
    return self._first_from_second(self.step_variance)

  def _first_from_second(self, table: np.ndarray) -> np.ndarray:
    # A table of one step has no second entry; its variance is the bound left.
    one = table.size == 1
    first = self.step_variance[0] if one else self.posterior_variance[1]
    return np.append(first, table[1:])

  # --- Fewer steps. ---

  @abc.abstractmethod
  def keep(self, indices: np.ndarray) -> Self:
    """The process over these entries of the table alone."""

  def respace(self, respacing: str) -> Self:
    """Returns the process over a subset of its steps.

    Args:
      respacing: see `respaced_indices`; "" keeps every step.

    Returns:
      A process with the same levels at the kept steps, whose `timestep_map`
      still holds the ORIGINAL step indices.
    """
    if not respacing:
      return self
    ends = "last" if self.loses_signal else "first"
    return self.keep(respaced_indices(self.num_timesteps, respacing, ends))

  @property
  def loses_signal(self) -> bool:
    """Whether the last step is noise alone (alpha = 0)."""
    return bool(self.alpha[-1] == 0)

  # --- All times. ---

  @functools.cached_property
  @abc.abstractmethod
  def clock(self) -> np.ndarray:
    """What is linear in time between the entries, falling."""

  @abc.abstractmethod
  def at_clock(self, clock: np.ndarray) -> Level:
    """Levels at values of the clock, float64."""

  @abc.abstractmethod
  def at_lambda(self, lambda_: Array) -> tuple[Array, Level]:
    """Clock and levels at numpy or traced lambdas, in their own precision."""

  @property
  def num_finite(self) -> int:
    """How many entries, the first ones, have a finite lambda."""
    return self.num_timesteps - self.loses_signal

  @functools.cached_property
  def times(self) -> np.ndarray:
    """Times of the entries whose lambda is finite, float64."""
    return np.arange(1, self.num_finite + 1) / self.num_timesteps

  def at(self, times: np.ndarray) -> Level:
    """Levels at given times, between the first and the last of `times`."""
    clock = self.clock[: self.num_finite]
    return self.at_clock(np.interp(times, self.times, clock))

  def time_of(self, lambda_: np.ndarray) -> np.ndarray:
    """Times at given lambdas, float64."""
    # np.interp wants increasing abscissae; the clock falls with time.
    falling = self.clock[: self.num_finite][::-1]
    return np.interp(self.at_lambda(lambda_)[0], falling, self.times[::-1])

  def position_of(self, lambda_: jax.Array) -> jax.Array:
    """Fractional table indices at traced lambdas, in their own precision."""
    table = jnp.asarray(self.clock[: self.num_finite][::-1], lambda_.dtype)
    entries = jnp.arange(table.size - 1, -1, -1, dtype=lambda_.dtype)
    return jnp.interp(self.at_lambda(lambda_)[0], table, entries)


def check_prediction(name: str, process: Process | None = None) -> Prediction:
  """Finds a prediction.

  Args:
    name: one of `PREDICTIONS`.
    process: that it is to be used with; None checks the name alone.

  Raises:
    ValueError: for an unknown name, or one that the process rules out.
  """
  if name not in PREDICTIONS:
    raise ValueError(
      f"unknown prediction {name!r}; allowed are {', '.join(PREDICTIONS)}."
    )
  kind = PREDICTIONS[name]
  if kind.needs_signal and process is not None and process.loses_signal:
    others = [k for k, v in PREDICTIONS.items() if not v.needs_signal]
    raise ValueError(
      f"prediction {name!r} does not give x_start where no signal is left, as "
      f"in this process's last step; allowed are {', '.join(others)}. Or take "
      "process 'vp' without zero_terminal_snr."
    )
  return kind


def array_module(x: Array) -> Any:
  """jax.numpy for traced arrays, numpy for all others."""
  return jnp if isinstance(x, jax.Array) else np
