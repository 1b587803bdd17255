"""Which steps t a training batch visits, and how their losses are weighted.

Both samplers are pure: the state is a pytree that lives in the train state,
and every method can be jitted.
"""

import dataclasses

import jax
import jax.numpy as jnp

from mmdiff_jax.diffusion.process import Process

State = dict[str, jax.Array]

TIMESTEP_SAMPLERS = ("uniform", "loss_second_moment")


@dataclasses.dataclass(frozen=True)
class UniformSampler:
  """Every step is equally likely; all weights are 1.

  Attributes:
    num_timesteps: number of steps T.
  """

  num_timesteps: int

  def init(self) -> State:
    """Returns the (empty) state."""
    return {}

  def sample(
    self, state: State, rng: jax.Array, batch: int
  ) -> tuple[jax.Array, jax.Array]:
    """Returns t [batch] int32 and weights [batch] float32."""
    del state
    t = jax.random.randint(rng, (batch,), 0, self.num_timesteps, jnp.int32)
    return t, jnp.ones((batch,), jnp.float32)

  def update(self, state: State, t: jax.Array, losses: jax.Array) -> State:
    """Returns the state unchanged: uniform sampling learns nothing."""
    del t, losses
    return state


@dataclasses.dataclass(frozen=True)
class LossSecondMomentSampler:
  """Importance sampling by the root mean square of recent losses.

  Nichol & Dhariwal 2021 (arXiv 2102.09672), section 3.3: p_t is proportional
  to sqrt(E[L_t^2]), mixed with a little uniform probability, and the loss is
  weighted by 1 / (T p_t) so that its expectation stays. Uniform until every
  step has a full history.

  Attributes:
    num_timesteps: number of steps T.
    history_length: losses remembered per step.
    uniform_probability: share of the uniform distribution in p.
  """

  num_timesteps: int
  history_length: int = 10
  uniform_probability: float = 0.001

  def init(self) -> State:
    """Returns `history` [T, 10] (a ring per step) and `counts` [T]."""
    shape = (self.num_timesteps, self.history_length)
    return {
      "history": jnp.zeros(shape, jnp.float32),
      "counts": jnp.zeros(self.num_timesteps, jnp.int32),
    }

  def probabilities(self, state: State) -> jax.Array:
    """Returns p [T], which sums to 1."""
    uniform = jnp.full(self.num_timesteps, 1.0 / self.num_timesteps)
    p = jnp.sqrt(jnp.mean(state["history"] ** 2, axis=-1))
    p = p / jnp.maximum(jnp.sum(p), jnp.finfo(p.dtype).tiny)
    mix = self.uniform_probability
    ready = jnp.all(state["counts"] >= self.history_length)
    return jnp.where(ready, (1.0 - mix) * p + mix * uniform, uniform)

  def sample(
    self, state: State, rng: jax.Array, batch: int
  ) -> tuple[jax.Array, jax.Array]:
    """Returns t [batch] int32 and weights 1/(T p_t) [batch] float32."""
    p = self.probabilities(state)
    t = jax.random.choice(rng, self.num_timesteps, (batch,), p=p)
    t = t.astype(jnp.int32)
    return t, 1.0 / (self.num_timesteps * p[t])

  def update(self, state: State, t: jax.Array, losses: jax.Array) -> State:
    """Remembers a batch of losses, in the order of the batch.

    Args:
      state: from `init` or an earlier update.
      t: [B] steps.
      losses: [B] unweighted losses at those steps.

    Returns:
      The new state.
    """
    same = t[:, None] == t[None, :]
    earlier = jnp.sum(jnp.tril(same, -1), axis=1)
    later = jnp.sum(jnp.triu(same, 1), axis=1)
    slot = (state["counts"][t] + earlier) % self.history_length
    # A loss that this very batch overwrites again is sent out of range, where
    # the scatter drops it: two writes to one slot have no defined order.
    row = jnp.where(later < self.history_length, t, self.num_timesteps)
    losses = jax.lax.stop_gradient(losses).astype(jnp.float32)
    return {
      "history": state["history"].at[row, slot].set(losses, mode="drop"),
      "counts": state["counts"].at[t].add(1),
    }


def create_timestep_sampler(
  name: str, process: Process
) -> UniformSampler | LossSecondMomentSampler:
  """Returns the sampler of training steps called `name`.

  Args:
    name: "uniform" or "loss_second_moment".
    process: the training process.

  Returns:
    An object with `init() -> state`, `sample(state, rng, batch) -> (t,
    weights)` and `update(state, t, losses) -> state`.

  Raises:
    ValueError: for an unknown name.
  """
  if name == "uniform":
    return UniformSampler(process.num_timesteps)
  if name == "loss_second_moment":
    return LossSecondMomentSampler(process.num_timesteps)
  raise ValueError(
    f"unknown timestep sampler {name!r}; allowed are "
    f"{', '.join(TIMESTEP_SAMPLERS)}."
  )
