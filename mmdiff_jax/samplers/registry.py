"""The samplers by name, and their options.

A sampler is a frozen dataclass, and its fields are its options: their names,
types and defaults are read from there and stand nowhere else.
"""

import dataclasses
import typing
from typing import Any, NamedTuple

from mmdiff_jax.samplers.adaptive import AdaptiveDPMSolver
from mmdiff_jax.samplers.ancestral import DDIM, DDPM
from mmdiff_jax.samplers.base import Sampler
from mmdiff_jax.samplers.condition import NOT_OPTIONS, Condition
from mmdiff_jax.samplers.linear import DPMSolver, DPMSolverSDE
from mmdiff_jax.samplers.option_types import check_types

_SamplerClass = (
  type[DDPM] | type[DDIM] | type[DPMSolver] | type[AdaptiveDPMSolver]
)

# The classes of a sampler; where there are several, `method` picks one.
_CLASSES: dict[str, tuple[_SamplerClass, ...]] = {
  "ddpm": (DDPM,),
  "ddim": (DDIM,),
  "dpm_solver": (DPMSolver, AdaptiveDPMSolver),
  "dpm_solver++": (DPMSolver, AdaptiveDPMSolver, DPMSolverSDE),
}
SAMPLERS = tuple(_CLASSES)

# Fields that say which family it is, how the network is read and what is
# returned: for the caller to set, not for who configures a run.
_INTERNAL = ("plus_plus", "learn_sigma", "prediction", "keep_trajectory")

# Values that say no more than what a solver without the option does.
_NEUTRAL = {
  "eta": 0.0,
  "clip_denoised": False,
  "dynamic_thresholding": False,
  "denoise_final": False,
  "keep_trajectory": False,
  "singlestep_start": False,
}


class Option(NamedTuple):
  """What may be given for an option; see the class whose field it is.

  Attributes:
    type: its type, `int | str` where there are two.
    default: its default; None where that depends on other options.
  """

  type: Any
  default: Any


def make_sampler(name: str, **options: Any) -> Sampler:
  """Returns the sampler called `name`.

  Args:
    name: one of `SAMPLERS`.
    **options: fields of the sampler's class, `DDPM`, `DDIM`, `DPMSolver`,
      `DPMSolverSDE` or `AdaptiveDPMSolver` (`sampler_options` lists them),
      but for `plus_plus`, which the name says. None stands for the default.

  Returns:
    A callable `(denoise_fn, schedule, x_init, rng, condition=None) -> (x,
    nfe)`; see `base.Sampler`.

  Raises:
    ValueError: for an unknown name, or an option that the chosen sampler
      cannot honour.
  """
  options = {k: v for k, v in options.items() if v is not None}
  kind = _find_class(name, options.get("method"))
  allowed = {field.name for field in dataclasses.fields(kind)} - {"plus_plus"}
  for option in set(options) - allowed:
    if option not in _NEUTRAL or options.pop(option) != _NEUTRAL[option]:
      what = repr(name)
      if "method" in options:
        what += f" with method {options['method']!r}"
      raise ValueError(
        f"option {option!r} does not apply to {what}: unset it (None); allowed "
        f"are {', '.join(sorted(allowed.difference(_INTERNAL)))}."
      )
  check_types(options, typing.get_type_hints(kind))
  if name.startswith("dpm_solver"):
    options["plus_plus"] = name == "dpm_solver++"
  return kind(**options)


def sampler_methods(name: str) -> tuple[str, ...]:
  """The values of `method` that a sampler has; none for ddpm and ddim."""
  return tuple(m for kind in _classes(name) for m in _methods(kind))


def sampler_options(name: str, method: str | None = None) -> dict[str, Option]:
  """What can be set for a sampler.

  Args:
    name: one of `SAMPLERS`.
    method: one of `sampler_methods(name)`, or None for the default.

  Returns:
    Option name -> its type and default.

  Raises:
    ValueError: for an unknown name or a method that it does not have.
  """
  return _options_of(_find_class(name, method), _INTERNAL)


def condition_options() -> dict[str, Option]:
  """What can be set for a `Condition`: option name -> type and default."""
  return _options_of(Condition, NOT_OPTIONS)


def _classes(name: str) -> tuple[_SamplerClass, ...]:
  if name not in _CLASSES:
    raise ValueError(
      f"unknown sampler {name!r}; allowed are {', '.join(SAMPLERS)}."
    )
  return _CLASSES[name]


def _methods(kind: _SamplerClass) -> tuple[str, ...]:
  return getattr(kind, "methods", ())


def _find_class(name: str, method: str | None) -> _SamplerClass:
  kinds, methods = _classes(name), sampler_methods(name)
  # To a sampler without methods, `method` is an option that does not apply.
  if method is None or not methods:
    return kinds[0]
  for kind in kinds:
    if method in _methods(kind):
      return kind
  raise ValueError(
    f"method={method!r} with {name!r}; allowed are {', '.join(methods)}."
  )


def _options_of(kind: Any, without: tuple[str, ...]) -> dict[str, Option]:
  types = typing.get_type_hints(kind)
  return {
    field.name: Option(_without_none(types[field.name]), field.default)
    for field in dataclasses.fields(kind)
    if field.name not in without
  }


def _without_none(kind: Any) -> Any:
  kinds = [k for k in typing.get_args(kind) if k is not type(None)]
  return typing.Union[tuple(kinds)] if kinds else kind  # noqa: UP007


# Every option that some sampler has, and every option of a condition.
OPTIONS = tuple(
  {
    option: None
    for name in SAMPLERS
    for method in sampler_methods(name) or (None,)
    for option in sampler_options(name, method)
  }
)
CONDITION_OPTIONS = tuple(condition_options())
