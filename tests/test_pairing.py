import numpy as np
import pytest

from mmdiff_jax.av import AVSpec
from mmdiff_jax.evaluation import descriptors, pairing
from mmdiff_jax.metric_networks import mel
from mmdiff_jax.world.clips import make_clip, split_seed

SPEC = AVSpec(height=32, width=32)


@pytest.fixture(scope="module")
def world():
  """Clips of sounding shapes: streams that belong together."""
  clips = [make_clip(split_seed("tune", i), SPEC) for i in range(48)]
  video = np.stack([clip.video for clip in clips])
  wave = np.stack([clip.audio[:, 0] for clip in clips])
  return video, wave


@pytest.fixture(scope="module")
def series(world):
  return descriptors.motion_and_sound(*world)


def test_onsets_of_clicks_are_found_where_they_are():
  wave = np.zeros((2, 16000))
  noise = np.random.default_rng(0).uniform(-0.5, 0.5, 800)
  for start in (4000, 12000):
    wave[0, start : start + 800] = noise
  found = [np.flatnonzero(row) for row in pairing.onset_frames(wave)]
  times = found[0] * mel.HOP / mel.SAMPLE_RATE
  assert times == pytest.approx([0.25, 0.75], abs=0.03)
  assert len(found[1]) == 0


@pytest.mark.parametrize("shift", [(0, 1), (1, 0), (1, 1), (0, 0)])
def test_flow_is_the_length_of_a_shift(shift):
  y, x = np.mgrid[:48, :48]
  texture = 128 + 50 * np.sin(x / 3) + 50 * np.cos(y / 4)
  frames = [
    np.roll(texture, (i * shift[0], i * shift[1]), (0, 1)) for i in (0, 1)
  ]
  video = np.repeat(np.stack(frames)[..., None], 3, -1).astype(np.uint8)
  wanted = np.hypot(*shift)
  assert pairing.flow_magnitude(video)[0] == pytest.approx(wanted, abs=0.15)


def test_flow_peak_is_the_step_that_moves_most():
  y, x = np.mgrid[:32, :32]
  position = np.cumsum([0, 0.2, 0.5, 0.9, 2, 0.9, 0.5, 0.2])
  frames = [128 + 60 * np.sin((x - p) / 3) for p in position]
  video = np.repeat(np.stack(frames)[None, ..., None], 3, -1).astype(np.uint8)
  assert np.flatnonzero(pairing.flow_peaks(video)[0]).tolist() == [3]


def test_align_score_counts_by_hand():
  onsets = np.zeros((3, 100), bool)
  peaks = np.zeros((3, 9), bool)
  onsets[0, [20, 60]] = True  # 0.2 s and 0.6 s
  peaks[0, [1, 8]] = True  # 0.2 s and 0.9 s
  onsets[1, 50] = True
  # One onset of two has a peak within 0.1 s: 1 / (2 + 2 - 1).
  scores = pairing.align_score(onsets, peaks, fps=10.0)
  np.testing.assert_allclose(scores, [1 / 3, 0, 0])


@pytest.mark.parametrize(
  ("offset", "common"), [(-1.1, 0), (-0.9, 1), (0.9, 1), (1.1, 0), (1.9, 0)]
)
def test_an_onset_has_a_peak_within_one_frame_on_either_side(offset, common):
  onsets, peaks = np.zeros((1, 100), bool), np.zeros((1, 9), bool)
  peaks[0, 4] = True  # 0.5 s, in frames of 0.1 s.
  onsets[0, round(50 + 10 * offset)] = True
  # One peak in common is all there is; without, there are two.
  assert pairing.align_score(onsets, peaks, fps=10.0).tolist() == [common]


def test_shuffles_leave_nobody_with_its_partner():
  rows = pairing.shuffles(7, seed=0)
  assert (rows != np.arange(7)).all()
  assert (np.sort(rows, axis=1) == np.arange(7)).all()


