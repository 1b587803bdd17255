"""What a configuration says of the clips to prepare for it."""

import dataclasses

from ml_collections import ConfigDict

from mmdiff_jax.av import AVSpec

# Networks of four levels, as configs/default.py has, want multiples of this.
_SAMPLES = 64


def check(config: ConfigDict, spec: AVSpec) -> None:
  """Raises ValueError if the configuration's network cannot take such clips."""
  # Late: preparation without a configuration needs no JAX.
  from mmdiff_jax.models import create_network

  config = config.copy_and_resolve_references()
  config.data.update(dataclasses.asdict(spec))
  network = create_network(config.model)
  network.check_shapes(network.declare(config)[0])


def note(spec: AVSpec) -> str | None:
  """What to know of a geometry that no configuration was named for."""
  # Single frames are for super-resolution, which hears nothing.
  if spec.frames == 1 or spec.audio_length % _SAMPLES == 0:
    return None
  rates = " and ".join(map(str, spec.nearest_rates(_SAMPLES)))
  return (
    f"note: clips have {spec.audio_length} audio samples; networks of four "
    f"levels (configs/default.py) take multiples of {_SAMPLES} alone. The "
    f"nearest --sample_rate: {rates or 'none'}; --for=CONFIG checks another."
  )
