"""Synchrony: truth scores 1, shuffled pairs score chance, noise costs little.

Clips come from the "tune" split; the "eval" split is for reported figures.
"""

import json

import numpy as np
import pytest

from data_prep.make_synthetic import write_folder
from mmdiff_jax.av import AVSpec, uint8_to_unit
from mmdiff_jax.media import reading
from mmdiff_jax.world import sync
from mmdiff_jax.world.clips import make_clip, split_seed
from mmdiff_jax.world.sync import Events

SMALL = AVSpec(16, 16, 16, 10.0, 2000)
MEDIUM = AVSpec(16, 32, 32, 10.0, 4000)


def clips_of(spec, count, **options):
  seeds = [split_seed("tune", i) for i in range(count)]
  return [make_clip(seed, spec, **options) for seed in seeds]


@pytest.fixture(scope="module", params=[SMALL, MEDIUM], ids=["16", "32"])
def world(request):
  clips = clips_of(request.param, 200)
  videos = np.stack([clip.video for clip in clips])
  audios = np.stack([clip.audio for clip in clips])
  return request.param, clips, videos, audios


def test_truth_is_found_by_each_observer_alone(world):
  spec, clips, videos, audios = world
  truth = [Events.of_truth(clip) for clip in clips]
  seen = [sync.analyse_video(video, spec) for video in videos]
  heard = [sync.analyse_audio(audio, spec) for audio in audios]
  by_eye = sync.compare(seen, truth, tolerance=0.5001 / spec.fps)
  by_ear = sync.compare(heard, truth, tolerance=0.01)
  for report in (by_eye, by_ear):
    assert report["onset_f1"] >= 0.99
    assert report["attribute_agreement"] >= 0.99
  assert by_ear["timing_error_ms"] < 3


def test_truth_scores_one_and_shuffled_pairs_chance(world):
  spec, _, videos, audios = world
  report = sync.sync_report(videos, audios, spec)
  assert report["onset_f1_corrected"] >= 0.97
  assert report["attribute_corrected"] >= 0.97
  assert 20 < report["timing_error_ms"] < 30  # a quarter of a frame: the grid
  shuffled = sync.sync_report(videos, np.roll(audios, 1, axis=0), spec)
  assert abs(shuffled["onset_f1_corrected"]) < 0.08
  assert abs(shuffled["attribute_corrected"]) < 0.15
  np.testing.assert_allclose(
    shuffled["onset_f1_chance"], report["onset_f1_chance"], atol=0.02
  )


def test_mild_noise_and_float_videos(world):
  spec, _, videos, audios = world
  rng = np.random.default_rng(0)
  noisy = uint8_to_unit(videos) + rng.normal(0, 0.06, videos.shape)
  audios = audios + rng.normal(0, 0.03, audios.shape)
  report = sync.sync_report(noisy, audios, spec)
  assert report["onset_f1_corrected"] >= 0.97
  assert report["attribute_agreement"] >= 0.97


@pytest.mark.parametrize("spec", [SMALL, MEDIUM], ids=["16", "32"])
def test_truth_survives_a_round_trip_through_mp4(tmp_path, spec):
  seeds = [split_seed("tune", i) for i in range(40)]
  path = write_folder(tmp_path, seeds, spec)
  listed = json.loads(path.read_text())["clips"]
  assert [entry["seed"] for entry in listed] == seeds
  read = [
    reading.read_media(tmp_path / entry["file"], sample_rate=spec.sample_rate)
    for entry in listed
  ]
  heard = [sync.analyse_audio(clip.audio, spec) for clip in read]
  truth = [
    Events(
      np.array(entry["impact_times"]),
      tuple(entry["attributes"][i]["color"] for i in entry["impact_shapes"]),
    )
    for entry in listed
  ]
  by_ear = sync.compare(heard, truth, tolerance=0.02)
  assert by_ear["onset_f1"] >= 0.97
  report = sync.sync_report(
    [clip.video for clip in read], [clip.audio for clip in read], spec
  )
  assert report["onset_f1_corrected"] >= 0.97
  assert report["attribute_agreement"] >= 0.97


