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


def onsets_by_definition(wave):
  """Frame by frame: rise of the mel bands, its peaks, and their distance."""
  bands = mel.log_mel(wave)
  rise = [np.zeros(mel.BANDS)]
  rise += [np.maximum(b - a, 0) for a, b in zip(bands, bands[1:], strict=False)]
  strength = np.mean(rise, axis=1)

  def around(i, radius):
    places = np.clip(np.arange(i - radius, i + radius + 1), 0, len(rise) - 1)
    return strength[places]

  found = []
  for i, value in enumerate(strength):
    peak = value == around(i, 3).max() and value > around(i, 10).mean() + 0.15
    if peak and not set(found) & {i - 1, i - 2, i - 3}:
      found.append(i)
  return found


def test_onsets_are_those_of_the_definition():
  rng = np.random.default_rng(0)
  bursts = np.repeat(rng.random((4, 160)) < 0.15, 100, axis=1)
  waves = bursts * rng.uniform(-0.5, 0.5, bursts.shape)
  # From the first sample to the last, and one that rises for long.
  waves[2] = np.linspace(0, 1, waves.shape[1]) ** 4 * rng.normal(size=16000)
  waves[3, :200] = waves[3, -300:] = 0.5
  found = pairing.onset_frames(waves)
  assert found.dtype == bool and found.any(axis=1).all()
  for row, wave in zip(found, waves, strict=True):
    assert np.flatnonzero(row).tolist() == onsets_by_definition(wave)


def test_flow_solves_lucas_and_kanades_equations_in_every_window():
  video = np.random.default_rng(0).integers(0, 256, (3, 7, 9, 3), np.uint8)
  video[:, :, 6:] = 77  # No texture: only the damping keeps it solvable.
  grey = video.astype(float).mean(axis=-1) / 255
  lengths = np.zeros((2, 7, 9))
  for i, y, x in np.ndindex(lengths.shape):
    dy, dx = np.gradient((grey[i] + grey[i + 1]) / 2)
    dt = grey[i + 1] - grey[i]
    rows = np.clip(np.arange(y - 2, y + 3), 0, 6)
    columns = np.clip(np.arange(x - 2, x + 3), 0, 8)
    window = np.ix_(rows, columns)
    a = np.stack([dx[window].ravel(), dy[window].ravel()], 1)
    flow = np.linalg.solve(
      a.T @ a + 1e-3 * np.eye(2), -a.T @ dt[window].ravel()
    )
    lengths[i, y, x] = np.linalg.norm(flow)
  np.testing.assert_allclose(
    pairing.flow_magnitude(video), lengths.mean(axis=(1, 2)), rtol=1e-4
  )


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


def test_flow_peaks_are_strict_and_never_at_an_end(monkeypatch):
  motion = iter([[9, 1, 5, 1, 2, 3], [1, 4, 4, 1, 3, 9], [0, 1, 0, 2, 1, 0]])
  monkeypatch.setattr(
    pairing, "flow_magnitude", lambda clip: np.array(next(motion), float)
  )
  peaks = pairing.flow_peaks(np.zeros((3, 7, 2, 2, 3), np.uint8))
  assert peaks.dtype == bool
  assert [np.flatnonzero(row).tolist() for row in peaks] == [[2], [], [1, 3]]


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
  assert rows.shape == (20, 7)
  assert (rows != np.arange(7)).all()
  assert (np.sort(rows, axis=1) == np.arange(7)).all()
  assert len({tuple(row) for row in rows}) > 15
  assert (rows != pairing.shuffles(7, seed=1)).any()
  assert len(pairing.shuffles(7, seed=0, repeats=3)) == 3


def test_chance_is_the_mean_score_of_other_clips_sounds():
  rng = np.random.default_rng(0)
  onsets, peaks = rng.random((5, 100)) < 0.03, rng.random((5, 9)) < 0.3
  score, chance = pairing.align_gap(onsets, peaks, 10.0, seed=3)
  alone = [
    [pairing.align_score(a[None], b[None], 10.0)[0] for a in onsets]
    for b in peaks
  ]
  np.testing.assert_allclose(score, np.diag(alone))
  partners = pairing.shuffles(5, seed=3)
  for i in range(5):
    assert chance[i] == pytest.approx(
      np.mean([alone[i][j] for j in partners[:, i]])
    )


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


