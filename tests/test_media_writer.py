"""What is written can be read again: mp4, wav, PNG."""

import numpy as np
import pytest
from PIL import Image

from mmdiff_jax.av import AVSpec
from mmdiff_jax.media import reading
from mmdiff_jax.world.clips import make_clip, split_seed

RATE = 16000


def smooth_video(frames=16, height=64, width=64):
  t, y, x = np.mgrid[:frames, :height, :width]
  waves = [np.sin((x + y * k + 3 * t) / 16) for k in (0, 1, -1)]
  return np.uint8(127 + 120 * np.stack(waves, -1))


def test_mp4_round_trip(tmp_path):
  video = smooth_video()
  tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(25600) / RATE)
  path = tmp_path / "clip.mp4"
  reading.write_mp4(path, video, tone[:, None], fps=10, sample_rate=RATE)
  item = reading.read_media(path)
  assert (item.fps, item.sample_rate, item.repairs) == (10.0, RATE, ())
  assert item.video.shape == video.shape
  assert np.abs(item.video.astype(int) - video).mean() < 4
  assert item.audio.shape == (25600, 1)
  np.testing.assert_allclose(
    item.audio[3000:-3000, 0], tone[3000:-3000], atol=0.01
  )
  data = path.read_bytes()
  assert data.index(b"moov") < data.index(b"mdat")
  assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_mp4_pads_odd_sizes_and_resamples_rare_rates(tmp_path):
  path = tmp_path / "odd.mp4"
  sound = np.zeros((2000, 1), np.float32)
  reading.write_mp4(
    path, smooth_video(5, 33, 31), sound, fps=10, sample_rate=4000
  )
  item = reading.read_media(path)
  assert item.video.shape == (5, 34, 32, 3)
  assert item.sample_rate == 7350
  assert item.audio.shape == (3675, 1)


def test_writers_check_their_arguments(tmp_path):
  good = smooth_video(2)
  with pytest.raises(ValueError, match=r"uint8 \[F, H, W, 3\]"):
    reading.write_mp4(tmp_path / "a.mp4", good.astype(np.float32), fps=10)
  with pytest.raises(ValueError, match="audio must be"):
    reading.write_mp4(tmp_path / "a.mp4", good, np.zeros(9), fps=10)
  with pytest.raises(ValueError, match="sample_rate"):
    reading.write_mp4(tmp_path / "a.mp4", good, np.zeros((9, 1)), fps=10)
  with pytest.raises(ValueError, match="not finite"):
    reading.write_wav(tmp_path / "a.wav", np.full((9, 1), np.nan), RATE)
  with pytest.raises(ValueError, match="fps"):
    reading.write_mp4(tmp_path / "a.mp4", good, fps=0)
  with pytest.raises(ValueError, match="videos must be"):
    reading.write_gif_grid(tmp_path / "a.gif", good, fps=10)
  assert not list(tmp_path.iterdir())


def test_wav_keeps_rate_and_values(tmp_path):
  path = tmp_path / "a.wav"
  audio = np.random.default_rng(0).uniform(-1, 1, (1234, 1)).astype(np.float32)
  reading.write_wav(path, audio, 5333)
  back, rate = reading.read_audio(path)
  assert rate == 5333
  np.testing.assert_allclose(back, audio, atol=4e-5)


def test_png_frames_are_lossless(tmp_path):
  from PIL import Image

  video = smooth_video(3)
  reading.write_png_frames(tmp_path / "frames", video)
  names = sorted(p.name for p in (tmp_path / "frames").iterdir())
  assert names == ["0000.png", "0001.png", "0002.png"]
  for name, image in zip(names, video, strict=True):
    back = np.asarray(Image.open(tmp_path / "frames" / name))
    np.testing.assert_array_equal(back, image)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "a.mp4"
  path.write_bytes(b"old")
  monkeypatch.setattr(
    reading.write_mp4.__globals__["np"], "ascontiguousarray", None
  )
  with pytest.raises(TypeError):
    reading.write_mp4(
      path, smooth_video(2), np.zeros((9, 1)), fps=10, sample_rate=1
    )
  assert path.read_bytes() == b"old"
  assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("size", [32, 48])
def test_a_clip_is_always_the_same_file(tmp_path, size):
  spec = AVSpec(16, size, size, 10.0, 4000)
  video = make_clip(split_seed("tune", 5), spec).video
  rng = np.random.default_rng(0)
  written = set()
  for _ in range(20):
    # What lies about in memory is another one each time.
    kept = [
      np.full(rng.integers(1, 300_000), rng.integers(256), np.uint8)
      for _ in range(20)
    ]
    reading.write_mp4(tmp_path / "clip.mp4", video, fps=10)
    written.add((tmp_path / "clip.mp4").read_bytes())
    del kept
  assert len(written) == 1


@pytest.mark.parametrize(
  "fps", [1.5, 7, 10, 12, 15, 24, 25, 24000 / 1001, 29.97, 30, 48, 50]
)
def test_a_gif_plays_at_the_rate_of_the_clips(tmp_path, fps):
  video = smooth_video(45, 16, 16)
  delays = gif_delays(tmp_path / "a.gif", video, fps)
  assert len(delays) == 45
  assert sum(delays) == pytest.approx(1000 * 45 / fps, abs=5)
  # Hundredths of a second; browsers take less than two for ten.
  assert max(delays) - min(delays) <= 10
  assert min(delays) >= 20 and not any(delay % 10 for delay in delays)
  ends = np.cumsum(delays)
  assert np.abs(ends - 1000 * np.arange(1, 46) / fps).max() <= 5


@pytest.mark.parametrize("fps, step", [(60, 2), (59.94, 2), (90, 2), (120, 3)])
def test_a_gif_of_faster_clips_leaves_pictures_out_and_says_so(
  tmp_path, caplog, fps, step
):
  video = smooth_video(60, 16, 16)
  delays = gif_delays(tmp_path / "a.gif", video, fps)
  assert len(delays) == 60 // step
  assert sum(delays) == pytest.approx(1000 * 60 / fps, rel=0.01)
  assert min(delays) >= 20
  assert f"of {fps:g}, one in {step} is written" in caplog.text
  item = reading.read_media(tmp_path / "a.gif", fps=fps / step)
  error = np.abs(item.video.astype(int) - video[::step]).mean()
  assert len(item.video) == 60 // step and error < 12


def gif_delays(path, video, fps):
  """Milliseconds of each picture, by Pillow."""
  reading.write_gif_grid(path, video[None], fps=fps)
  with Image.open(path) as image:
    delays = []
    for index in range(image.n_frames):
      image.seek(index)
      delays.append(image.info["duration"])
  return delays
