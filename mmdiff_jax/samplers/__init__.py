"""Solvers of the reverse process, and zero-shot conditioning of any of them."""

from mmdiff_jax.samplers.base import Sampler
from mmdiff_jax.samplers.condition import Condition
from mmdiff_jax.samplers.guidance import classifier_free
from mmdiff_jax.samplers.known import (
  audio_restoration,
  condition_on_audio,
  condition_on_video,
  continuation,
  in_betweening,
  inpainting,
)
from mmdiff_jax.samplers.noise import initial_noise, make_rng
from mmdiff_jax.samplers.option_types import check_types
from mmdiff_jax.samplers.registry import (
  CONDITION_OPTIONS,
  OPTIONS,
  SAMPLERS,
  Option,
  condition_options,
  make_sampler,
  sampler_methods,
  sampler_options,
)

__all__ = [
  "CONDITION_OPTIONS",
  "OPTIONS",
  "SAMPLERS",
  "Condition",
  "Option",
  "Sampler",
  "audio_restoration",
  "check_types",
  "classifier_free",
  "condition_on_audio",
  "condition_on_video",
  "condition_options",
  "continuation",
  "in_betweening",
  "initial_noise",
  "inpainting",
  "make_rng",
  "make_sampler",
  "sampler_methods",
  "sampler_options",
]
