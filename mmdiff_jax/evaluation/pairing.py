"""Do the two streams of clips belong together? Three weight-free answers.

Each compares the clips' own pairing with pairings that were shuffled, so that
a figure of 0 means "no better than chance". None of them knows what is seen or
heard; `limits` in the documentation say what that costs.
"""

import numpy as np

from mmdiff_jax.evaluation.frechet import squared_distances
from mmdiff_jax.metric_networks import mel

# AV-Align's tolerance is one video frame. Onsets: a local maximum of the mel
# flux over +-30 ms that exceeds the mean over +-100 ms by this (in nats), and
# the least distance of two onsets in 10 ms frames.
_ONSET_RISE, _ONSET_NEAR, _ONSET_WIDE, _ONSET_GAP = 0.15, 3, 10, 3
# Side of the windows of the flow estimate in pixels, and its damping
# (squared grey levels in [0, 1]) where there is no texture.
_FLOW_WINDOW, _FLOW_DAMPING = 5, 1e-3
_LAGS = (-1, 0, 1)
_SHUFFLES = 20


def onset_frames(wave: np.ndarray) -> np.ndarray:
  """Audio onsets on the grid of 10 ms mel frames, `[B, L]` -> bool `[B, n]`.

  The onset strength is the mean over mel bands of the rise of log magnitude.
  """
  spectrogram = mel.log_mel(wave)
  rise = np.maximum(np.diff(spectrogram, axis=1, prepend=spectrogram[:, :1]), 0)
  strength = rise.mean(axis=-1)

  def around(radius: int) -> np.ndarray:
    padded = np.pad(strength, ((0, 0), (radius, radius)), mode="edge")
    return np.lib.stride_tricks.sliding_window_view(
      padded, 2 * radius + 1, axis=1
    )

  peaks = strength == around(_ONSET_NEAR).max(axis=-1)
  peaks &= strength > around(_ONSET_WIDE).mean(axis=-1) + _ONSET_RISE
  for i in range(1, _ONSET_GAP + 1):
    peaks[:, i:] &= ~peaks[:, :-i]
  return peaks


def flow_magnitude(video: np.ndarray) -> np.ndarray:
  """Mean length of the optical flow of each step, in pixels.

  Lucas-Kanade on grey frames in windows of 5x5 pixels, damped where there is
  no texture. Motion beyond a few pixels per step is underestimated.

  Args:
    video: uint8 `[F, H, W, 3]`.

  Returns:
    `[F-1]`.
  """
  grey = video.astype(np.float32).mean(axis=-1) / 255
  middle = (grey[1:] + grey[:-1]) / 2
  dy, dx = np.gradient(middle, axis=(1, 2))
  dt = grey[1:] - grey[:-1]
  xx, yy, xy, xt, yt = (
    _box_sum(a * b)
    for a, b in ((dx, dx), (dy, dy), (dx, dy), (dx, dt), (dy, dt))
  )
  xx, yy = xx + _FLOW_DAMPING, yy + _FLOW_DAMPING
  determinant = xx * yy - xy**2
  u = (xy * yt - yy * xt) / determinant
  v = (xy * xt - xx * yt) / determinant
  return np.sqrt(u**2 + v**2).mean(axis=(1, 2))


def _box_sum(images: np.ndarray) -> np.ndarray:
  """Sum over each pixel's window, `[F, H, W]`, edges repeated."""
  radius = _FLOW_WINDOW // 2
  for axis in (1, 2):
    pad = [(0, 0)] * 3
    pad[axis] = (radius, radius)
    padded = np.pad(images, pad, mode="edge")
    views = np.lib.stride_tricks.sliding_window_view(
      padded, _FLOW_WINDOW, axis=axis
    )
    images = views.sum(axis=-1)
  return images


def flow_peaks(video: np.ndarray) -> np.ndarray:
  """Steps whose mean flow is a local maximum, `[B, F, ...]` -> `[B, F-1]`."""
  magnitude = np.stack([flow_magnitude(clip) for clip in video])
  peaks = np.zeros(magnitude.shape, bool)
  inner = magnitude[:, 1:-1]
  peaks[:, 1:-1] = (inner > magnitude[:, :-2]) & (inner > magnitude[:, 2:])
  return peaks


def align_score(
  onsets: np.ndarray, peaks: np.ndarray, fps: float
) -> np.ndarray:
  """AV-Align (Yariv et al., arXiv 2309.16429): peaks in common over all peaks.

  An audio onset counts as common if a video peak lies within one frame.

  Args:
    onsets: bool `[N, n]` on a 10 ms grid.
    peaks: bool `[N, F-1]`; step i is centred on instant (i+1) / fps.
    fps: frames per second.

  Returns:
    `[N]` in [0, 1]; 0 for a clip without any peak.
  """
  times = np.arange(onsets.shape[1]) * mel.HOP / mel.SAMPLE_RATE
  instants = (np.arange(peaks.shape[1]) + 1) / fps
  near = np.abs(times[:, None] - instants) < 1 / fps
  common = (onsets & (peaks @ near.T.astype(np.int32) > 0)).sum(axis=1)
  union = onsets.sum(axis=1) + peaks.sum(axis=1) - common
  return np.where(union > 0, common / np.maximum(union, 1), 0.0)