def test_cross_correlation_finds_the_lag():
  rng = np.random.default_rng(0)
  signal = rng.standard_normal((1, 101))
  late = np.stack([signal[:, 1:], 0 * signal[:, 1:]], axis=-1)
  early = np.stack([signal[:, :-1], 0 * signal[:, 1:]], axis=-1)
  # Sound step t equals motion step t-1: the sound lags by one.
  stacked = np.concatenate([late, early], axis=-1)
  got = pairing.cross_correlations(stacked, np.zeros(1, int))
  got = got.reshape(2, 2, 3)
  assert got[0, 0, 2] > 0.95
  assert np.abs(np.delete(got.ravel(), 2)).max() < 0.3


def test_synchrony_gap_tells_real_pairs_from_shuffled_ones(series):
  half, other = series[:24], series[24:]
  real = pairing.synchrony_gap(other, half, seed=0)
  shuffled = other.copy()
  shuffled[..., 2:] = np.roll(other[..., 2:], 1, axis=0)
  broken = pairing.synchrony_gap(shuffled, half, seed=0)

  def error(x):
    return x.std() / np.sqrt(len(x))

  assert real.mean() > 4 * error(real)
  assert abs(broken.mean()) < 3 * error(broken)


def test_synchrony_gap_of_the_real_set_does_not_flatter_itself(series):
  """Streams without relation score 0 although they teach the detector."""
  rng = np.random.default_rng(1)
  noise = rng.standard_normal((200, 15, 4))
  gap = pairing.synchrony_gap(noise, None, seed=0)
  assert abs(gap.mean()) < 3 * gap.std() / np.sqrt(len(gap))
  own = pairing.synchrony_gap(series, None, seed=0)
  assert own.mean() > 4 * own.std() / np.sqrt(len(own))


def test_align_gap_is_positive_for_real_pairs_and_zero_for_shuffled(world):
  video, wave = world
  peaks, onsets = pairing.flow_peaks(video), pairing.onset_frames(wave)
  score, chance = pairing.align_gap(onsets, peaks, SPEC.fps, seed=0)
  real = (score - chance).mean()
  score, chance = pairing.align_gap(
    np.roll(onsets, 1, axis=0), peaks, SPEC.fps, seed=0
  )
  assert real > 0.05 > abs((score - chance).mean())


def test_distance_correlation_is_unbiased_and_notices_any_dependence():
  rng = np.random.default_rng(0)
  independent = [
    pairing.distance_correlation(
      rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    )
    for _ in range(200)
  ]
  error = np.std(independent) / np.sqrt(len(independent))
  assert abs(np.mean(independent)) < 4 * error
  x = rng.standard_normal((200, 1))
  assert pairing.distance_correlation(x, x**2) > 0.1
  assert pairing.distance_correlation(x, 3 * x + 1) == pytest.approx(1)


def test_resampling_keeps_a_tone_and_the_time_span():
  wave = np.sin(2 * np.pi * 440 * np.arange(25600) / 16000)[None]
  out = descriptors.resample(wave, 16000, 44100)
  assert out.shape == (1, 70560)
  wanted = np.sin(2 * np.pi * 440 * np.arange(70560) / 44100)
  assert np.abs(out[0] - wanted)[1000:-1000].max() < 1e-2


def test_thumbnails_are_block_means():
  video = np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3), np.uint8)
  small = descriptors.thumbnails(video, 16)
  wanted = video.reshape(2, 16, 4, 16, 3, 3).mean(axis=(2, 4)) / 255
  np.testing.assert_allclose(small, wanted, atol=1e-6)
  assert descriptors.thumbnails(video[:, :8, :8], 16).shape == (2, 16, 16, 3)


def test_mel_picture_does_not_depend_on_the_volume():
  wave = np.random.default_rng(0).standard_normal((1, 16000)) * 0.1
  loud, quiet = (descriptors.mel_picture(wave * g) for g in (1, 0.2))
  np.testing.assert_allclose(loud, quiet, atol=1e-9)
