"""The training state: all that a step reads and writes."""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
  """What one optimiser step maps to the next.

  Attributes:
    step: number of finished steps, int32 scalar.
    params: float32 parameters.
    ema_params: exponential moving average of `params`.
    opt_state: state of the optimiser.
    timestep_state: state of the timestep sampler (loss history).
  """

  step: jax.Array
  params: Any
  ema_params: Any
  opt_state: optax.OptState
  timestep_state: Any


def state_initializer(
  init_params: Callable[[jax.Array], Any],
  optimizer: optax.GradientTransformation,
  init_timestep_state: Callable[[], Any],
) -> Callable[[jax.Array], TrainState]:
  """Returns `init(rng) -> TrainState`, traceable, for `jit`/`eval_shape`."""

  def init(rng: jax.Array) -> TrainState:
    params = init_params(rng)
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      # A copy: both trees are donated to the step, so no buffer is shared.
      ema_params=jax.tree.map(jnp.copy, params),
      opt_state=optimizer.init(params),
      timestep_state=init_timestep_state(),
    )

  return init