def test_a_late_sound_track_is_reported(world):
  spec, _, videos, audios = world

  def delayed(seconds):
    samples = round(seconds * spec.sample_rate)
    return np.pad(audios, ((0, 0), (samples, 0), (0, 0)))[:, :-samples]

  report = sync.sync_report(videos[:60], delayed(0.06)[:60], spec)
  np.testing.assert_allclose(report["timing_bias_ms"], -60, atol=8)
  much_later = sync.sync_report(videos, delayed(0.2), spec)
  assert much_later["onset_f1_corrected"] < 0.1


def test_wrong_pitch_breaks_only_the_attribute():
  reds = clips_of(MEDIUM, 40, colors=("red",))
  blues = clips_of(MEDIUM, 40, colors=("blue",))
  report = sync.sync_report(
    [c.video for c in reds], [c.audio for c in blues], MEDIUM
  )
  assert report["onset_f1"] > 0.97
  assert report["attribute_agreement"] == 0


def test_clutter_and_walls():
  for options in ({"clutter": 5}, {"walls": True}):
    clips = clips_of(MEDIUM, 60, **options)
    walls = "walls" in options
    seen = [sync.analyse_video(c.video, MEDIUM, walls) for c in clips]
    truth = [Events.of_truth(clip) for clip in clips]
    assert sync.compare(seen, truth, 0.0501)["onset_f1"] > 0.97


@pytest.mark.parametrize(
  "case", ["silent", "nan", "noise", "constant", "short"]
)
def test_degenerate_clips_give_finite_reports(case):
  rng = np.random.default_rng(1)
  video = np.zeros((3, *MEDIUM.video_shape), np.float32)
  audio = np.zeros((3, *MEDIUM.audio_shape), np.float32)
  if case == "nan":
    video[:], audio[:] = np.nan, np.nan
  elif case == "noise":
    video[:] = rng.normal(0, 1, video.shape)
    audio[:] = rng.normal(0, 0.5, audio.shape)
  elif case == "constant":
    video[..., 0], audio[:] = 1.0, 0.7
  elif case == "short":
    audio = audio[:, :20]
  report = sync.sync_report(video, audio, MEDIUM)
  numbers = [value for value in report.values() if value is not None]
  assert np.isfinite(numbers).all()
  assert report["onset_f1_corrected"] < 0.2


def test_a_shape_that_lies_on_the_floor_makes_no_impact():
  clip = make_clip(0, MEDIUM)
  frame = int(clip.impact_times[0] * MEDIUM.fps)
  still = np.repeat(clip.video[frame : frame + 1], MEDIUM.frames, axis=0)
  assert len(sync.analyse_video(still, MEDIUM).times) == 0


def test_one_rhythm_for_all_clips_is_no_synchrony():
  clip = make_clip(0, MEDIUM)
  report = sync.sync_report([clip.video] * 5, [clip.audio] * 5, MEDIUM)
  assert report["onset_f1"] == 1
  assert report["onset_f1_corrected"] == 0


def brute_force_matches(a, b, tolerance):
  if not a or not b:
    return 0
  best = brute_force_matches(a[1:], b, tolerance)
  for j, other in enumerate(b):
    if abs(a[0] - other) <= tolerance:
      rest = brute_force_matches(a[1:], b[:j] + b[j + 1 :], tolerance)
      best = max(best, 1 + rest)
  return best


def test_matching_is_the_largest_possible():
  rng = np.random.default_rng(2)
  for _ in range(200):
    a, b = (sorted(rng.uniform(0, 1, rng.integers(0, 6))) for _ in range(2))
    events = [Events(np.array(t), ("red",) * len(t)) for t in (a, b)]
    pairs = sync.match(*events, tolerance=0.12)
    assert all(abs(a[i] - b[j]) <= 0.12 for i, j in pairs)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs})
    assert len(pairs) == brute_force_matches(list(a), list(b), 0.12)


def test_bad_input_is_refused():
  with pytest.raises(ValueError, match="the spec says"):
    sync.analyse_video(np.zeros((2, 3, 3, 3), np.uint8), MEDIUM)
  with pytest.raises(ValueError, match="Audio must be"):
    sync.analyse_audio(np.zeros((10, 2)), MEDIUM)
  with pytest.raises(ValueError, match="two or more clips"):
    sync.compare([], [], 0.1)
