import numpy as np
import pytest

from benchmarks import damage
from benchmarks.damage import DEGRADATIONS


@pytest.fixture
def clips():
  rng = np.random.default_rng(0)
  return {
    "video": rng.integers(60, 196, (5, 7, 16, 16, 3), np.uint8),
    "audio": rng.uniform(-0.5, 0.5, (5, 700, 1)).astype(np.float32),
  }


def damaged(name, clips):
  before = {key: value.copy() for key, value in clips.items()}
  out = DEGRADATIONS[name](clips, np.random.default_rng(1))
  for key, value in clips.items():
    np.testing.assert_array_equal(value, before[key])
    assert out[key].shape == value.shape and out[key].dtype == value.dtype
  return out


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_only_the_named_stream_changes(clips, name):
  out = damaged(name, clips)
  video_changed = not np.array_equal(out["video"], clips["video"])
  audio_changed = not np.array_equal(out["audio"], clips["audio"])
  of_video = ("video noise", "blur", "frozen frame", "shuffled frames")
  assert (video_changed, audio_changed) == (name in of_video,) + (
    name not in of_video,
  )


def test_noise_has_its_level(clips):
  out = damaged("video noise", clips)
  noise = out["video"].astype(float) - clips["video"]
  assert noise.std() == pytest.approx(damage._VIDEO_NOISE, rel=0.05)
  noise = damaged("audio noise", clips)["audio"] - clips["audio"]
  level = np.sqrt(np.mean(clips["audio"] ** 2))
  assert noise.std() == pytest.approx(0.3 * level, rel=0.05)


def test_blur_keeps_the_mean_and_takes_the_detail(clips):
  out = damaged("blur", clips)["video"].astype(float)
  assert out.mean() == pytest.approx(clips["video"].mean(), abs=1)
  assert (
    np.abs(np.diff(out, axis=2)).mean()
    < 0.9 * np.abs(np.diff(clips["video"].astype(float), axis=2)).mean()
  )


def test_frames_are_frozen_or_reordered(clips):
  frozen = damaged("frozen frame", clips)["video"]
  assert (frozen == clips["video"][:, 3:4]).all()
  shuffled = damaged("shuffled frames", clips)["video"]
  for a, b in zip(shuffled, clips["video"], strict=True):
    assert sorted(f.tobytes() for f in a) == sorted(f.tobytes() for f in b)


def test_audio_is_shifted_muted_or_swapped(clips):
  shifted = damaged("shifted audio", clips)["audio"]
  np.testing.assert_array_equal(shifted[:, 175:], clips["audio"][:, :525])
  assert not damaged("muted audio", clips)["audio"].any()
  swapped = damaged("swapped pairs", clips)["audio"]
  partner = [
    next(i for i, a in enumerate(clips["audio"]) if np.array_equal(a, b))
    for b in swapped
  ]
  assert sorted(partner) == list(range(5))
  assert all(i != j for i, j in enumerate(partner))
