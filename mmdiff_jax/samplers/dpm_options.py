"""What all DPM-Solvers share: how they read the network's output."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.diffusion import gaussian
from mmdiff_jax.diffusion.gaussian import expand_to
from mmdiff_jax.diffusion.process import (
  Process,
  check_prediction,
  noise_of,
)
from mmdiff_jax.samplers.base import Call
from mmdiff_jax.samplers.nodes import Node

Tree = Any


@dataclasses.dataclass(frozen=True)
class DPMOptions:
  """The family of a DPM-Solver, and how x_start is treated.

  Attributes:
    plus_plus: whether the solver works on x_start (DPM-Solver++) or on eps.
    learn_sigma: whether the network's channels are doubled; the variance is
      split off and dropped.
    prediction: what the network predicts, one of `process.PREDICTIONS`.
    clip_denoised: clip the predicted x_start to [-1, 1].
    dynamic_thresholding: clip it to its own .995 quantile of |x_start|, if
      above 1, and rescale (Saharia et al. 2022); DPM-Solver++ only.
    denoise_final: one more network call, at the end, returns its x_start.
  """

  plus_plus: bool = False
  learn_sigma: bool = False
  prediction: str = "eps"
  clip_denoised: bool = False
  dynamic_thresholding: bool = False
  denoise_final: bool = False

  def __post_init__(self):
    check_prediction(self.prediction)
    if self.dynamic_thresholding and not self.plus_plus:
      raise ValueError(
        "dynamic_thresholding acts on x_start, which 'dpm_solver' does not "
        "use; take 'dpm_solver++'."
      )
    if self.dynamic_thresholding and self.clip_denoised:
      raise ValueError(
        "clip_denoised and dynamic_thresholding exclude each other; give one."
      )

  def respace(self, schedule: Process) -> Process:
    """Returns the process itself: the solver places its own points on it."""
    check_prediction(self.prediction, schedule)
    if schedule.num_finite < 2:
      raise ValueError(
        "DPM-Solver needs at least 2 steps with a signal, got "
        f"{schedule.num_finite}."
      )
    return schedule

  def predict(self, output: Tree, x: Tree, call: Call) -> Tree:
    """The solver's m (eps, or x_start for ++) from a network's output."""
    output, _ = gaussian.split_output(output, x, self.learn_sigma)
    return jax.tree.map(
      lambda out, x: self._predict_leaf(
        out, x, expand_to(call.alpha, x), expand_to(call.sigma, x)
      ),
      output,
      x,
    )

  def _predict_leaf(
    self, out: jax.Array, x: jax.Array, alpha: jax.Array, sigma: jax.Array
  ) -> jax.Array:
    kind = check_prediction(self.prediction)
    if (
      self.prediction == "eps" and not self.plus_plus and not self.clip_denoised
    ):
      return out
    x_start = kind.to_x_start(out, x, alpha, sigma)
    if self.clip_denoised:
      x_start = jnp.clip(x_start, -1.0, 1.0)
    if self.dynamic_thresholding:
      x_start = threshold_dynamically(x_start)
    return x_start if self.plus_plus else noise_of(x_start, x, alpha, sigma)

  def final_weights(self, end: Node, terms: int) -> np.ndarray:
    """Weights of the update that returns x_start at the last node."""
    x, m, *_ = np.eye(terms)
    return m if self.plus_plus else (x - end.sigma * m) / end.alpha


def threshold_dynamically(x_start: jax.Array) -> jax.Array:
  """Clips each sample to s = max(1, .995 quantile of |x|), divides by s."""
  flat = jnp.abs(x_start).reshape(x_start.shape[0], -1)
  position = 0.995 * (flat.shape[1] - 1)
  below, above = _order_statistics(flat, int(position))
  quantile = below + (position % 1) * (above - below)
  s = expand_to(jnp.maximum(quantile, 1.0), x_start)
  return jnp.clip(x_start, -s, s) / s


def _order_statistics(x: jax.Array, rank: int) -> tuple[jax.Array, jax.Array]:
  """The rank-th and next smallest of non-negative rows [B, N], from 0.

  Bisection on the bits, which are ordered as the numbers are: some thirty
  counts are much cheaper than the sort behind jnp.quantile.
  """
  bits = 8 * x.dtype.itemsize
  integers = jax.lax.bitcast_convert_type(x, jnp.dtype(f"int{bits}"))

  def refine(i: jax.Array, found: jax.Array) -> jax.Array:
    trial = found | jnp.left_shift(jnp.ones_like(found), bits - 2 - i)
    smaller = jnp.sum(integers < trial[:, None], axis=1)
    return jnp.where(smaller <= rank, trial, found)

  found = jax.lax.fori_loop(
    0, bits - 1, refine, jnp.zeros(x.shape[0], integers.dtype)
  )
  value = jax.lax.bitcast_convert_type(found, x.dtype)[:, None]
  larger = jnp.min(jnp.where(x > value, x, jnp.inf), axis=1)
  repeated = jnp.sum(x <= value, axis=1) > rank + 1
  value = value[:, 0]
  return value, jnp.where(repeated | jnp.isinf(larger), value, larger)


def check_choice(name: str, value: Any, allowed: tuple) -> None:
  """Raises ValueError unless an option's value is an allowed one."""
  if value not in allowed:
    raise ValueError(
      f"{name}={value!r}; allowed are {', '.join(map(str, allowed))}."
    )
