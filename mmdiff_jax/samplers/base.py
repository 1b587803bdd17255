"""The one loop of all samplers with a fixed number of network calls.

A solver plans its run on the host, in float64: a list of steps, each a short
list of `Call`s. The loop runs one compiled body per call, so that the network
is compiled once whatever the order of the solver; only the gradient method,
which differentiates through whole steps, nests the calls within their step.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.diffusion.gaussian import expand_to
from mmdiff_jax.diffusion.schedule import Schedule
from mmdiff_jax.samplers import noise as noise_lib
from mmdiff_jax.samplers.condition import Condition

Tree = Any
State = tuple[Tree, Tree]
DenoiseFn = Callable[[Tree, jax.Array, jax.Array], Tree]
NoiseFn = Callable[[jax.Array], Tree]


class Call(NamedTuple):
  """One network call: numbers in the plan, arrays within the loop.

  Attributes:
    t: original step index that the network is given.
    alpha: scale of the signal at the call.
    sigma: scale of the noise at the call.
    alpha_next: scale of the signal where the call's step leads.
    sigma_next: scale of the noise where the call's step leads.
    update: what the solver needs for its update.
    begins: whether this is the first call of a step.
    last: whether the call belongs to the last step of the run.
    signal_back: scale of x after the step; 1 unless it is noised back.
    noise_back: scale of the noise that noises it back.
    step: number of the step in the run, repeats included.
    number: number of the call in the run.
    active: false for calls that only pad a step to the longest one; None
      where no step is padded.
  """

  t: Any
  alpha: Any
  sigma: Any
  alpha_next: Any
  sigma_next: Any
  update: Any
  begins: Any = True
  last: Any = False
  signal_back: Any = 1.0
  noise_back: Any = 0.0
  step: Any = 0
  number: Any = 0
  active: Any = None


class Plan(NamedTuple):
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
class Problem:
  """What is solved: a denoiser, the run's keys and a bound condition."""

  denoise_fn: DenoiseFn
  rng: Mapping[str, jax.Array]
  condition: Condition | None

  @classmethod
  def create(
    cls,
    denoise_fn: DenoiseFn,
    x_init: Tree,
    rng: jax.Array | Mapping[str, jax.Array],
    condition: Condition | None,
  ) -> tuple["Problem", Tree]:
    """Binds keys and condition to x_init; returns x_init in float32."""
    x_init = jax.tree.map(
      lambda x: jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32)), x_init
    )
    rng = noise_lib.as_rng(rng, jax.tree.leaves(x_init)[0].shape[0])
    if condition is not None:
      condition = condition.bind(x_init, rng["noise"])
    return cls(denoise_fn, rng, condition), x_init

  def denoise(self, x: Tree, call: Call) -> Tree:
    """Calls the network at `call` for the whole batch."""
    batch = self.rng["noise"].shape[:1]
    t = jnp.broadcast_to(jnp.asarray(call.t, jnp.int32), batch)
    window = jax.random.fold_in(self.rng["window"], call.number)
    return self.denoise_fn(x, t, window)

  def replace(self, x: Tree, call: Call) -> Tree:
    """Puts the known values, noised to the level of `call`, into x."""
    if self.condition is None:
      return x
    return self.condition.replace(x, call.alpha, call.sigma)

  def finish(self, x: Tree) -> Tree:
    """Puts the known values, as given, into the result."""
    return x if self.condition is None else self.condition.finish(x)

  def uses(self, method: str) -> bool:
    """Whether the run is conditioned by this method."""
    return self.condition is not None and self.condition.method == method


class Sampler(abc.ABC):
  """A solver with a fixed plan: a frozen dataclass of options and a step."""

  keep_trajectory: bool = False
  stochastic: bool = False

  def respace(self, schedule: Schedule) -> Schedule:
    """Returns the schedule that the solver walks."""
    return schedule

  @abc.abstractmethod
  def plan(self, schedule: Schedule) -> Plan:
    """Returns the steps of a run over a respaced schedule."""

  def init(self, x: Tree) -> Tree:
    """Returns what the solver remembers before its first step: nothing."""
    del x
    return ()

  @abc.abstractmethod
  def step(
    self,
    denoise: Callable[[Tree], Tree],
    schedule: Schedule,
    x: Tree,
    call: Call,
    noise: Tree | None,
    carry: Tree,
  ) -> State:
    """Makes one network call; returns the new x and the new memory."""

  def __call__(
    self,
    denoise_fn: DenoiseFn,
    schedule: Schedule,
    x_init: Tree,
    rng: jax.Array | Mapping[str, jax.Array],
    condition: Condition | None = None,
    *,
    noise_fn: NoiseFn | None = None,
  ) -> tuple:
    """Generates samples; see `sample`."""
    return sample(
      self, denoise_fn, schedule, x_init, rng, condition, noise_fn=noise_fn
    )


