"""Variance-preserving schedules and rectified flow: the processes by name."""

import dataclasses
import functools

import numpy as np

from mmdiff_jax.diffusion.process import Array, Level, Process, array_module

SCHEDULES = ("linear", "cosine")
PROCESSES = ("vp", "flow")


@dataclasses.dataclass(frozen=True, eq=False, init=False)
class Schedule(Process):
  """The variance-preserving process: alpha^2 + sigma^2 = 1.

  The tables follow Ho et al. 2020 (arXiv 2006.11239); `alphas_cumprod` is
  their alpha bar, alpha^2. Between steps, log alpha is linear in time.

  Attributes:
    betas: variances of the forward steps, each strictly between 0 and 1; the
      last may be 1 (no signal is left).
    timestep_map: the step index that the network was trained with, for each
      entry of the table; `0..T-1` unless the schedule is respaced.
  """

  betas: np.ndarray
  timestep_map: np.ndarray

  def __init__(self, betas: np.ndarray, timestep_map: np.ndarray | None = None):
    """Checks and freezes the tables; no `timestep_map` is `0..T-1`."""
    betas = np.array(betas, np.float64)
    if betas.ndim != 1 or betas.size == 0:
      raise ValueError(
        f"betas has shape {betas.shape}; give a non-empty vector [T]."
      )
    if not (np.all((betas > 0) & (betas <= 1)) and np.all(betas[:-1] < 1)):
      raise ValueError(
        f"betas span [{betas.min():.4g}, {betas.max():.4g}]; each must lie "
        "strictly between 0 and 1 (the last may be 1)."
      )
    if timestep_map is None:
      timestep_map = np.arange(betas.size)
    kept = np.array(timestep_map, np.int64)
    if kept.shape != betas.shape:
      raise ValueError(
        f"timestep_map has shape {kept.shape} but betas {betas.shape}; give "
        "one original step index per beta."
      )
    for name, table in (("betas", betas), ("timestep_map", kept)):
      table.setflags(write=False)
      object.__setattr__(self, name, table)

  @functools.cached_property
  def alphas_cumprod(self) -> np.ndarray:
    """Share of the signal's variance left after step t."""
    return np.cumprod(1.0 - self.betas)

  @functools.cached_property
  def alphas_cumprod_prev(self) -> np.ndarray:
    """`alphas_cumprod` one step earlier, 1 before the first."""
    return np.append(1.0, self.alphas_cumprod[:-1])

  @functools.cached_property
  def alpha(self) -> np.ndarray:
    """Square root of `alphas_cumprod`."""
    return np.sqrt(self.alphas_cumprod)

  @functools.cached_property
  def variance(self) -> np.ndarray:
    """1 - `alphas_cumprod`."""
    return 1.0 - self.alphas_cumprod

  @functools.cached_property
  def step_alpha(self) -> np.ndarray:
    """Square root of 1 - `betas`."""
    return np.sqrt(1.0 - self.betas)

  @functools.cached_property
  def step_variance(self) -> np.ndarray:
    """`betas`."""
    return self.betas

  @functools.cached_property
  def clock(self) -> np.ndarray:
    """Logarithm of alpha."""
    with np.errstate(divide="ignore"):
      return 0.5 * np.log(self.alphas_cumprod)

  def at_clock(self, clock: np.ndarray) -> Level:
    """Levels where log alpha has these values."""
    sigma = np.sqrt(-np.expm1(2 * clock))
    return Level(np.exp(clock), sigma, clock - np.log(sigma))

  def at_lambda(self, lambda_: Array) -> tuple[Array, Level]:
    """Log alpha and levels: alpha^2 is the logistic function of 2 lambda."""
    xp = array_module(lambda_)
    clock = -0.5 * xp.logaddexp(0, -2 * lambda_)
    sigma = xp.sqrt(-xp.expm1(2 * clock))
    return clock, Level(xp.exp(clock), sigma, lambda_)

  def keep(self, indices: np.ndarray) -> "Schedule":
    """The schedule whose betas lead from one kept level to the next."""
    ab = self.alphas_cumprod[indices]
    betas = 1.0 - ab / np.append(1.0, ab[:-1])
    return Schedule(betas, self.timestep_map[indices])


