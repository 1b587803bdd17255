"""Noise schedules: float64 tables of the forward process, and respacing."""

import dataclasses
import functools

import numpy as np

SCHEDULES = ("linear", "cosine")


@dataclasses.dataclass(frozen=True, eq=False, init=False)
class Schedule:
  """Tables of the forward process q(x_t | x_start), float64 numpy arrays [T].

  The tables follow Ho et al. 2020 (arXiv 2006.11239); `alphas_cumprod` is
  their alpha bar.

  Attributes:
    betas: variances of the forward steps, each strictly between 0 and 1.
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
    if not np.all((betas > 0) & (betas < 1)):
      raise ValueError(
        f"betas span [{betas.min():.4g}, {betas.max():.4g}]; each must lie "
        "strictly between 0 and 1."
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

  @property
  def num_timesteps(self) -> int:
    """Number of steps T of this (possibly respaced) table."""
    return self.betas.size

  @functools.cached_property
  def alphas_cumprod(self) -> np.ndarray:
    """Share of the signal's variance left after step t."""
    return np.cumprod(1.0 - self.betas)

  @functools.cached_property
  def alphas_cumprod_prev(self) -> np.ndarray:
    """`alphas_cumprod` one step earlier, 1 before the first."""
    return np.append(1.0, self.alphas_cumprod[:-1])

  @functools.cached_property
  def sqrt_alphas_cumprod(self) -> np.ndarray:
    """Scale of x_start in x_t."""
    return np.sqrt(self.alphas_cumprod)

  @functools.cached_property
  def sqrt_one_minus_alphas_cumprod(self) -> np.ndarray:
    """Scale of the noise in x_t."""
    return np.sqrt(1.0 - self.alphas_cumprod)

  @functools.cached_property
  def sqrt_recip_alphas_cumprod(self) -> np.ndarray:
    """Factor of x_t in x_start = factor * x_t - factor' * eps."""
    return np.sqrt(1.0 / self.alphas_cumprod)

  @functools.cached_property
  def sqrt_recipm1_alphas_cumprod(self) -> np.ndarray:
    """Factor of eps in x_start = factor' * x_t - factor * eps."""
    return np.sqrt(1.0 / self.alphas_cumprod - 1.0)

  @functools.cached_property
  def posterior_variance(self) -> np.ndarray:
    """Variance of q(x_{t-1} | x_t, x_start); 0 at t=0."""
    ab, ab_prev = self.alphas_cumprod, self.alphas_cumprod_prev
    return self.betas * (1.0 - ab_prev) / (1.0 - ab)

  @functools.cached_property
  def posterior_log_variance_clipped(self) -> np.ndarray:
    """Log of the posterior variance, its 0 at t=0 replaced by t=1's value."""
    return np.log(self._first_from_second(self.posterior_variance))

  @functools.cached_property
  def posterior_mean_coef1(self) -> np.ndarray:
    """Coefficient of x_start in the posterior mean."""
    ab, ab_prev = self.alphas_cumprod, self.alphas_cumprod_prev
    return self.betas * np.sqrt(ab_prev) / (1.0 - ab)

  @functools.cached_property
  def posterior_mean_coef2(self) -> np.ndarray:
    """Coefficient of x_t in the posterior mean."""
    ab, ab_prev = self.alphas_cumprod, self.alphas_cumprod_prev
    return (1.0 - ab_prev) * np.sqrt(1.0 - self.betas) / (1.0 - ab)

  @functools.cached_property
  def fixed_large_variance(self) -> np.ndarray:
    """The base model's variance: betas, t=1's posterior variance at t=0."""
    return self._first_from_second(self.betas)

  def _first_from_second(self, table: np.ndarray) -> np.ndarray:
    # A table of one step has no second entry; its beta is the one bound left.
    first = self.posterior_variance[1] if table.size > 1 else self.betas[0]
    return np.append(first, table[1:])

  def respace(self, respacing: str) -> "Schedule":
    """Returns the schedule that visits a subset of this one's steps.

    Args:
      respacing: see `respaced_indices`; "" keeps every step.

    Returns:
      A schedule whose betas are recomputed from the kept alphas_cumprod and
      whose `timestep_map` still holds the ORIGINAL step indices.
    """
    if not respacing:
      return self
    kept = respaced_indices(self.num_timesteps, respacing)
    ab = self.alphas_cumprod[kept]
    betas = 1.0 - ab / np.append(1.0, ab[:-1])
    return Schedule(betas, self.timestep_map[kept])


def respaced_indices(num_timesteps: int, respacing: str) -> np.ndarray:
  """Chooses the steps of a shorter process (Nichol & Dhariwal 2021).

  Args:
    num_timesteps: number of steps T to choose from.
    respacing: "ddimN" for the first integer stride that gives exactly N
      steps, or comma-separated counts: T is cut into that many near-equal
      sections, and each keeps its count of evenly spaced steps.

  Returns:
    Increasing step indices, int64.

  Raises:
    ValueError: if the text is malformed or asks for more steps than exist.
  """
  text = str(respacing)
  ddim = text.startswith("ddim")
  try:
    counts = [int(part) for part in text.removeprefix("ddim").split(",")]
  except ValueError:
    counts = []
  if not counts or min(counts) < 1 or (ddim and len(counts) > 1):
    raise ValueError(
      f"respacing {text!r} is not understood; allowed are 'ddimN' and "
      "comma-separated positive counts such as '250' or '10,15,20'."
    )
  if ddim:
    return _strided_indices(num_timesteps, counts[0])
  return _section_indices(num_timesteps, counts)


def integer_stride(num_timesteps: int, count: int) -> int | None:
  """The first stride from step 0 that takes `count` steps, or None."""
  for stride in range(1, num_timesteps + 1):
    if len(range(0, num_timesteps, stride)) == count:
      return stride
  return None


def _strided_indices(num_timesteps: int, count: int) -> np.ndarray:
  stride = integer_stride(num_timesteps, count)
  if stride is None:
    raise ValueError(
      f"respacing 'ddim{count}': no integer stride takes exactly {count} of "
      f"{num_timesteps} steps; use the section count '{count}' or another N."
    )
  return np.arange(0, num_timesteps, stride)


def _section_indices(num_timesteps: int, counts: list[int]) -> np.ndarray:
  base, longer = divmod(num_timesteps, len(counts))
  kept, start = [], 0
  for section, count in enumerate(counts):
    size = base + (section < longer)
    if count > size:
      raise ValueError(
        f"respacing asks for {count} steps in a section of {size} (section "
        f"{section} of {len(counts)} over {num_timesteps} steps); ask for at "
        f"most {size}."
      )
    stride = (size - 1) / (count - 1) if count > 1 else 1.0
    # A running sum, not j * stride: the rounding of halves depends on it.
    position = 0.0
    for _ in range(count):
      kept.append(start + round(position))
      position += stride
    start += size
  return np.array(kept, np.int64)


def make_schedule(
  name: str = "linear", num_timesteps: int = 1000, respacing: str = ""
) -> Schedule:
  """Builds a named schedule.

  Args:
    name: "linear" (Ho et al. 2020, scaled by 1000/T) or "cosine" (Nichol &
      Dhariwal 2021).
    num_timesteps: number of training steps T.
    respacing: see `respaced_indices`; "" keeps every step.

  Returns:
    The schedule.

  Raises:
    ValueError: for an unknown name or a T that gives impossible betas.
  """
  if num_timesteps < 1:
    raise ValueError(f"num_timesteps must be at least 1, got {num_timesteps}.")
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
  return Schedule(betas).respace(respacing)
