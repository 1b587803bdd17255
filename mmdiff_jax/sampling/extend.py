"""Clips longer than the model's, window by window, in constant memory."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from mmdiff_jax.av import AVSpec

Clip = dict[str, np.ndarray]
SampleWindow = Callable[[int, int, Clip | None], Mapping[str, np.ndarray]]


def extend(
  sample_window: SampleWindow,
  spec: AVSpec,
  total_frames: int,
  overlap_frames: int,
  blend_frames: int = 1,
) -> Iterator[Clip]:
  """Generates a long clip as overlapping windows, each continuing the last.

  Of the overlap, the next window is given all but the last `blend_frames`
  frames (and their sound). Those last ones exist in both windows and are
  cross-faded, so that nothing jumps at the seam, however badly the next
  window follows what it was given.

  Args:
    sample_window: `(index, start_frame, known) -> {"video": [B, F, H, W, 3],
      "audio": [B, L, 1]}`, one window. `known` is None for the first and
      then the window's given beginning, `{"video": [B, K, H, W, 3], "audio":
      [B, k, 1]}`; see `conditions.continuation`.
    spec: geometry of one window.
    total_frames: length of the whole clip in frames.
    overlap_frames: frames that neighbouring windows share.
    blend_frames: how many of them are cross-faded.

  Yields:
    Consecutive pieces of the clip, `{"video": [B, n, ...], "audio": [B, m,
    1]}` float32, which together have `total_frames` frames and their sound.

  Raises:
    ValueError: if the lengths do not fit together.
  """
  if not 1 <= blend_frames < overlap_frames < spec.frames:
    raise ValueError(
      f"windows of {spec.frames} frames with overlap_frames={overlap_frames} "
      f"and blend_frames={blend_frames}; 1 <= blend < overlap < window must "
      "hold."
    )
  if total_frames < 1:
    raise ValueError(f"total_frames must be at least 1, got {total_frames}.")
  return _windows(
    sample_window, spec, total_frames, overlap_frames, blend_frames
  )


def _windows(
  sample_window: SampleWindow,
  spec: AVSpec,
  total: int,
  overlap: int,
  blend: int,
) -> Iterator[Clip]:
  tail, start, index = None, 0, 0
  while True:
    known = None
    if tail is not None:
      known = _cut(tail, spec, start, 0, overlap - blend)
    window = sample_window(index, start, known)
    window = {m: np.asarray(x, np.float32) for m, x in window.items()}
    if tail is not None:
      window = {m: _join(tail[m], window[m], known[m].shape[1]) for m in window}
    if start + spec.frames >= total:
      yield _cut(window, spec, start, 0, total - start)
      return
    stride = spec.frames - overlap
    yield _cut(window, spec, start, 0, stride)
    tail = _cut(window, spec, start, stride, spec.frames)
    start, index = start + stride, index + 1


def _cut(clip: Clip, spec: AVSpec, start: int, first: int, stop: int) -> Clip:
  """Frames first:stop of a clip that begins at frame `start`, with sound.

  Samples are counted from the beginning of the whole clip, so that a frame
  that does not last a whole number of them causes no drift.
  """
  origin = spec.frames_to_samples(start)
  begin, end = (
    spec.frames_to_samples(start + f) - origin for f in (first, stop)
  )
  audio = clip["audio"][:, begin:end]
  missing = end - begin - audio.shape[1]
  if missing > 0 and stop == spec.frames:
    # Rounding may ask for one sample more than a window has.
    audio = np.pad(audio, ((0, 0), (0, missing), (0, 0)), mode="edge")
  return {"video": clip["video"][:, first:stop], "audio": audio}


def _join(tail: np.ndarray, window: np.ndarray, known: int) -> np.ndarray:
  """Replaces the known part by the tail and cross-fades the tail's rest."""
  count = tail.shape[1] - known
  phase = (np.arange(count, dtype=np.float32) + 0.5) / count
  fade = (0.5 - 0.5 * np.cos(np.pi * phase)).astype(np.float32)
  fade = fade.reshape(1, count, *(1,) * (tail.ndim - 2))
  middle = slice(known, tail.shape[1])
  blended = (1 - fade) * tail[:, middle] + fade * window[:, middle]
  rest = window[:, tail.shape[1] :]
  return np.concatenate([tail[:, :known], blended, rest], axis=1)