@dataclasses.dataclass(frozen=True, eq=False)
class RectifiedFlow(Process):
  """Straight lines from data to noise: alpha = 1 - s, sigma = s.

  Liu et al. 2022 (arXiv 2209.03003). s is linear in time between steps.

  Attributes:
    s: rising positions on the line, in (0, 1].
    timestep_map: see `Process`.
  """

  s: np.ndarray
  timestep_map: np.ndarray

  @functools.cached_property
  def alpha(self) -> np.ndarray:
    """1 - s."""
    return 1.0 - self.s

  @functools.cached_property
  def variance(self) -> np.ndarray:
    """Square of s."""
    return self.s**2

  @functools.cached_property
  def clock(self) -> np.ndarray:
    """1 - s."""
    return self.alpha

  def at_clock(self, clock: np.ndarray) -> Level:
    """Levels where alpha has these values."""
    return Level(clock, 1 - clock, np.log(clock) - np.log1p(-clock))

  def at_lambda(self, lambda_: Array) -> tuple[Array, Level]:
    """Alpha and levels: alpha is the logistic function of lambda."""
    xp = array_module(lambda_)
    alpha, sigma = 1 / (1 + xp.exp(-lambda_)), 1 / (1 + xp.exp(lambda_))
    return alpha, Level(alpha, sigma, lambda_)

  def keep(self, indices: np.ndarray) -> "RectifiedFlow":
    """The flow over these entries of the table alone."""
    return RectifiedFlow(self.s[indices], self.timestep_map[indices])


def make_schedule(
  name: str = "linear",
  num_timesteps: int = 1000,
  respacing: str = "",
  *,
  zero_terminal_snr: bool = False,
) -> Schedule:
  """Builds a named schedule.

  Args:
    name: "linear" (Ho et al. 2020, scaled by 1000/T) or "cosine" (Nichol &
      Dhariwal 2021).
    num_timesteps: number of training steps T.
    respacing: see `respaced_indices`; "" keeps every step.
    zero_terminal_snr: shift and scale alpha so that the last step is noise
      alone and the first keeps its signal (Lin et al. 2024, arXiv 2305.08891).

  Returns:
    The schedule.

  Raises:
    ValueError: for an unknown name or a T that gives impossible betas.
  """
  _check_steps(num_timesteps)
  if name == "linear":
    scale = 1000.0 / num_timesteps
    if scale * 0.02 >= 1.0:
      raise ValueError(
        f"the linear schedule needs more than 20 steps, got {num_timesteps}; "
        "take 'cosine' or respace a longer schedule."
      )
    betas = np.linspace(scale * 1e-4, scale * 0.02, num_timesteps)
  elif name == "cosine":
    edges = np.arange(num_timesteps + 1) / num_timesteps
    signal = np.cos((edges + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1.0 - signal[1:] / signal[:-1], 0.999)
  else:
    raise ValueError(
      f"unknown schedule {name!r}; allowed are {', '.join(SCHEDULES)}."
    )
  schedule = Schedule(betas)
  if zero_terminal_snr:
    schedule = _without_last_signal(schedule)
  return schedule.respace(respacing)


def _without_last_signal(schedule: Schedule) -> Schedule:
  if schedule.num_timesteps == 1:
    raise ValueError("zero_terminal_snr needs a schedule of at least 2 steps.")
  alpha = schedule.alpha
  alpha = (alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))
  ab = alpha**2
  return Schedule(1.0 - ab / np.append(1.0, ab[:-1]))


def make_process(
  name: str = "vp",
  num_timesteps: int = 1000,
  schedule: str = "linear",
  zero_terminal_snr: bool = False,
) -> Process:
  """Builds the process of a configuration.

  Args:
    name: "vp" (variance preserving) or "flow" (rectified flow).
    num_timesteps: number of training steps T; step i of flow is at s =
      (i + 1) / T.
    schedule: of vp, see `make_schedule`; flow has but one.
    zero_terminal_snr: of vp, likewise; flow always ends in noise alone.

  Raises:
    ValueError: for an unknown name, or settings that make no process.
  """
  if name == "vp":
    return make_schedule(
      schedule, num_timesteps, zero_terminal_snr=zero_terminal_snr
    )
  if name != "flow":
    raise ValueError(
      f"unknown process {name!r}; allowed are {', '.join(PROCESSES)}."
    )
  if zero_terminal_snr:
    raise ValueError(
      "zero_terminal_snr=True with process 'flow', whose last step is noise "
      "alone anyway; leave it out."
    )
  _check_steps(num_timesteps)
  steps = np.arange(num_timesteps)
  return RectifiedFlow((steps + 1) / num_timesteps, steps)


def _check_steps(num_timesteps: int) -> None:
  if num_timesteps < 1:
    raise ValueError(f"num_timesteps must be at least 1, got {num_timesteps}.")
