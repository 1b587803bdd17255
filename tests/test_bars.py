"""Black bars of videos: found whatever the fit, named, and cut off."""

import re

import numpy as np
import pytest

from data_prep.bars import Bars, Peaks, find_bars, measure
from mmdiff_jax.data.manifest import Manifest
from mmdiff_jax.media.container import ReadOptions
from tests.media_fixtures import click_track, write
from tests.preparation_fixtures import RATE, all_clips, run


def barred(top, bottom, left=0, right=0, count=10):
  """Bright noise of 64x96 with black bars of so many lines."""
  rng = np.random.default_rng(0)
  frames = rng.integers(60, 256, (count, 64, 96, 3), np.uint8)
  frames[:, :top] = frames[:, 64 - bottom :] = 4
  frames[:, :, :left] = frames[:, :, 96 - right :] = 4
  return frames


@pytest.fixture
def video(tmp_path):
  (tmp_path / "in").mkdir()

  def make(*bars):
    write(
      tmp_path / "in" / "a.mkv",
      barred(*bars),
      codec="ffv1",
      pix_fmt="bgr0",
      audio=click_track(1.0, RATE),
      audio_rate=RATE,
    )
    return tmp_path / "in"

  return make


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize(
  ("bars", "shares"),
  [
    ((16, 16), (0.25, 0.25, 0, 0)),
    ((8, 16), (0.125, 0.25, 0, 0)),
    ((0, 0, 24, 24), (0, 0, 0.25, 0.25)),
    ((0, 0), (0, 0, 0, 0)),
    # One dark edge is a floor or a wall.
    ((0, 16), (0, 0, 0, 0)),
  ],
)
def test_bars_of_the_video_are_told_from_those_of_the_fit(
  video, tmp_path, fit, bars, shares
):
  output = tmp_path / "out"
  assert run(video(*bars), output, f"--fit={fit}", "--size=48") == 0
  (found,) = Manifest.load(output).videos
  if fit == "crop":
    # Of 96 columns the 64 in the middle are seen.
    seen = [max(0, share * 96 - 16) / 64 for share in shares[2:]]
    shares = (*shares[:2], *seen)
  assert found.bars == (pytest.approx(shares, abs=0.05) if any(shares) else ())


def test_a_dark_scene_has_no_bars():
  peaks = Peaks()
  peaks.add(np.full((32, 32, 3), 9, np.uint8))
  assert measure(peaks, (64, 64), (32, 32), "pad") == Bars()
  bright = np.full((32, 32, 3), 9, np.uint8)
  bright[0] = 200
  peaks.add(bright)
  assert measure(peaks, (64, 64), (32, 32), "pad") == Bars()


def test_bars_are_named_and_cut_off(video, tmp_path, capsys):
  videos = video(16, 16)
  assert run(videos, tmp_path / "kept", "--size=16x48") == 0
  # A row or two next to a bar are blurred.
  assert re.search(
    r"note: black bars in 1 of 1 videos, such as a.mkv \((38|44|50)% of "
    r"the height\): --crop_bars cuts them off\.",
    capsys.readouterr().out,
  )
  bars = find_bars(videos / "a.mkv", 10.0, ReadOptions())
  assert bars == pytest.approx((0.25, 0.25, 0, 0), abs=0.02)
  assert run(videos, tmp_path / "cut", "--size=16x48", "--crop_bars") == 0
  out = capsys.readouterr().out
  assert "repaired a.mkv: black bars cut off: " in out
  assert "note: black bars" not in out
  kept, cut = (all_clips(tmp_path / n)[0].video() for n in ("kept", "cut"))
  # The whole of the picture within the bars, whose rows were bright.
  assert kept[:, :3].max() < 40
  assert cut[:, 0].mean() > 100 and cut[:, -1].mean() > 100
  assert cut.shape == (4, 16, 48, 3)
  expected = barred(0, 0)[0, 16:48].reshape(16, 2, 48, 2, 3).mean((1, 3))
  # Averages of four pixels of noise; the bicubic filter is a little wider.
  assert np.corrcoef(cut[0].ravel(), expected.ravel())[0, 1] > 0.8
  # Another choice is another data set.
  assert run(videos, tmp_path / "cut", "--size=16x48") == 1


def test_without_bars_cutting_changes_nothing(video, tmp_path):
  videos = video(0, 0)
  assert run(videos, tmp_path / "a") == 0
  assert run(videos, tmp_path / "b", "--crop_bars") == 0
  a, b = (all_clips(tmp_path / name)[0].video() for name in "ab")
  np.testing.assert_array_equal(a, b)
