"""Long clips: seams, lengths, memory."""

import itertools

import numpy as np
import pytest

from mmdiff_jax.av import AVSpec
from mmdiff_jax.sampling.extend import extend

SPEC = AVSpec(frames=8, height=2, width=2, fps=10, sample_rate=4410)
LARGEST_STEP = 0.5 * 2 * np.pi * 30 / SPEC.sample_rate  # of the tone below


def tone_piece(honest=True):
  """Windows that hold a tone whose phase each of them picks anew.

  They return what was given exactly, as every sampler does, and then jump.
  """
  given = []

  def sample_piece(index, start, known):
    given.append(known)
    time = np.arange(SPEC.audio_length) / SPEC.sample_rate
    audio = 0.5 * np.sin(2 * np.pi * 30 * time + 2.1 * index)[None, :, None]
    video = np.full((1, *SPEC.video_shape), index, np.float32)
    if known is not None and honest:
      audio[:, : known["audio"].shape[1]] = known["audio"]
      video[:, : known["video"].shape[1]] = known["video"]
    return {"video": video, "audio": audio}

  return sample_piece, given


def joined(chunks):
  chunks = list(chunks)
  return {
    m: np.concatenate([chunk[m] for chunk in chunks], axis=1)
    for m in ("video", "audio")
  }


def test_no_click_at_the_seams():
  sample_piece, given = tone_piece()
  clip = joined(extend(sample_piece, SPEC, 40, overlap_frames=4))
  pieces = len(given)
  assert pieces == 9
  jump = np.abs(np.diff(clip["audio"][0, :, 0]))
  # A hard cut between two phases steps by up to 1; within a piece the tone
  # moves by LARGEST_STEP, and a fade adds next to nothing.
  assert jump.max() < 1.2 * LARGEST_STEP
  # The same pieces put end to end do click.
  time = np.arange(SPEC.audio_length) / SPEC.sample_rate
  cut = np.concatenate(
    [np.sin(2 * np.pi * 30 * time + 2.1 * i) * 0.5 for i in range(pieces)]
  )
  assert np.abs(np.diff(cut)).max() > 5 * LARGEST_STEP


@pytest.mark.parametrize("total", [1, 5, 8, 9, 12, 13, 40])
@pytest.mark.parametrize("sample_rate", [4410, 4407])
def test_lengths_add_up(total, sample_rate):
  # 4407 Hz at 10 fps: a frame does not last a whole number of samples.
  spec = AVSpec(8, 2, 2, 10, sample_rate)
  ramp = np.arange(spec.audio_length, dtype=np.float32)

  def sample_piece(index, start, known):
    assert start == index * 5
    # Every sample carries its place in the whole clip.
    audio = (ramp + spec.frames_to_samples(start))[None, :, None]
    frames = np.arange(8, dtype=np.float32) + start
    video = np.broadcast_to(
      frames[None, :, None, None, None], (1, *spec.video_shape)
    )
    if known is not None:
      count = known["audio"].shape[1]
      np.testing.assert_array_equal(known["audio"], audio[:, :count])
      np.testing.assert_array_equal(known["video"], video[:, :2])
      assert count == spec.frames_to_samples(start + 2) - int(audio[0, 0, 0])
    return {"video": video, "audio": audio}

  clip = joined(extend(sample_piece, spec, total, overlap_frames=3))
  np.testing.assert_array_equal(clip["video"][0, :, 0, 0, 0], np.arange(total))
  length = spec.frames_to_samples(total)
  assert clip["audio"].shape == (1, length, 1)
  # Float rounding of the fade; at most the very last sample is a repeat.
  np.testing.assert_allclose(
    clip["audio"][0, :, 0], np.arange(length), atol=1.0 if total >= 8 else 0
  )


def test_the_known_part_comes_from_the_clip_as_it_was_put_out():
  sample_piece, given = tone_piece(honest=False)
  clip = joined(extend(sample_piece, SPEC, 24, 4, blend_frames=2))
  for index, known in enumerate(given[1:], start=1):
    start = index * 4
    np.testing.assert_array_equal(
      known["video"], clip["video"][:, start : start + 2]
    )
    first = SPEC.frames_to_samples(start)
    np.testing.assert_array_equal(
      known["audio"],
      clip["audio"][:, first : first + known["audio"].shape[1]],
    )


def test_pieces_come_as_they_are_made():
  sample_piece, given = tone_piece()
  endless = extend(sample_piece, SPEC, 10**9, overlap_frames=4)
  pieces = list(itertools.islice(endless, 3))
  assert len(given) == 3
  assert all(piece["video"].shape[1] == 4 for piece in pieces)


@pytest.mark.parametrize(
  ("overlap", "blend", "total"), [(8, 1, 9), (1, 1, 9), (4, 0, 9), (4, 1, 0)]
)
def test_lengths_that_do_not_fit_are_an_error(overlap, blend, total):
  with pytest.raises(ValueError, match="must"):
    extend(tone_piece()[0], SPEC, total, overlap, blend)