def shuffles(count: int, seed: int, repeats: int = _SHUFFLES) -> np.ndarray:
  """Random pairings `[repeats, count]` in which nobody keeps its partner."""
  rng = np.random.default_rng(seed)
  out = np.empty((repeats, count), int)
  for row in out:
    ring = rng.permutation(count)
    row[ring] = np.roll(ring, 1)
  return out


def align_gap(
  onsets: np.ndarray, peaks: np.ndarray, fps: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """AV-Align of each clip, `[N]`, and its mean over shuffled pairings `[N]`."""
  score = align_score(onsets, peaks, fps)
  chance = [
    align_score(onsets[partner], peaks, fps)
    for partner in shuffles(len(onsets), seed)
  ]
  return score, np.mean(chance, axis=0)


def cross_correlations(series: np.ndarray, partner: np.ndarray) -> np.ndarray:
  """Correlations of each clip's motion with a partner's sound.

  Args:
    series: `[N, T, 4]` of `descriptors.motion_and_sound`.
    partner: `[N]` whose sound each clip gets.

  Returns:
    `[N, 12]`: 2 motion x 2 sound series at lags of -1, 0 and 1 step.
  """
  video, audio = _standardised(series[..., :2]), _standardised(series[..., 2:])
  audio = audio[partner]
  steps = series.shape[1]
  parts = []
  for lag in _LAGS:
    v = video[:, max(0, -lag) : steps - max(0, lag)]
    a = audio[:, max(0, lag) : steps - max(0, -lag)]
    parts.append(np.einsum("ntv,nta->nva", v, a) / steps)
  return np.stack(parts, axis=-1).reshape(len(series), -1)


def _standardised(x: np.ndarray) -> np.ndarray:
  """Each series with mean 0 and deviation 1; a constant one becomes 0."""
  x = x - x.mean(axis=1, keepdims=True)
  deviation = x.std(axis=1, keepdims=True)
  return np.where(deviation > 1e-6, x / np.maximum(deviation, 1e-6), 0.0)


def synchrony_gap(
  series: np.ndarray, reference: np.ndarray | None, seed: int
) -> np.ndarray:
  """How much more a clip's motion and sound agree than shuffled ones do.

  Which correlations (and of which sign) go with belonging together is learnt
  from the reference as the mean of its real pairs less its shuffled pairs: a
  linear detector. Its score of the real pairing less that of the shuffled
  ones is the clip's gap.

  Args:
    series: `[N, T, 4]` of `descriptors.motion_and_sound`.
    reference: the same of the real set, or None where `series` is the real
      set: each half of it is then scored by what the other half teaches.
    seed: of the shuffles and halves.

  Returns:
    `[N]`; the mean is 0 for unrelated streams.

  Raises:
    ValueError: with fewer than 4 clips.
  """
  if min(len(series), len(reference) if reference is not None else 4) < 4:
    raise ValueError(
      f"The synchrony gap needs 4 or more clips, got {len(series)}."
    )
  if reference is not None:
    return _contrast(series, seed) @ _detector(reference, seed)
  order = np.random.default_rng(seed).permutation(len(series))
  halves = order[: len(order) // 2], order[len(order) // 2 :]
  gap = np.empty(len(series))
  for own, other in (halves, halves[::-1]):
    gap[own] = _contrast(series[own], seed) @ _detector(series[other], seed)
  return gap


def _detector(series: np.ndarray, seed: int) -> np.ndarray:
  """Mean contrast at unit length, `[12]`."""
  mean = _contrast(series, seed).mean(axis=0)
  return mean / max(float(np.linalg.norm(mean)), 1e-12)


def _contrast(series: np.ndarray, seed: int) -> np.ndarray:
  """Cross correlations of the own pairing less those of shuffled ones."""
  own = cross_correlations(series, np.arange(len(series)))
  chance = [
    cross_correlations(series, partner)
    for partner in shuffles(len(series), seed)
  ]
  return own - np.mean(chance, axis=0)


def distance_correlation(x: np.ndarray, y: np.ndarray) -> float:
  """Bias-corrected distance correlation (Szekely and Rizzo, 2013).

  0 on average for independent pairs whatever n is, 1 for equal geometry; it
  notices any dependence between what is seen and what is heard over the set.

  Args:
    x: `[N, D]`.
    y: `[N, E]`, row i belongs to row i of x.

  Returns:
    The estimate, which can be slightly negative.

  Raises:
    ValueError: with fewer than 4 rows.
  """
  if len(x) != len(y) or len(x) < 4:
    raise ValueError(
      "Distance correlation needs 4 or more pairs, got "
      f"{len(x)} and {len(y)} rows."
    )
  a, b = _u_centred(x), _u_centred(y)
  scale = np.sqrt(np.sum(a * a) * np.sum(b * b))
  return float(np.sum(a * b) / scale) if scale > 0 else 0.0


def _u_centred(x: np.ndarray) -> np.ndarray:
  """U-centred distance matrix of rows, each column scaled to deviation 1."""
  x = np.asarray(x, np.float64)
  x = x / np.maximum(x.std(axis=0), 1e-12)
  distance = np.sqrt(squared_distances(x, x))
  np.fill_diagonal(distance, 0)
  n = len(x)
  rows = distance.sum(axis=1, keepdims=True) / (n - 2)
  total = distance.sum() / ((n - 1) * (n - 2))
  centred = distance - rows - rows.T + total
  np.fill_diagonal(centred, 0)
  return centred
