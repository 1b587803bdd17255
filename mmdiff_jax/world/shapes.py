"""How the shapes of the synthetic world look and sound."""

import numpy as np

from mmdiff_jax.av import AVSpec

# RGB in [0, 1] and pitch in Hz of each attribute class. The hues are 120
# degrees apart; the pitches stand a factor 1.6 apart, which keeps the first
# harmonics off the other pitches, and below 0.4 of 2 kHz.
COLORS = {
  "red": (1.0, 0.25, 0.2),
  "green": (0.2, 0.9, 0.3),
  "blue": (0.3, 0.5, 1.0),
}
PITCHES = {"red": 300.0, "green": 480.0, "blue": 768.0}
# Amplitudes of the harmonics 1, 2, ... of each kind of shape.
TIMBRES = {
  "disc": (1.0,),
  "square": (1.0, 0.0, 1 / 3),
  "triangle": (1.0, 1 / 2),
}
# Half width, and extent below the centre, in radii.
EXTENTS = {"disc": (1.0, 1.0), "square": (0.88, 0.88), "triangle": (1.0, 0.8)}

FLOOR = 0.9
_BACKGROUND = 0.06
_FLOOR_GREY = 0.35
# Amplitude of the loudest tone, and the share of its length in which it fades.
_PEAK, _FADE = 0.9, 0.25


def background(
  rng: np.random.Generator, spec: AVSpec, clutter: int
) -> np.ndarray:
  """`[F, H, W, 3]` float32: dark, the floor, and clutter above it."""
  still = np.full((spec.height, spec.width, 3), _BACKGROUND, np.float32)
  for _ in range(clutter):
    top, bottom = np.sort(rng.uniform(0, FLOOR, 2)) * spec.height
    first, last = np.sort(rng.uniform(0, 1, 2)) * spec.width
    still[int(top) : int(bottom), int(first) : int(last)] = rng.uniform(
      0.1, 0.25
    )
  covered = np.clip(np.arange(1, spec.height + 1) - FLOOR * spec.height, 0, 1)
  covered = covered.astype(np.float32)[:, None, None]
  still += covered * (_FLOOR_GREY - still)
  return np.repeat(still[None], spec.frames, axis=0)


def paint(
  canvas: np.ndarray, shape: dict, x: np.ndarray, y: np.ndarray
) -> None:
  """Blends a shape, centred at `(x[i], y[i])`, into each frame.

  Anti-aliased: a pixel's coverage is 1/2 minus its signed distance from the
  outline, in pixels, clipped to [0, 1].

  Args:
    canvas: `[F, H, W, 3]` in [0, 1], changed in place.
    shape: its kind, color and radius (frame heights).
    x: `[F]` centres in frame heights from the left.
    y: `[F]` centres in frame heights from the top.
  """
  _, height, width, _ = canvas.shape
  rows = np.arange(height, dtype=np.float32) + 0.5
  columns = np.arange(width, dtype=np.float32) + 0.5
  dy = rows[None, :, None] - (y * height).astype(np.float32)[:, None, None]
  dx = columns[None, None, :] - (x * height).astype(np.float32)[:, None, None]
  dx = np.abs(dx)
  radius = np.float32(shape["radius"] * height)
  if shape["kind"] == "disc":
    distance = np.sqrt(dx**2 + dy**2) - radius
  elif shape["kind"] == "square":
    distance = np.maximum(dx, np.abs(dy)) - np.float32(0.88) * radius
  else:  # triangle: apex (0, -r), base from (-r, 0.8 r) to (r, 0.8 r)
    side = (np.float32(1.8) * dx - dy - radius) / np.float32(np.hypot(1.8, 1))
    distance = np.maximum(side, dy - np.float32(0.8) * radius)
  coverage = np.clip(np.float32(0.5) - distance, 0, 1)[..., None]
  color = np.array(COLORS[shape["color"]], np.float32)
  canvas += coverage * (color - canvas)


def sound(
  audio: np.ndarray, sample_rate: int, shape: dict, time: float, gain: float
) -> None:
  """Adds a tone that starts at `time` (s), with phase 0, and fades at its end.

  Args:
    audio: `[L]`, changed in place.
    sample_rate: in Hz; harmonics above 0.45 of it are left out.
    shape: its kind, pitch (Hz) and tone_length (s).
    time: of the impact in seconds.
    gain: loudness, at most 1.
  """
  first = int(np.ceil(time * sample_rate))
  last = min(len(audio), int((time + shape["tone_length"]) * sample_rate) + 1)
  since = np.arange(first, last) / sample_rate - time
  left = np.maximum(1 - since / shape["tone_length"], 0.0)
  wave, total = 0.0, 0.0
  for number, weight in enumerate(TIMBRES[shape["kind"]], start=1):
    frequency = number * shape["pitch"]
    if weight and frequency < 0.45 * sample_rate:
      wave = wave + weight * np.sin(2 * np.pi * frequency * since)
      total += weight
  level = np.minimum(left / _FADE, 1.0)
  audio[first:last] += _PEAK * gain / total * level * wave
