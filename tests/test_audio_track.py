"""Sound stays on its timestamps, and is mixed from any number of channels."""

import numpy as np
import pytest

from mmdiff_jax.media import audio_track, reading
from mmdiff_jax.media.audio_clock import Aligner, resample_cubic
from tests.media_fixtures import write

RATE = 16000
# What a beep's place may be off, in seconds.
BAR = 5e-3


def tone(seconds, frequency=440.0):
  times = np.arange(round(seconds * RATE)) / RATE
  return (0.5 * np.sin(2 * np.pi * frequency * times)).astype(np.float32)


def pieces(times, length=320):
  """Frames with a ramp that tells their time: sample value = its time."""
  steps = np.arange(length) / RATE
  return [(t, (t + steps)[:, None].astype(np.float32)) for t in times]


def aligned(parts):
  aligner = Aligner(RATE)
  blocks = list(aligner.align(parts))
  return aligner, np.concatenate(blocks)[:, 0]


def errors(aligner, values):
  """How far each sample is from where its timestamp puts it (seconds)."""
  times = aligner.start + np.arange(len(values)) / RATE
  ramp = round(2.5e-3 * RATE)
  heard = values > 0
  # The ramps at the edges of a gap change the values, not their places.
  edges = np.convolve(~heard, np.ones(2 * ramp + 1), "same") > 0
  return np.abs(values - times)[heard & ~edges]


def test_regular_frames_pass_unchanged():
  parts = pieces(1 + np.arange(50) * 0.02)
  aligner, values = aligned(parts)
  np.testing.assert_array_equal(
    values, np.concatenate([x for _, x in parts])[:, 0]
  )
  assert aligner.start == 1.0 and not aligner.repairs()


@pytest.mark.parametrize("rounded", [1e-3, 2e-3])
def test_rounded_timestamps_move_nothing(rounded):
  times = 1 + np.arange(200) * 0.02
  noise = np.random.default_rng(0).uniform(-rounded / 2, rounded / 2, 200)
  parts = [(t + n, x) for (t, x), n in zip(pieces(times), noise, strict=True)]
  parts[0] = (1.0, parts[0][1])
  _, values = aligned(parts)
  np.testing.assert_array_equal(
    values, np.concatenate([x for _, x in parts])[:, 0]
  )


@pytest.mark.parametrize("gap", [0.005, 0.02, 0.045, 3.0])
def test_gaps_are_silence_of_their_length_without_clicks(gap):
  times = 1 + np.arange(100) * 0.02
  times[40:] += gap
  aligner, values = aligned(pieces(times))
  assert errors(aligner, values).max() < BAR
  assert len(values) == pytest.approx((2.0 + gap) * RATE, abs=2)
  assert "1 gaps" in aligner.repairs()[0]
  # A value falls to nothing within 2 ms (32 samples), never at once.
  assert np.abs(np.diff(values)).max() < 1.1 * values.max() / 32


def test_packets_that_are_lost_again_and_again_leave_the_rest_in_place():
  times = 1 + np.delete(np.arange(300), np.arange(10, 300, 17)) * 0.02
  aligner, values = aligned(pieces(times))
  assert errors(aligner, values).max() < BAR


@pytest.mark.parametrize("drift", [-0.02, -0.005, 0.005, 0.02])
def test_slow_and_fast_clocks_are_followed(drift):
  """Ten minutes of sound whose timestamps run at another speed."""
  count = 3000
  times = 1 + np.arange(count) * 0.02 * (1 + drift)
  steps = np.arange(320) / RATE * (1 + drift)
  parts = [(t, (t + steps)[:, None].astype(np.float32)) for t in times]
  aligner, values = aligned(parts)
  error = np.abs(values - aligner.start - np.arange(len(values)) / RATE)
  assert error.max() < BAR
  assert f"clock is off by {100 * drift:+.1f}" in aligner.repairs()[0]


def test_overlapping_sound_is_cut():
  times = 1 + np.arange(100) * 0.02
  times[50:] -= 0.1
  aligner, values = aligned(pieces(times))
  assert errors(aligner, values).max() < BAR
  assert "overlaps" in aligner.repairs()[0]