def sample(
  solver: Sampler,
  denoise_fn: DenoiseFn,
  schedule: Schedule,
  x_init: Tree,
  rng: jax.Array | Mapping[str, jax.Array],
  condition: Condition | None = None,
  *,
  noise_fn: NoiseFn | None = None,
) -> tuple:
  """Runs a solver from x_init to a sample.

  Args:
    solver: a solver with a fixed plan.
    denoise_fn: `(x_t, t [B] int32 original step index, rng) -> output`, a
      tree like x_t (channels doubled with a learned variance).
    schedule: the training schedule, or one respaced from it.
    x_init: tree of [B, ...] standard normal noise.
    rng: one key, or `{"noise": [B] keys, "window": key}`.
    condition: known values, or None.
    noise_fn: `(step) -> tree like x_init`, the noise of step number `step`
      (traced), in place of draws from the samples' keys.

  Returns:
    `(x, nfe)`: the samples and the number of network calls; with the
    solver's `keep_trajectory` also x after every step, [steps, B, ...].

  Raises:
    ValueError: if the condition or the rng does not fit x_init.
  """
  problem, x_init = Problem.create(denoise_fn, x_init, rng, condition)
  schedule = solver.respace(schedule)
  steps = plan_steps(solver.plan(schedule), problem)
  nfe = sum(map(len, steps))
  ends = np.cumsum([len(calls) for calls in steps]) - 1
  guided = problem.uses("gradient")
  if guided:
    steps, ends = pad_steps(steps), np.arange(len(steps))
  else:
    steps = [[call] for calls in steps for call in calls]

  def one_call(state: State, call: Call) -> State:
    x, carry = state
    noise = None
    if solver.stochastic:
      noise = _step_noise(problem, x, call, noise_fn)
    x, carry = solver.step(
      lambda x: problem.denoise(x, call),
      schedule,
      problem.replace(x, call),
      call,
      noise,
      carry,
    )
    if problem.uses("resampling"):
      x = _noise_back(problem, x, call)
    return x, carry

  def one_step(state: State, calls: Call) -> tuple[State, Tree]:
    if guided:
      state = guided_step(problem, one_call, state, calls)
    else:
      state = advance(one_call, state, calls)
    return state, state[0] if solver.keep_trajectory else None

  table = stack_calls(steps, jax.tree.leaves(x_init)[0].dtype)
  (x, _), trajectory = jax.lax.scan(
    one_step, (x_init, solver.init(x_init)), table
  )
  x = problem.finish(x)
  if solver.keep_trajectory:
    return x, nfe, jax.tree.map(lambda leaf: leaf[ends], trajectory)
  return x, nfe


def advance(
  one_call: Callable[[State, Call], State], state: State, calls: Call
) -> State:
  """Makes the calls of one step, stacked on their leading axis."""
  if calls.t.shape[0] == 1:
    return one_call(state, jax.tree.map(lambda leaf: leaf[0], calls))

  def body(state: State, call: Call) -> tuple[State, None]:
    if call.active is None:
      return one_call(state, call), None
    return jax.lax.cond(
      call.active, one_call, lambda state, call: state, state, call
    ), None

  return jax.lax.scan(body, state, calls)[0]


def guided_step(
  problem: Problem,
  one_call: Callable[[State, Call], State],
  state: State,
  calls: Call,
) -> State:
  """One step from t to p, then u_p -= scale sqrt(ab_t) d(misfit of c)/d u_t.

  The misfit ||c'_p - q_sample(c, p, z)||^2 is a sum, so each sample's
  gradient is its own; all of it is float32 outside the network.
  """
  x, carry = state
  first = jax.tree.map(lambda leaf: leaf[0], calls)
  x = problem.replace(x, first)

  def misfit(x: Tree) -> tuple[jax.Array, State]:
    state = advance(one_call, (x, carry), calls)
    error = problem.condition.misfit(
      state[0], first.alpha_next, first.sigma_next
    )
    return error, state

  gradient, (x, carry) = jax.grad(misfit, has_aux=True)(x)
  strength = jnp.where(first.last, 0, first.alpha)
  return problem.condition.correct(x, gradient, strength), carry


def plan_steps(plan: Plan, problem: Problem) -> list[list[Call]]:
  """Lists the calls of every step, with resampling's repeats, numbered.

  Resampling runs each stretch of `resample_jump` steps `resample_repeats`
  times and noises x back to the stretch's start in between.
  """
  repeats, jump = 1, plan.num_steps
  if problem.uses("resampling"):
    repeats = problem.condition.resample_repeats
    jump = problem.condition.resample_jump
  steps, depth = [], 0
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
