"""DPM-Solver with steps chosen by an error estimate, per sample.

One `lax.while_loop` of attempts, each a pair of solvers of neighbouring order
that share their network calls (DPM-Solver-12 and -23; arXiv 2206.00927,
appendix C). A sample's sequence of steps depends on that sample alone; the
batch runs until its slowest sample has arrived.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.diffusion.gaussian import expand_to
from mmdiff_jax.diffusion.schedule import Schedule
from mmdiff_jax.samplers import exponential
from mmdiff_jax.samplers import noise as noise_lib
from mmdiff_jax.samplers.base import (
  Call,
  DenoiseFn,
  Problem,
  State,
  advance,
  guided_step,
)
from mmdiff_jax.samplers.condition import Condition
from mmdiff_jax.samplers.dpm_solver import DPMOptions, combine, make_call
from mmdiff_jax.samplers.exponential import ContinuousSchedule, Node

Tree = Any

# Positions in lambda of the inner network calls, by order.
_INNER = {2: (1 / 2,), 3: (1 / 3, 2 / 3)}
# A sample whose step falls below this (in lambda) cannot meet the tolerance.
_SMALLEST_STEP = 1e-5


class _Progress(NamedTuple):
  """Loop state; all but `attempts` is per sample."""

  x: Tree
  x_prev: Tree  # the low-order result of the last accepted step
  lambda_: jax.Array
  h: jax.Array
  stretch_start: jax.Array  # resampling: lambda where the stretch began,
  stretch_steps: jax.Array  # accepted steps since then,
  repeats_left: jax.Array  # and how often it will be repeated
  attempts: jax.Array


@dataclasses.dataclass(frozen=True)
class AdaptiveDPMSolver(DPMOptions):
  """Adaptive DPM-Solver-12 (order 2) or -23 (order 3).

  Attributes:
    order: the higher order of the pair, 2 or 3; network calls per attempt.
    atol: absolute tolerance.
    rtol: relative tolerance.
    first_step: first step size in lambda.
    safety: factor of the step size that the error estimate suggests.
    time_tolerance: distance from time 1/T at which a sample has arrived.
  """

  order: int = 3
  atol: float = 0.0078
  rtol: float = 0.05
  first_step: float = 0.05
  safety: float = 0.9
  time_tolerance: float = 1e-5

  def __post_init__(self):
    super().__post_init__()
    if self.order not in _INNER:
      raise ValueError(
        f"order={self.order} with method 'adaptive'; allowed are 2 (orders "
        "1 and 2) and 3 (orders 2 and 3)."
      )
    for name in ("atol", "rtol", "first_step", "safety", "time_tolerance"):
      if not getattr(self, name) > 0:
        raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")

  def __call__(
    self,
    denoise_fn: DenoiseFn,
    schedule: Schedule,
    x_init: Tree,
    rng: jax.Array | Mapping[str, jax.Array],
    condition: Condition | None = None,
  ) -> tuple[Tree, jax.Array]:
    """Generates samples.

    Args:
      denoise_fn: `(x_t, t [B] int32 original step index, rng) -> output`.
      schedule: the training schedule, or one respaced from it.
      x_init: tree of [B, ...] standard normal noise.
      rng: one key, or `{"noise": [B] keys, "window": key}`.
      condition: known values, or None.

    Returns:
      `(x, nfe)`: samples, and the network calls (of the whole batch) as an
      int32 scalar. A sample whose steps shrink to nothing, because the
      network's output is not finite or the tolerance cannot be met, is NaN.
    """
    problem, x = Problem.create(denoise_fn, x_init, rng, condition)
    continuous = ContinuousSchedule(schedule)

    def unfinished(state: _Progress) -> jax.Array:
      return jnp.any(self._active(continuous, state))

    def attempt(state: _Progress) -> _Progress:
      return self._attempt(problem, continuous, state)

    state = jax.lax.while_loop(
      unfinished, attempt, self._start(problem, continuous, x)
    )
    x, nfe = state.x, state.attempts * self.order
    if self.denoise_final:
      x, nfe = self._denoise(problem, continuous, x, nfe), nfe + 1
    arrived = self._arrived(continuous, state.lambda_)
    x = jax.tree.map(
      lambda leaf: jnp.where(expand_to(arrived, leaf), leaf, jnp.nan), x
    )
    return problem.finish(x), nfe

  def _start(
    self, problem: Problem, continuous: ContinuousSchedule, x: Tree
  ) -> _Progress:
    leaf = jax.tree.leaves(x)[0]
    start, end = continuous.lambda_span

    def full(value: float, dtype: Any = leaf.dtype) -> jax.Array:
      return jnp.full(leaf.shape[:1], value, dtype)

    return _Progress(
      x=x,
      x_prev=x,
      lambda_=full(start),
      h=full(min(self.first_step, end - start)),
      stretch_start=full(start),
      stretch_steps=full(0, jnp.int32),
      repeats_left=full(_repeats(problem), jnp.int32),
      attempts=jnp.int32(0),
    )

  def _arrived(
    self, continuous: ContinuousSchedule, lambda_: jax.Array
  ) -> jax.Array:
    # Entry i of the table is at time (i + 1) / T: the position over T is the
    # distance from time 1/T.
    cells = self.time_tolerance * continuous.schedule.num_timesteps
    return continuous.traced_position(lambda_) < cells

  def _active(
    self, continuous: ContinuousSchedule, state: _Progress
  ) -> jax.Array:
    stuck = ~(state.h >= _SMALLEST_STEP)
    return ~self._arrived(continuous, state.lambda_) & ~stuck

  def _attempt(
    self, problem: Problem, continuous: ContinuousSchedule, state: _Progress
  ) -> _Progress:
    active = self._active(continuous, state)
    # A finished sample idles through the batch's attempts; its step is void.
    h = jnp.where(active, state.h, self.first_step)
    end = continuous.lambda_span[1]
    rest = end - state.lambda_
    target = jnp.where(h >= rest, end, state.lambda_ + h)
    calls, low_weights = self._calls(continuous, state, target)

    def one_call(state: State, call: Call) -> State:
      return self._one_call(problem, state, call)

    zeros = jax.tree.map(jnp.zeros_like, state.x)
    before = (state.x, (state.x, (zeros,) * self.order))
    if problem.uses("gradient"):
      after = guided_step(problem, one_call, before, calls)
    else:
      after = advance(one_call, before, calls)
    x, (x_s, outputs) = after
    terms = (x_s, *outputs)
    high, low = combine(calls.update[-1], terms), combine(low_weights, terms)
    error = self._error(problem, high, low, state.x_prev)

    accept = active & (error <= 1)
    factor = self.safety * error ** (-1 / self.order)
    # An error that is not finite says nothing but "too far".
    factor = jnp.where(jnp.isnan(error), 0.5, factor)
    lambda_ = jnp.where(accept, target, state.lambda_)
    state = state._replace(
      x=_select(accept, x, state.x),
      x_prev=_select(accept, low, state.x_prev),
      lambda_=lambda_,
      h=jnp.where(active, jnp.minimum(h * factor, end - lambda_), state.h),
      attempts=state.attempts + 1,
    )
    if problem.uses("resampling"):
      state = self._noise_back(problem, continuous, state, accept)
    return state

  def _calls(
    self, continuous: ContinuousSchedule, state: _Progress, target: jax.Array
  ) -> tuple[Call, jax.Array]:
    """The attempt's calls, stacked, and the weights of the lower order."""
    step = target - state.lambda_
    s, *inner, t = (
      continuous.traced_node(state.lambda_ + r * step)
      for r in (0.0, *_INNER[self.order], 1.0)
    )
    weights = exponential.singlestep_weights(self.plus_plus, [s, *inner, t])
    low = self._low_weights(s, inner, t)
    last = self._arrived(continuous, target)
    calls = [
      make_call(node, t, _lengthen(w, self.order + 1), begins=i == 0)._replace(
        last=last, number=state.attempts * self.order + i
      )
      for i, (node, w) in enumerate(zip((s, *inner), weights, strict=True))
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *calls), low

  def _low_weights(self, s: Node, inner: list[Node], t: Node) -> jax.Array:
    c = exponential.exponential_step(self.plus_plus, s, t)
    unit = exponential.unit_vectors(self.order + 1, s.lambda_)
    if self.order == 2:
      x, _, m0 = unit
      return exponential.first_order(c, x, m0)
    x, _, m1, m0 = unit
    r1 = _INNER[3][0]
    return exponential.second_order(c, x, m0, (m1 - m0) / r1)

  def _one_call(self, problem: Problem, state: State, call: Call) -> State:
    x, (x_s, outputs) = state
    x = problem.replace(x, call)
    x_s = jax.tree.map(
      lambda new, old: jnp.where(call.begins, new, old), x, x_s
    )
    m = self.predict(problem.denoise(x, call), x, call)
    outputs = (m, *outputs[:-1])
    return combine(call.update, (x_s, *outputs)), (x_s, outputs)

  def _error(
    self, problem: Problem, high: Tree, low: Tree, x_prev: Tree
  ) -> jax.Array:
    """Scaled rms difference of the two orders, the worst modality's, [B]."""

    def rms(high, low, x_prev, generated):
      size = jnp.maximum(jnp.abs(low), jnp.abs(x_prev))
      error = (high - low) / jnp.maximum(self.atol, self.rtol * size)
      axes = tuple(range(1, error.ndim))
      total = jnp.sum(jnp.where(generated, error**2, 0), axes)
      return jnp.sqrt(total / jnp.maximum(jnp.sum(generated, axes), 1))

    # What is known is not the solver's to get right.
    if problem.condition is None:
      generated = jax.tree.map(lambda x: jnp.ones_like(x, bool), high)
    else:
      generated = jax.tree.map(jnp.logical_not, problem.condition.mask)
    errors = jax.tree.map(rms, high, low, x_prev, generated)
    return jnp.max(jnp.stack(jax.tree.leaves(errors)), axis=0)

  def _noise_back(
    self,
    problem: Problem,
    continuous: ContinuousSchedule,
    state: _Progress,
    accept: jax.Array,
  ) -> _Progress:
    """Noises samples at the end of a stretch back to where it began."""
    steps = state.stretch_steps + accept
    jump = problem.condition.resample_jump
    over = accept & ((steps >= jump) | self._arrived(continuous, state.lambda_))
    back = over & (state.repeats_left > 0)
    p = continuous.traced_node(state.lambda_)
    q = continuous.traced_node(state.stretch_start)
    signal = q.alpha / p.alpha
    scale = jnp.sqrt(jnp.maximum(q.sigma**2 - (signal * p.sigma) ** 2, 0))
    drawn = noise_lib.normal_like(
      problem.rng["noise"], state.x, noise_lib.RESAMPLE, state.attempts
    )
    noised = jax.tree.map(
      lambda x, n: expand_to(signal, x) * x + expand_to(scale, x) * n,
      state.x,
      drawn,
    )
    lambda_ = jnp.where(back, state.stretch_start, state.lambda_)
    end = continuous.lambda_span[1]
    return state._replace(
      x=_select(back, noised, state.x),
      x_prev=_select(back, noised, state.x_prev),
      lambda_=lambda_,
      # At the end no room was left for a step: begin anew.
      h=jnp.where(back, jnp.minimum(self.first_step, end - lambda_), state.h),
      stretch_start=jnp.where(over, lambda_, state.stretch_start),
      stretch_steps=jnp.where(over, 0, steps),
      repeats_left=jnp.where(
        over & ~back, _repeats(problem), state.repeats_left - back
      ),
    )

  def _denoise(
    self,
    problem: Problem,
    continuous: ContinuousSchedule,
    x: Tree,
    number: jax.Array,
  ) -> Tree:
    end = continuous.nodes(np.array([1 / continuous.schedule.num_timesteps]))[0]
    call = make_call(end, end, None)._replace(number=number)
    call = jax.tree.map(jnp.asarray, call)
    x = problem.replace(x, call)
    m = self.predict(problem.denoise(x, call), x, call)
    return combine(self.final_weights(end, 2), (x, m))


def _repeats(problem: Problem) -> int:
  if not problem.uses("resampling"):
    return 0
  return problem.condition.resample_repeats - 1


def _select(choose: jax.Array, new: Tree, old: Tree) -> Tree:
  return jax.tree.map(
    lambda a, b: jnp.where(expand_to(choose, a), a, b), new, old
  )


def _lengthen(weights: jax.Array, terms: int) -> jax.Array:
  return jnp.pad(weights, ((0, terms - weights.shape[0]), (0, 0)))
