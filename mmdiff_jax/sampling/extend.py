"""Clips longer than the model's, piece by piece, in constant memory."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from mmdiff_jax.av import AVSpec

Clip = dict[str, np.ndarray]
SamplePiece = Callable[[int, int, Clip | None], Mapping[str, np.ndarray]]


def extend(
  sample_piece: SamplePiece,
  spec: AVSpec,
  total_frames: int,
  overlap_frames: int,
  blend_frames: int = 1,
) -> Iterator[Clip]:
  """Generates a long clip as overlapping pieces, each continuing the last.

  The next piece continues from all but the last `blend_frames` frames of the
  overlap (and their sound). Those last ones exist in both pieces and are
  cross-faded, so that nothing jumps at the seam, however badly the next piece
  follows what is known.

  Args:
    sample_piece: `(index, start_frame, known) -> {"video": [B, F, H, W, 3],
      "audio": [B, L, 1]}`, one piece. `known` is None for the first and
      then the piece's known beginning, `{"video": [B, K, H, W, 3], "audio":
      [B, k, 1]}`; see `samplers.continuation`.
    spec: geometry of one piece.
    total_frames: length of the whole clip in frames.
    overlap_frames: frames that neighbouring pieces share.
    blend_frames: how many of them are cross-faded.

  Yields:
    Consecutive pieces of the clip, `{"video": [B, n, ...], "audio": [B, m,
    1]}` float32, which together have `total_frames` frames and their sound.

  Raises:
    ValueError: if the lengths do not fit together.
  """
  if not 1 <= blend_frames < overlap_frames < spec.frames:
    raise ValueError(
      f"pieces of {spec.frames} frames with overlap_frames={overlap_frames} "
      f"and blend_frames={blend_frames}; 1 <= blend < overlap < piece must "
      "hold."
    )
  if total_frames < 1:
    raise ValueError(f"total_frames must be at least 1, got {total_frames}.")
  return _pieces(sample_piece, spec, total_frames, overlap_frames, blend_frames)


def _pieces(
  sample_piece: SamplePiece,
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
    piece = sample_piece(index, start, known)
    piece = {m: np.asarray(x, np.float32) for m, x in piece.items()}
    if tail is not None:
      piece = {m: _join(tail[m], piece[m], known[m].shape[1]) for m in piece}
    if start + spec.frames >= total:
      yield _cut(piece, spec, start, 0, total - start)
      return
    stride = spec.frames - overlap
    yield _cut(piece, spec, start, 0, stride)
    tail = _cut(piece, spec, start, stride, spec.frames)
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
    # Rounding may ask for one sample more than a piece has.
    audio = np.pad(audio, ((0, 0), (0, missing), (0, 0)), mode="edge")
  return {"video": clip["video"][:, first:stop], "audio": audio}


def _join(tail: np.ndarray, piece: np.ndarray, known: int) -> np.ndarray:
  """Replaces the known part by the tail and cross-fades the tail's rest."""
  count = tail.shape[1] - known
  phase = (np.arange(count, dtype=np.float32) + 0.5) / count
  fade = (0.5 - 0.5 * np.cos(np.pi * phase)).astype(np.float32)
  fade = fade.reshape(1, count, *(1,) * (tail.ndim - 2))
  middle = slice(known, tail.shape[1])
  blended = (1 - fade) * tail[:, middle] + fade * piece[:, middle]
  rest = piece[:, tail.shape[1] :]
  return np.concatenate([tail[:, :known], blended, rest], axis=1)
