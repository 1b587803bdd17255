"""MM-Diffusion: joint audio-video diffusion in JAX and Flax."""

import os
import typing

if typing.TYPE_CHECKING:
  from mmdiff_jax.sampling.model import Model

__version__ = "0.1.0"


def load(path: str | os.PathLike) -> "Model":
  """Loads a trained model.

  Args:
    path: a checkpoint or a training run's workdir, whose newest is taken.

  Returns:
    An object with `spec`, `denoise_fn(inputs)` and `sample(count, ...)`; see
    `sampling.model.Model`.

  Raises:
    FileNotFoundError: if there is no checkpoint.
    ValueError: if it is damaged.
  """
  # Late: most parts of the package need neither JAX nor a network.
  from mmdiff_jax.sampling.model import Model

  return Model.load(path)
