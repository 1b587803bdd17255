"""Mixing of channels: on arrays, and on FFmpeg's frames."""

from fractions import Fraction

import av
import numpy as np
import pytest

from mmdiff_jax.media.audio_mixer import Mixer
from mmdiff_jax.media.container import MediaError
from mmdiff_jax.media.edits import WHOLE, Edit

RATE = 1000


def mixed(channels, *pieces):
  """The mix of arrays `[n, C]`, and what was done besides."""
  mixer = Mixer("film.mkv", channels, RATE)
  parts = list(mixer.mix((None, x.astype(np.float32)) for x in pieces))
  return np.concatenate([x for _, x in parts]), mixer.repairs()


def noise(count, channels=1):
  rng = np.random.default_rng(count)
  return rng.uniform(-0.5, 0.5, (count, channels)).astype(np.float32)


def test_the_mean_of_two_channels_is_half_of_either():
  x = noise(64, 2)
  got, repairs = mixed("mean", x[:40], x[40:])
  np.testing.assert_allclose(got, (x[:, :1] + x[:, 1:]) / 2, atol=1e-7)
  assert repairs == []


def test_one_channel_or_the_first_passes_as_it_is():
  x = noise(64, 2)
  np.testing.assert_array_equal(mixed("first", x)[0], x[:, :1])
  for channels in ("mean", "first", "all"):
    np.testing.assert_array_equal(mixed(channels, x[:, :1])[0], x[:, :1])
  np.testing.assert_array_equal(mixed("all", x)[0], x)


def test_all_channels_must_stay_as_many():
  with pytest.raises(MediaError, match="film.mkv: the number .* changes"):
    mixed("all", noise(8, 2), noise(8, 1))
  assert mixed("mean", noise(8, 2), noise(8, 1))[0].shape == (16, 1)


@pytest.mark.parametrize("channels", ["mean", "first", "all"])
def test_what_exceeds_full_scale_is_clipped_and_counted(channels):
  x = np.array([[0.5], [-1.0], [1.0], [1.25], [-3.0], [2.0]])
  got, repairs = mixed(channels, x, -x)
  np.testing.assert_array_equal(
    got[:, 0], [0.5, -1, 1, 1, -1, 1, -0.5, 1, -1, -1, 1, -1]
  )
  assert repairs == ["audio exceeds full scale: 6 samples clipped"]


def test_full_scale_itself_and_no_samples_at_all_need_no_repair():
  got, repairs = mixed("mean", np.zeros((0, 1)), np.ones((2, 1)))
  assert got.tolist() == [[1], [1]] and repairs == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_an_error(value):
  x = noise(8)
  x[5] = value
  with pytest.raises(MediaError, match="film.mkv: .* not finite"):
    mixed("mean", x)


OPPOSITE = [
  "the audio's two channels are in opposite phase: the first one taken"
]


@pytest.mark.parametrize(
  ("left", "right", "opposite"),
  [
    (0.5, -0.5, True),
    (0.5, 0.5, False),
    (0.5, 0.0, False),
    # A mean of 0.016 of either channel holds 1 / 4,000 of the power, one of
    # 0.048 holds 1 / 400: the bar is 1 / 1,000.
    (0.5, -0.484, True),
    (0.5, -0.452, False),
    # Silence cancels nothing: -80 dB is the bar.
    (0.9e-4, -0.9e-4, False),
    (2e-4, -2e-4, True),
  ],
)
def test_opposite_phase_is_seen_in_the_power_of_the_mean(left, right, opposite):
  sign = np.where(np.arange(200) % 3 == 0, 1.0, -1.0)[:, None]
  x = sign * np.array([[left, right]])
  got, repairs = mixed("mean", x[:150], x[150:])
  wanted = x[:, 0] if opposite else (x[:, 0] + x[:, 1]) / 2
  np.testing.assert_allclose(got[:, 0], wanted, atol=1e-7)
  assert repairs == (OPPOSITE if opposite else [])


def test_only_the_first_half_minute_tells_of_opposite_phase():
  same = np.repeat(noise(500), 2, axis=1)
  second = [same, same * [1, -1]]  # Of RATE / 2 samples each.
  x, repairs = mixed("mean", *[second[0]] * 61, *[second[1]] * 200)
  assert repairs == [] and np.abs(x[-1000:]).max() < 1e-7
  # A piece that passes the half minute is the last one that is heard.
  _, repairs = mixed("mean", *[second[1]] * 60, *[second[0]] * 9)
  assert repairs == []
  _, repairs = mixed("mean", *[second[1]] * 61, *[second[0]] * 9)
  assert repairs == OPPOSITE


def test_pieces_of_one_channel_tell_nothing_of_opposite_phase():
  _, repairs = mixed("mean", noise(100), noise(100, 2) * [[1, 0]])
  assert repairs == []
  opposite = np.repeat(noise(100), 2, axis=1) * [1, -1]
  _, repairs = mixed("mean", noise(300), opposite)
  assert repairs == OPPOSITE


