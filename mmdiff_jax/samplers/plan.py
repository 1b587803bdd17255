"""The one loop of all samplers with a fixed number of network calls.

A solver plans its run on the host, in float64: a list of steps, each a short
list of `Call`s. The loop runs one compiled body per call, so that the network
is compiled once whatever the order of the solver; only the gradient method,
which differentiates through whole steps, nests the calls within their step.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.diffusion.gaussian import expand_to
from mmdiff_jax.diffusion.process import Process
from mmdiff_jax.samplers import noise as noise_lib
from mmdiff_jax.samplers.base import (
  Call,
  DenoiseFn,
  Problem,
  Rng,
  State,
  Tree,
  advance,
  guided_step,
)
from mmdiff_jax.samplers.condition import Condition

NoiseFn = Callable[[jax.Array], Tree]


class SamplingPlan(NamedTuple):
  """The steps of a run.

  Attributes:
    num_steps: number of steps, without the closing one.
    calls: `(index, depth) -> calls of step index`, where depth counts the
      steps since the trajectory started or was last noised back.
    final: the call of a closing step that is never repeated, or None.
  """

  num_steps: int
  calls: Callable[[int, int], list[Call]]
  final: Call | None = None


@dataclasses.dataclass(frozen=True)
class Steps:
  """The steps of one run, ready to be made.

  Attributes:
    count: their number.
    nfe: network calls of all of them.
    ends: of the table, the rows that end a step of the solver.
    table: what each of them needs, stacked.
    start: the state before the first one.
    make: makes one; also returns what a trajectory keeps.
    finish: what becomes of x after the last one.
  """

  count: int
  nfe: int
  ends: np.ndarray
  table: Call
  start: State
  make: Callable[[State, Call], tuple[State, Tree]]
  finish: Callable[[Tree], Tree]


class PlannedSampler(abc.ABC):
  """A sampler with a plan: a frozen dataclass of options and a step."""

  keep_trajectory: bool = False

  @property
  def stochastic(self) -> bool:
    """Whether a step needs noise."""
    return False

  @abc.abstractmethod
  def respace(self, schedule: Process) -> Process:
    """Returns the process that the solver walks."""

  @abc.abstractmethod
  def plan(self, process: Process) -> SamplingPlan:
    """Returns the steps of a run over a respaced process."""

  def init(self, x: Tree) -> Tree:
    """Returns what the solver remembers before its first step: nothing."""
    del x
    return ()

  @abc.abstractmethod
  def step(
    self,
    denoise: Callable[[Tree], Tree],
    process: Process,
    x: Tree,
    call: Call,
    noise: Tree | None,
    carry: Tree,
  ) -> State:
    """Makes one network call; returns the new x and the new memory."""

  def __call__(
    self,
    denoise_fn: DenoiseFn,
    schedule: Process,
    x_init: Tree,
    rng: Rng,
    condition: Condition | None = None,
    *,
    noise_fn: NoiseFn | None = None,
  ) -> tuple[Any, ...]:
    """Generates samples.

    Args:
      denoise_fn: as for every sampler, see `base.Sampler`.
      schedule: the process of training, or one respaced from it.
      x_init: tree of [B, ...] standard normal noise.
      rng: one key, or `{"noise": [B] keys, "window": key}`.
      condition: known values, or None.
      noise_fn: `(step) -> tree like x_init`, the noise of step number `step`
        (traced), in place of draws from the samples' keys.

    Returns:
      `(x, nfe)`: the samples and the number of network calls, an int; with
      `keep_trajectory` also x after every step, [steps, B, ...].

    Raises:
      ValueError: if the condition or the rng does not fit x_init.
    """
    steps = self._steps(
      denoise_fn, schedule, x_init, rng, condition, noise_fn=noise_fn
    )
    (x, _), trajectory = jax.lax.scan(steps.make, steps.start, steps.table)
    x = steps.finish(x)
    if self.keep_trajectory:
      ends = steps.ends
      return x, steps.nfe, jax.tree.map(lambda leaf: leaf[ends], trajectory)
    return x, steps.nfe

  def start(self, x_init: Tree) -> State:
    """The state before the first step, for `part`."""
    return x_init, self.init(x_init)

  def count(
    self, schedule: Process, condition: Condition | None
  ) -> tuple[int, int]:
    """Numbers of steps, as `part` counts them, and of network calls."""
    plan = self.plan(self.respace(schedule))
    steps = plan_steps(plan, condition.resampling if condition else None)
    calls = sum(map(len, steps))
    guided = condition is not None and condition.method == "gradient"
    return len(steps) if guided else calls, calls

  def part(
    self,
    denoise_fn: DenoiseFn,
    schedule: Process,
    state: State,
    rng: Rng,
    condition: Condition | None,
    first: jax.Array,
    stop: jax.Array,
  ) -> State:
    """Makes some of the steps of a run.

    Part after part from `start` on is the same as a run in one piece, and one
    compiled program makes any of them.

    Args:
      denoise_fn: as for a run.
      schedule: as for a run.
      state: of the part before, or `start`.
      rng: as for a run.
      condition: as for a run.
      first: number of the first step, which may be traced.
      stop: number of the step after the last one; after the run's last one x
        is the result.
    """
    steps = self._steps(denoise_fn, schedule, state[0], rng, condition)

    def body(index: jax.Array, state: State) -> State:
      call = jax.tree.map(lambda leaf: leaf[index], steps.table)
      return steps.make(state, call)[0]

    x, memory = jax.lax.fori_loop(first, stop, body, state)
    x = jax.lax.cond(stop == steps.count, steps.finish, lambda x: x, x)
    return x, memory

  def _steps(
    self,
    denoise_fn: DenoiseFn,
    schedule: Process,
    x_init: Tree,
    rng: Rng,
    condition: Condition | None,
    *,
    noise_fn: NoiseFn | None = None,
  ) -> Steps:
    """Lists the steps of a run."""
    problem, x_init = Problem.create(denoise_fn, x_init, rng, condition)
    process = self.respace(schedule)
    steps = plan_steps(self.plan(process), problem.resampling)
    nfe = sum(map(len, steps))
    ends = np.cumsum([len(calls) for calls in steps]) - 1
    guidance = problem.guidance
    if guidance is not None:
      steps, ends = pad_steps(steps), np.arange(len(steps))
    else:
      steps = [[call] for calls in steps for call in calls]

    def one_call(state: State, call: Call) -> State:
      x, carry = state
      noise = None
      if self.stochastic:
        noise = _step_noise(problem, x, call, noise_fn)
      x, carry = self.step(
        lambda x: problem.denoise(x, call),
        process,
        problem.replace(x, call),
        call,
        noise,
        carry,
      )
      if problem.resampling is not None:
        x = _noise_back(problem, x, call)
      return x, carry

    def one_step(state: State, calls: Call) -> tuple[State, Tree]:
      if guidance is not None:
        state = guided_step(guidance, one_call, state, calls)
      else:
        state = advance(one_call, state, calls)
      return state, state[0] if self.keep_trajectory else None

    return Steps(
      count=len(steps),
      nfe=nfe,
      ends=ends,
      table=stack_calls(steps, jax.tree.leaves(x_init)[0].dtype),
      start=self.start(x_init),
      make=one_step,
      finish=problem.finish,
    )


def plan_steps(
  plan: SamplingPlan, resampling: tuple[int, int] | None
) -> list[list[Call]]:
  """Lists the calls of every step, with resampling's repeats, numbered.

  Resampling runs each stretch of `resample_jump` steps `resample_repeats`
  times and noises x back to the stretch's start in between.
  """
  repeats, jump = resampling or (1, plan.num_steps)
  steps: list[list[Call]] = []
  depth = 0
  for start in range(0, plan.num_steps, jump):
    stretch = range(start, min(start + jump, plan.num_steps))
    for repeat in range(repeats):
      for index in stretch:
        steps.append(plan.calls(index, depth))
        depth += 1
      if repeat < repeats - 1:
        steps[-1] = _noised_back(steps[-1], steps[-len(stretch)][0])
        depth = 0
  if plan.final is not None:
    steps.append([plan.final])
  steps[-1] = [call._replace(last=True) for call in steps[-1]]
  numbers = iter(range(sum(map(len, steps))))
  return [
    [call._replace(step=i, number=next(numbers)) for call in calls]
    for i, calls in enumerate(steps)
  ]


def _noised_back(calls: list[Call], target: Call) -> list[Call]:
  *rest, end = calls
  signal = target.alpha / end.alpha_next
  variance = target.sigma**2 - (signal * end.sigma_next) ** 2
  end = end._replace(signal_back=signal, noise_back=np.sqrt(variance))
  return [*rest, end]


def pad_steps(steps: list[list[Call]]) -> list[list[Call]]:
  """Pads every step to as many calls as the longest one has."""
  longest = max(map(len, steps))
  if all(len(calls) == longest for calls in steps):
    return steps
  return [
    [call._replace(active=True) for call in calls]
    + [calls[-1]._replace(active=False)] * (longest - len(calls))
    for calls in steps
  ]


def stack_calls(steps: list[list[Call]], dtype: jnp.dtype) -> Call:
  """Stacks steps of equally many calls into one table [steps, calls, ...]."""

  def stack(*values: Any) -> jax.Array:
    table = np.stack(values).reshape(
      len(steps), len(steps[0]), *np.shape(values[0])
    )
    return jnp.asarray(table, dtype if table.dtype.kind == "f" else None)

  return jax.tree.map(stack, *[call for calls in steps for call in calls])


def _step_noise(
  problem: Problem, x: Tree, call: Call, noise_fn: NoiseFn | None
) -> Tree:
  if noise_fn is not None:
    return noise_fn(call.step)
  keys = problem.rng["noise"]
  return noise_lib.normal_like(keys, x, noise_lib.STEP, call.step)


def _noise_back(problem: Problem, x: Tree, call: Call) -> Tree:
  keys = problem.rng["noise"]
  drawn = noise_lib.normal_like(keys, x, noise_lib.RESAMPLE, call.step)
  return jax.tree.map(
    lambda leaf, n: (
      expand_to(call.signal_back, leaf) * leaf
      + expand_to(call.noise_back, leaf) * n
    ),
    x,
    drawn,
  )
