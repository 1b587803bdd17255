"""The forward process, its reversal and the training losses."""

from mmdiff_jax.diffusion.losses import training_losses, validate_loss
from mmdiff_jax.diffusion.process import PREDICTIONS, Process
from mmdiff_jax.diffusion.schedule import (
  Schedule,
  make_process,
  make_schedule,
)
from mmdiff_jax.diffusion.timesteps import create_timestep_sampler

__all__ = [
  "PREDICTIONS",
  "Process",
  "Schedule",
  "create_timestep_sampler",
  "make_process",
  "make_schedule",
  "training_losses",
  "validate_loss",
]