def frame(sound, start, rate=RATE, layout="mono"):
  """FFmpeg's frame of sound `[n, C]` that begins at `start` seconds."""
  made = av.AudioFrame.from_ndarray(
    np.ascontiguousarray(sound.reshape(1, -1)), format="flt", layout=layout
  )
  made.sample_rate, made.time_base = rate, Fraction(1, rate)
  made.pts = round(start * rate)
  return made


def converted(*frames, channels="mean"):
  return list(Mixer("film.mkv", channels, RATE).convert(frames))


def test_frames_at_the_rate_keep_their_samples_and_times():
  x = noise(500, 2)
  pieces = converted(
    (frame(x[:300], 2.0, layout="stereo"), WHOLE),
    (frame(x[300:], 2.3, layout="stereo"), WHOLE),
  )
  np.testing.assert_array_equal(np.concatenate([y for _, y in pieces]), x)
  assert [t for t, _ in pieces] == [2.0, 2.3]


def test_other_rates_are_resampled_to_the_last_sample():
  steps = np.arange(8000) / 8000
  tone = np.sin(2 * np.pi * 50 * steps).astype(np.float32)[:, None]
  frames = [
    (frame(tone[i : i + 800], i / 8000, 8000), WHOLE)
    for i in range(0, 8000, 800)
  ]
  got = np.concatenate([x for _, x in converted(*frames)])
  assert len(got) == pytest.approx(RATE, abs=1)
  wanted = np.sin(2 * np.pi * 50 * np.arange(len(got)) / RATE)
  np.testing.assert_allclose(got[20:-20, 0], wanted[20:-20], atol=1e-3)


def test_a_change_of_layout_or_rate_in_mid_track_loses_nothing():
  mono, stereo, fast = noise(400), noise(300, 2), noise(2400)
  pieces = converted(
    (frame(fast, 0.0, 4 * RATE), WHOLE),
    (frame(mono, 0.6), WHOLE),
    (frame(stereo, 1.0, layout="stereo"), WHOLE),
    (frame(fast, 1.3, 4 * RATE), WHOLE),
  )
  lengths = {1: 0, 2: 0}
  for _, x in pieces:
    lengths[x.shape[1]] += len(x)
  assert lengths[2] == 300
  assert lengths[1] == pytest.approx(600 + 400 + 600, abs=4)


@pytest.mark.parametrize(
  ("begin", "end", "first", "last"),
  [
    (-1.0, 9.0, 0, 500),
    (2.1, 9.0, 100, 500),
    (-1.0, 2.2, 0, 200),
    (2.1, 2.4, 100, 400),
    (2.35, 2.4, 350, 400),
    (2.6, 9.0, 500, 500),
  ],
)
def test_what_an_edit_plays_is_cut_and_moved(begin, end, first, last):
  x = noise(500)
  edit = Edit(begin, end, at=10.0, until=10.0 + end - begin)
  pieces = converted((frame(x[:300], 2.0), edit), (frame(x[300:], 2.3), edit))
  np.testing.assert_array_equal(
    np.concatenate([y for _, y in pieces]), x[first:last]
  )
  for time, part in pieces:
    if len(part):
      place = np.flatnonzero((x == part[0]).all(1))[0]
      assert time == pytest.approx(2.0 + place / RATE - begin + 10.0)


def test_each_stretch_is_cut_by_its_own_edit():
  x = noise(400)
  first, second = Edit(0, 0.1, 5, 5.1), Edit(0.3, 0.4, 7, 7.1)
  pieces = converted((frame(x, 0.0), first), (frame(x, 0.0), second))
  parts = [(t, y) for t, y in pieces if len(y)]
  assert [t for t, _ in parts] == pytest.approx([5.0, 7.0])
  np.testing.assert_array_equal(parts[0][1], x[:100])
  np.testing.assert_array_equal(parts[1][1], x[300:])


@pytest.mark.parametrize(
  ("channels", "gains"),
  [
    ("mean", [[0.707], [0.707], [1.0], [0.0], [0.5], [0.5]]),
    (
      "all",
      [[1, 0], [0, 1], [0.707, 0.707], [0, 0], [0.707, 0], [0, 0.707]],
    ),
  ],
)
def test_surround_is_mixed_by_itu_r_bs_775(channels, gains):
  for channel, expected in enumerate(gains):
    sound = np.zeros((64, 6), np.float32)
    sound[:, channel] = 0.25
    pieces = converted(
      (frame(sound, 0.0, layout="5.1"), WHOLE), channels=channels
    )
    got = np.concatenate([x for _, x in pieces])
    wanted = np.tile(0.25 * np.array(expected), (64, 1))
    np.testing.assert_allclose(got, wanted, atol=1e-3)
