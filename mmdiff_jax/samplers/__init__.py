"""Solvers of the reverse process, and zero-shot conditioning of any of them."""

import dataclasses
from typing import Any

from mmdiff_jax.samplers.adaptive import AdaptiveDPMSolver
from mmdiff_jax.samplers.ancestral import DDIM, DDPM
from mmdiff_jax.samplers.base import Sampler
from mmdiff_jax.samplers.condition import Condition
from mmdiff_jax.samplers.dpm_solver import DPMSolver, DPMSolverSDE
from mmdiff_jax.samplers.known import (
  audio_restoration,
  condition_on_audio,
  condition_on_video,
  continuation,
  in_betweening,
  inpainting,
)
from mmdiff_jax.samplers.noise import initial_noise, make_rng

SAMPLERS = ("ddpm", "ddim", "dpm_solver", "dpm_solver++")

_DPM_METHODS = {
  "singlestep": DPMSolver,
  "multistep": DPMSolver,
  "singlestep_fixed": DPMSolver,
  "adaptive": AdaptiveDPMSolver,
  "sde": DPMSolverSDE,
}

# Values that say no more than what a solver without the option does.
_NEUTRAL = {
  "eta": 0.0,
  "clip_denoised": False,
  "dynamic_thresholding": False,
  "denoise_final": False,
  "keep_trajectory": False,
  "singlestep_start": False,
}


def make_sampler(name: str, **options: Any) -> Sampler | AdaptiveDPMSolver:
  """Returns the sampler called `name`.

  Args:
    name: "ddpm", "ddim", "dpm_solver" or "dpm_solver++".
    **options: None stands for the default.
      All: learn_sigma=False, prediction="eps" | "x_start".
      All but adaptive: steps, keep_trajectory=False.
      ddpm, ddim: steps (a number, a respacing text, or None for the schedule
      as it is), clip_denoised=True; ddim: eta=0.
      dpm_solver, dpm_solver++: method="singlestep" | "multistep" |
      "singlestep_fixed" | "adaptive" | "sde" (++ only), order=3 (sde: 2),
      clip_denoised=False, dynamic_thresholding=False (++ only),
      denoise_final=False; all but adaptive: steps=20, grid="logSNR" |
      "time_uniform" | "time_quadratic"; multistep: singlestep_start=False;
      adaptive: atol, rtol, first_step, safety, time_tolerance.

  Returns:
    A callable `(denoise_fn, schedule, x_init, rng, condition=None) -> (x,
    nfe)`; see `base.sample`.

  Raises:
    ValueError: for an unknown name, or an option that the chosen sampler
      cannot honour.
  """
  options = {k: v for k, v in options.items() if v is not None}
  if name in ("dpm_solver", "dpm_solver++"):
    plus_plus = name == "dpm_solver++"
    method = options.get("method", "singlestep")
    if method not in _DPM_METHODS or (method == "sde" and not plus_plus):
      allowed = [m for m in _DPM_METHODS if plus_plus or m != "sde"]
      raise ValueError(
        f"method={method!r} with {name!r}; allowed are {', '.join(allowed)}."
      )
    kind, fixed = _DPM_METHODS[method], {"plus_plus": plus_plus}
    if kind is AdaptiveDPMSolver:
      options.pop("method", None)
    what = f"{name!r} with method {method!r}"
  elif name in ("ddpm", "ddim"):
    kind, fixed, what = {"ddpm": DDPM, "ddim": DDIM}[name], {}, repr(name)
  else:
    raise ValueError(
      f"unknown sampler {name!r}; allowed are {', '.join(SAMPLERS)}."
    )
  allowed = {field.name for field in dataclasses.fields(kind)} - set(fixed)
  for option in set(options) - allowed:
    if option not in _NEUTRAL or options.pop(option) != _NEUTRAL[option]:
      raise ValueError(
        f"option {option!r} does not apply to {what}; allowed are "
        f"{', '.join(sorted(allowed))}."
      )
  return kind(**fixed, **options)


__all__ = [
  "SAMPLERS",
  "Condition",
  "audio_restoration",
  "condition_on_audio",
  "condition_on_video",
  "continuation",
  "in_betweening",
  "initial_noise",
  "inpainting",
  "make_rng",
  "make_sampler",
]
