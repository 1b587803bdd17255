"""Samplers that walk the process's own steps: DDPM and DDIM."""

import abc
import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.diffusion import gaussian
from mmdiff_jax.diffusion.process import Process, check_prediction
from mmdiff_jax.diffusion.respacing import integer_stride
from mmdiff_jax.samplers.base import Call, State, Tree
from mmdiff_jax.samplers.plan import PlannedSampler, SamplingPlan


@dataclasses.dataclass(frozen=True)
class _TableSampler(PlannedSampler):
  """One network call per entry of the (respaced) table, from high to low.

  Attributes:
    steps: number of steps or a respacing text (see `respaced_indices`); None
      walks the process as it is handed in.
    clip_denoised: clip the predicted x_start to [-1, 1].
    learn_sigma: whether the network's channels are doubled.
    prediction: what the network predicts, one of `process.PREDICTIONS`.
    keep_trajectory: also return x after every step.
  """

  steps: int | str | None = None
  clip_denoised: bool = True
  learn_sigma: bool = False
  prediction: str = "eps"
  keep_trajectory: bool = False

  # Whether a number of steps asks for an integer stride, where one gives it.
  _strided = False

  def __post_init__(self):
    check_prediction(self.prediction)
    if isinstance(self.steps, int) and self.steps < 1:
      raise ValueError(f"steps must be at least 1, got {self.steps}.")

  def respace(self, schedule: Process) -> Process:
    if self.steps is not None:
      text = str(self.steps)
      if self._strided and isinstance(self.steps, int):
        if integer_stride(schedule.num_timesteps, self.steps):
          text = f"ddim{text}"
      schedule = schedule.respace(text)
    check_prediction(self.prediction, schedule)
    return schedule

  def plan(self, process: Process) -> SamplingPlan:
    count = process.num_timesteps

    def calls(index: int, depth: int) -> list[Call]:
      del depth
      i = count - 1 - index
      call = Call(
        t=process.timestep_map[i],
        alpha=process.alpha[i],
        sigma=process.sigma[i],
        alpha_next=process.alpha_prev[i],
        sigma_next=np.sqrt(process.variance_prev[i]),
        update=i,
      )
      return [call]

    return SamplingPlan(count, calls)

  def step(
    self,
    denoise: Callable[[Tree], Tree],
    process: Process,
    x: Tree,
    call: Call,
    noise: Tree | None,
    carry: Tree,
  ) -> State:
    t = jnp.full(jax.tree.leaves(x)[0].shape[:1], call.update)
    p = gaussian.p_mean_variance(
      process,
      denoise(x),
      x,
      t,
      learn_sigma=self.learn_sigma,
      prediction=self.prediction,
      clip_denoised=self.clip_denoised,
    )
    return self.update(process, p, x, t, noise), carry

  @abc.abstractmethod
  def update(
    self,
    process: Process,
    p: gaussian.Transition,
    x: Tree,
    t: jax.Array,
    noise: Tree | None,
  ) -> Tree:
    """Returns x one table step lower."""


@dataclasses.dataclass(frozen=True)
class DDPM(_TableSampler):
  """Ancestral sampling (Ho et al. 2020, arXiv 2006.11239, algorithm 2)."""

  @property
  def stochastic(self) -> bool:
    """Every step needs noise."""
    return True

  def update(
    self,
    process: Process,
    p: gaussian.Transition,
    x: Tree,
    t: jax.Array,
    noise: Tree | None,
  ) -> Tree:
    """Samples from p(x_{t-1} | x_t)."""
    return gaussian.ddpm_step(p, t, noise)


@dataclasses.dataclass(frozen=True)
class DDIM(_TableSampler):
  """Denoising diffusion implicit models (Song et al. 2021, 2010.02502).

  Attributes:
    eta: 0 is deterministic, 1 has the posterior's variance.
  """

  eta: float = 0.0

  _strided = True

  def __post_init__(self):
    super().__post_init__()
    if not 0 <= self.eta <= 1:
      raise ValueError(f"eta must lie in [0, 1], got {self.eta}.")

  @property
  def stochastic(self) -> bool:
    """Whether a step needs noise."""
    return self.eta > 0

  def update(
    self,
    process: Process,
    p: gaussian.Transition,
    x: Tree,
    t: jax.Array,
    noise: Tree | None,
  ) -> Tree:
    """Steps along the predicted eps, with `eta` of the posterior's noise."""
    return gaussian.ddim_step(process, p.pred_xstart, x, t, noise, self.eta)
