"""What a sampler is, and what all of them are made of.

A sampler solves a `Problem` by network calls, each described by a `Call`; the
conditioning of the problem happens around the calls and around the steps that
they form, and no solver knows of it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from mmdiff_jax.diffusion.process import Process
from mmdiff_jax.samplers import noise as noise_lib
from mmdiff_jax.samplers.condition import Condition

Tree = Any
State = tuple[Tree, Tree]
DenoiseFn = Callable[[Tree, Any, jax.Array], Tree]
Rng = jax.Array | Mapping[str, jax.Array]


class Sampler(Protocol):
  """A way from noise to samples; a frozen dataclass of its options."""

  def respace(self, schedule: Process) -> Process:
    """Returns the process that the sampler walks.

    Raises:
      ValueError: if the process cannot give the steps that were asked for, or
        rules out the network's prediction.
    """
    ...

  def __call__(
    self,
    denoise_fn: DenoiseFn,
    schedule: Process,
    x_init: Tree,
    rng: Rng,
    condition: Condition | None = None,
  ) -> tuple[Tree, Any]:
    """Generates samples.

    Args:
      denoise_fn: `(x_t, t [B] int32 original step index, rng) -> output`, a
        tree like x_t (channels doubled with a learned variance).
      schedule: the process of training, or one respaced from it.
      x_init: tree of [B, ...] standard normal noise.
      rng: one key, or `{"noise": [B] keys, "window": key}`.
      condition: known values, or None.

    Returns:
      `(x, nfe)`: the samples, in float32 or wider, and the number of network
      calls.

    Raises:
      ValueError: if the condition or the rng does not fit x_init.
    """
    ...


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
    rng: Rng,
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
    t: Any = jnp.broadcast_to(jnp.asarray(call.t, jnp.int32), batch)
    if self.condition is not None:
      t = self.condition.level(t)
    rng = jax.random.fold_in(self.rng["window"], call.number)
    return self.denoise_fn(x, t, rng)

  def replace(self, x: Tree, call: Call) -> Tree:
    """Puts the known values into x, as the method says at `call`."""
    if self.condition is None:
      return x
    return self.condition.replace(x, call.alpha, call.sigma, call.t)

  def finish(self, x: Tree) -> Tree:
    """Puts the known values, as given, into the result."""
    return x if self.condition is None else self.condition.finish(x)

  @property
  def guidance(self) -> Condition | None:
    """The condition, if its gradient guides the steps."""
    if self.condition is None or self.condition.method != "gradient":
      return None
    return self.condition

  @property
  def resampling(self) -> tuple[int, int] | None:
    """Repeats and length in steps of the stretches that are resampled."""
    return None if self.condition is None else self.condition.resampling


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
  condition: Condition,
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
  x = condition.replace(x, first.alpha, first.sigma, first.t)

  def misfit(x: Tree) -> tuple[jax.Array, State]:
    state = advance(one_call, (x, carry), calls)
    error = condition.misfit(state[0], first.alpha_next, first.sigma_next)
    return error, state

  gradient, (x, carry) = jax.grad(misfit, has_aux=True)(x)
  strength = jnp.where(first.last, 0, first.alpha)
  return condition.correct(x, gradient, strength), carry
