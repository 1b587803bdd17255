"""What a look at the model shows."""

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Shown:
  """What a look at the model shows, by name.

  Attributes:
    scalars: what was measured.
    pictures: uint8 `[H, W, 3]`.
    sounds: `[L, 1]` in [-1, 1].
    sample_rate: of the sounds, Hz.
  """

  scalars: Mapping[str, float] = dataclasses.field(default_factory=dict)
  pictures: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  sounds: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  sample_rate: int = 0