def test_one_odd_timestamp_moves_nothing():
  parts = pieces(1 + np.arange(50) * 0.02)
  parts[20] = (parts[20][0] + 0.03, parts[20][1])
  _, values = aligned(parts)
  np.testing.assert_array_equal(
    values, np.concatenate([x for _, x in parts])[:, 0]
  )


def steady(parts):
  """Plays frames of a tone by timestamps that are of no use."""
  sound = tone(len(parts) * 0.02)
  frames = [sound[i * 320 : (i + 1) * 320, None] for i in range(len(parts))]
  aligner, values = aligned(list(zip(parts, frames, strict=True)))
  return aligner, values, sound


TRUE = 1 + np.arange(1000) * 0.02
UNUSABLE = {
  "all the same": 0 * TRUE + 1,
  "once a second": np.floor(TRUE),
  "every four seconds": 1 + np.floor((TRUE - 1) / 4) * 4,
  "five times a second": np.floor(TRUE * 5 + 1e-6) / 5,
  "jitter of 30 ms": TRUE + 0.001 * (np.arange(1000) * 37 % 60),
  "jitter of 10 ms": TRUE + 0.001 * (np.arange(1000) * 13 % 20),
  "rounded to 50 ms": np.floor(TRUE * 20 + 1e-6) / 20,
  "rounded to 19 ms": 1 + np.floor((TRUE - 1) / 0.019 + 1e-6) * 0.019,
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_sound_whose_timestamps_are_unusable_is_played_in_order(name):
  aligner, values, sound = steady(UNUSABLE[name])
  np.testing.assert_array_equal(values, sound)
  assert aligner.start == 1.0
  assert aligner.repairs() == ["audio timestamps are unusable: played in order"]


@pytest.mark.parametrize("drift", [-0.005, 0.003])
def test_a_clock_is_followed_through_its_jitter(drift):
  """Ten minutes: without that they were 1.8 to 3 s off at the end."""
  count = 30000
  jitter = np.random.default_rng(0).uniform(-0.03, 0.03, count)
  jitter[0] = 0
  times = 1 + np.arange(count) * 0.02 * (1 + drift)
  steps = np.arange(320) / RATE * (1 + drift)
  parts = [
    (t + j, (t + steps)[:, None].astype(np.float32))
    for t, j in zip(times, jitter, strict=True)
  ]
  aligner, values = aligned(parts)
  error = np.abs(values - aligner.start - np.arange(len(values)) / RATE)
  assert error.max() < 0.15


def test_a_pause_among_timestamps_in_bursts_is_silence():
  times = np.floor(1 + np.arange(2000) * 0.02)
  times[1000:] += 6
  aligner, values, sound = steady(times)
  assert len(values) == pytest.approx(len(sound) + 6 * RATE, abs=0.2 * RATE)
  # It is noticed within a second, and all of it within ten.
  np.testing.assert_array_equal(values[: 19 * RATE], sound[: 19 * RATE])
  quiet = np.convolve(np.abs(values) > 1e-3, np.ones(160), "same") == 0
  assert quiet.sum() == pytest.approx(6 * RATE, abs=0.2 * RATE)
  assert np.flatnonzero(quiet).max() < 38 * RATE


def test_packets_that_are_lost_are_no_unusable_timestamps():
  rng = np.random.default_rng(0)
  for share in (0.01, 0.1, 0.5):
    kept = rng.random(1000) > share
    kept[0] = True
    aligner, values = aligned(pieces(TRUE[kept]))
    assert "gaps" in aligner.repairs()[0]
    assert errors(aligner, values).max() < BAR


def test_cubic_resampling_keeps_a_tone():
  samples = tone(0.1)[:, None]
  stretched = resample_cubic(samples, 1612)[:, 0]
  times = np.arange(1612) * (1600 / 1612) / RATE
  expected = 0.5 * np.sin(2 * np.pi * 440 * times)
  np.testing.assert_allclose(stretched[4:-4], expected[4:-4], atol=1e-4)


def write_channels(path, sound, layout):
  frames = np.zeros((10, 48, 64, 3), np.uint8)
  write(path, frames, audio=sound, layout=layout, audio_codec="pcm_s16le")


# Gains of one channel in the mono mix and in the left channel of the stereo
# mix: ITU-R BS.775 as `ffmpeg -ac 1` has it (front -3 dB, surround -6 dB).
GAINS = {
  "5.1": {0: (0.707, 1.0), 1: (0.707, 0), 2: (1.0, 0.707), 3: (0, 0)},
  "7.1": {2: (1.0, 0.707), 3: (0, 0), 4: (0.5, 0.707), 6: (0.5, 0.707)},
}


@pytest.mark.parametrize("layout", sorted(GAINS))
def test_surround_sound_is_mixed_by_the_standard_coefficients(tmp_path, layout):
  channels = {"5.1": 6, "7.1": 8}[layout]
  for channel, wanted in GAINS[layout].items():
    sound = np.zeros((channels, RATE), np.float32)
    sound[channel] = 0.5
    write_channels(tmp_path / "a.mkv", sound, layout)
    for mix, gain in zip(("mean", "first"), wanted, strict=True):
      audio = reading.read_media(tmp_path / "a.mkv", channels=mix).audio
      np.testing.assert_allclose(audio[2000:-2000], 0.5 * gain, atol=2e-3)


def test_channels_whose_places_are_unknown_are_averaged(tmp_path):
  path = tmp_path / "a.wav"
  sound = np.zeros((RATE, 11), "<i2")
  sound[:, 4] = 11000
  header = b"RIFF" + (36 + sound.nbytes).to_bytes(4, "little") + b"WAVEfmt "
  header += (16).to_bytes(4, "little") + (1).to_bytes(2, "little")
  header += (11).to_bytes(2, "little") + RATE.to_bytes(4, "little")
  header += (22 * RATE).to_bytes(4, "little") + (22).to_bytes(2, "little")
  header += (16).to_bytes(2, "little") + b"data"
  path.write_bytes(
    header + sound.nbytes.to_bytes(4, "little") + sound.tobytes()
  )
  audio, rate = reading.read_audio(path)
  assert (audio.shape, rate) == ((RATE, 1), RATE)
  np.testing.assert_allclose(audio, 1000 / 32768, atol=1e-4)


def test_two_channels_are_averaged_and_the_first_is_the_left(tmp_path):
  left, right = tone(1.0), tone(1.0, 660.0)
  write_channels(tmp_path / "a.mkv", np.stack([left, right]), "stereo")
  wanted = {"mean": (left + right) / 2, "first": left}
  for channels, expected in wanted.items():
    audio = reading.read_media(tmp_path / "a.mkv", channels=channels).audio
    np.testing.assert_allclose(audio[:, 0], expected, atol=1e-4)


def test_opposite_phase_is_named_and_not_silence(tmp_path):
  left = tone(1.0)
  for right, opposite in ((-left, True), (left, False), (0 * left, False)):
    write_channels(tmp_path / "a.mkv", np.stack([left, right]), "stereo")
    item = reading.read_media(tmp_path / "a.mkv")
    assert any("opposite phase" in w for w in item.repairs) == opposite
    assert np.abs(item.audio).max() > 0.2


def test_a_long_track_is_read_in_pieces(tmp_path):
  path = tmp_path / "long.wav"
  reading.write_wav(path, np.tile(tone(1.0), 300)[:, None], RATE)
  track = audio_track.read_track(path)
  most = 0
  for begin in range(0, 300 * RATE - RATE, RATE // 2):
    part = track.cut(track.start, begin, begin + RATE)
    assert np.abs(part).max() > 0.4
    most = max(most, sum(block.nbytes for block in track._held))
  # Never more than the beginning that is looked through, of 19 MB.
  assert most < 3e6
  assert track.end() == pytest.approx(300.0, abs=1e-3)
