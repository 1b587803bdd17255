"""Clips with a fault that an attentive rater notices."""

import numpy as np

from mmdiff_jax.study.settings import FAULTS


def spoil(
  kind: str, video: np.ndarray, audio: np.ndarray, other: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """A clip with one fault.

  Args:
    kind: "foreign" (sound of another clip), "frozen" (the picture stands
      still) or "muted".
    video: `[F, H, W, 3]`.
    audio: `[L]`.
    other: `[L]`, the other clip's sound.
  """
  if kind == "foreign":
    return video, other
  if kind == "frozen":
    return np.repeat(video[:1], len(video), 0), audio
  if kind == "muted":
    return video, np.zeros_like(audio)
  raise ValueError(f"A trap is one of {tuple(FAULTS)}, got {kind!r}.")