def correlations_by_definition(motion, sound):
  """Of two standardised series each, `[T, 2]`: 2 x 2 x 3 lags."""
  steps, out = len(motion), []
  for v, a in np.ndindex(2, 2):
    for lag in (-1, 0, 1):
      terms = [
        motion[t, v] * sound[t + lag, a]
        for t in range(steps)
        if 0 <= t + lag < steps
      ]
      out.append(sum(terms) / steps)
  return np.array(out)


def standardised(x):
  return np.where(x.std(0) > 1e-6, (x - x.mean(0)) / (x.std(0) + 1e-30), 0)


@pytest.fixture(scope="module")
def noise_series():
  series = np.random.default_rng(5).normal(3, 2, (7, 6, 4))
  series[2, :, 1] = series[4, :, 3] = 0.1  # Constant: no correlation.
  return series


def contrasts_by_definition(series, seed):
  own, chance = np.zeros((2, len(series), 12))
  partners = pairing.shuffles(len(series), seed)
  for i, clip in enumerate(series):
    motion = standardised(clip[:, :2])
    values = [
      correlations_by_definition(motion, standardised(other[:, 2:]))
      for other in series
    ]
    own[i] = values[i]
    chance[i] = np.mean([values[j] for j in partners[:, i]], axis=0)
  return own - chance


def test_cross_correlations_are_those_of_the_definition(noise_series):
  partner = np.array([3, 2, 1, 0, 6, 4, 5])
  got = pairing.cross_correlations(noise_series, partner)
  for i, j in enumerate(partner):
    expected = correlations_by_definition(
      standardised(noise_series[i, :, :2]), standardised(noise_series[j, :, 2:])
    )
    np.testing.assert_allclose(got[i], expected, atol=1e-9)


def test_the_gap_is_the_contrast_along_what_the_reference_teaches(noise_series):
  def detector(series):
    mean = contrasts_by_definition(series, 2).mean(axis=0)
    return mean / np.linalg.norm(mean)

  reference = np.random.default_rng(6).normal(size=(4, 6, 4))
  gap = pairing.synchrony_gap(noise_series, reference, seed=2)
  contrasts = contrasts_by_definition(noise_series, 2)
  np.testing.assert_allclose(gap, contrasts @ detector(reference), atol=1e-9)


def test_each_half_of_the_real_set_is_scored_by_the_other():
  """A half without relation in it teaches the other nothing."""
  rng = np.random.default_rng(8)
  series = rng.normal(size=(8, 6, 4))
  gap = pairing.synchrony_gap(series, None, seed=1)
  order = np.random.default_rng(1).permutation(8)
  for own, other in ((order[:4], order[4:]), (order[4:], order[:4])):
    expected = pairing.synchrony_gap(series[own], series[other], seed=1)
    np.testing.assert_allclose(gap[own], expected, atol=1e-12)


@pytest.mark.parametrize("counts", [(3, None), (3, 4), (4, 3)])
def test_a_gap_of_fewer_than_four_clips_is_an_error(counts):
  series, reference = (
    None if n is None else np.random.default_rng(n).normal(size=(n, 6, 4))
    for n in counts
  )
  with pytest.raises(ValueError, match="4 or more clips, got"):
    pairing.synchrony_gap(series, reference, seed=0)


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


def test_distance_correlation_is_that_of_the_definition():
  """Szekely and Rizzo (2013), the sums written out."""
  rng = np.random.default_rng(0)
  x, y = rng.normal(2, [1, 5, 1e-3], (5, 3)), rng.normal(size=(5, 2))

  def centred(z):
    z = z / z.std(axis=0)
    n = len(z)
    a = np.array([[np.linalg.norm(p - q) for q in z] for p in z])
    out = np.zeros((n, n))
    for i, j in np.ndindex(n, n):
      if i != j:
        out[i, j] = a[i, j] - (a[i].sum() + a[:, j].sum()) / (n - 2)
        out[i, j] += a.sum() / ((n - 1) * (n - 2))
    return out

  a, b = centred(x), centred(y)
  expected = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
  assert pairing.distance_correlation(x, y) == pytest.approx(expected)
  assert pairing.distance_correlation(x[:4], 0 * y[:4]) == 0.0


@pytest.mark.parametrize("rows", [(3, 3), (5, 4)])
def test_distance_correlation_needs_four_pairs(rows):
  x, y = (np.random.default_rng(0).normal(size=(n, 2)) for n in rows)
  with pytest.raises(ValueError, match="4 or more pairs, got"):
    pairing.distance_correlation(x, y)


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
