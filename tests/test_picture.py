"""Pictures of clips: rows, scales and letters."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mmdiff_jax.av import AVSpec
from mmdiff_jax.gallery import picture
from mmdiff_jax.media import lettering, reading, rendering
from mmdiff_jax.world.clips import make_clip, split_seed

SPEC = AVSpec(16, 32, 32, 10.0, 4000)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp("clips")
  for i in range(2):
    clip = make_clip(split_seed("tune", i), SPEC)
    rates = {"fps": SPEC.fps, "sample_rate": SPEC.sample_rate}
    path = folder / f"{i}.mp4"
    reading.write_mp4(path, clip.video, clip.audio, **rates)
  return [str(folder / f"{i}.mp4") for i in range(2)]


def test_rows_of_a_picture_share_the_time_axis():
  video = np.zeros((16, 32, 32, 3), np.uint8)
  video[4] = 255
  audio = np.zeros((6400, 1), np.float32)
  audio[1600:2000:2], audio[1601:2000:2] = 0.9, -0.9  # during frame 4
  image = np.asarray(rendering.render_clip(video, audio, 4000)).astype(int)
  strip = 64  # Sixteen square frames in 1024 pixels.
  slot = slice(4 * 64, 5 * 64)
  assert image[:strip, slot].min() == 255
  assert image[:strip, : 4 * 64].max() == 0 == image[:strip, 5 * 64 :].max()
  wave = image[strip + 4 : strip + 76]
  height = (wave == (120, 190, 255)).all(axis=-1).sum(axis=0)
  assert height[slot].min() > 60 > 3 >= np.delete(height, slot).max()
  mel = image[strip + 80 :].sum(axis=(0, 2))
  assert 4 * 64 - 10 <= mel.argmax() <= 5 * 64 + 10


def test_mel_spectrogram_shows_pitch_and_keeps_silence_dark():
  time = np.arange(16000) / 8000
  heights = []
  for pitch in (300, 1000, 3000):
    wave = np.sin(2 * np.pi * pitch * time)[:, None]
    image = rendering.mel_spectrogram(wave, 8000).sum(axis=(1, 2))
    heights.append(int(image.argmax()))
  assert heights[0] > heights[1] > heights[2]  # rows count from the top
  silence = rendering.mel_spectrogram(1e-7 * wave, 8000)
  assert silence.max() < 20


@pytest.mark.parametrize("shape", [(1, 16, 16), (5, 40, 24), (160, 9, 16)])
def test_any_clip_can_be_drawn(shape):
  video = np.full((*shape, 3), 90, np.uint8)
  image = rendering.render_clip(video, np.zeros((7, 1)), 2000, width=320)
  assert image.width == 320
  assert rendering.render_clip(video, None, None).width == rendering.WIDTH
  with pytest.raises(ValueError, match="video or audio"):
    rendering.render_clip(None, None, None)


def test_command_draws_files_with_their_impacts(files, tmp_path, capsys):
  plain, marked = tmp_path / "plain.png", tmp_path / "marked.png"
  picture.main([*files, str(plain)])
  picture.main([*files, str(marked), "--onsets"])
  plain, marked = (np.asarray(Image.open(p)) for p in (plain, marked))
  assert plain.shape == marked.shape == (2 * 272 + 16, 1024, 3)
  assert (
    (plain != marked).any(axis=-1)
    == (
      (marked == rendering.SEEN).all(axis=-1)
      | (marked == rendering.HEARD).all(axis=-1)
    )
  ).mean() > 0.999
  with pytest.raises(SystemExit):
    picture.main([str(tmp_path / "no.mp4"), str(tmp_path / "x.png")])
  assert "no.mp4" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("frames", "width", "slots", "shown"),
  [
    (16, 16, 16, 32),  # doubled
    (16, 64, 8, 64),  # every second one, as large as it is
    (16, 256, 4, 128),  # halved
    (3, 24, 3, 168),  # seven times
    (1, 700, 1, 464),  # a sixth (116), four times
    (16, 1, 16, 32),
  ],
)
def test_frames_on_pages_have_whole_sizes(frames, width, slots, shown):
  video = np.zeros((frames, 9, width, 3), np.uint8)
  assert rendering.strip_slots(video) == slots
  assert rendering.strip_width(video) == slots * shown <= 512


def test_enlarged_frames_repeat_each_pixel():
  video = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), np.uint8)
  wide = rendering.strip_width(video)
  strip = rendering.frames_strip(video, wide, rendering.strip_slots(video))
  by = wide // 4 // 8
  expected = np.concatenate(list(video), axis=1).repeat(by, 0).repeat(by, 1)
  np.testing.assert_array_equal(strip, expected)


def test_letters_without_a_font_can_still_be_read():
  assert lettering.to_ascii("été.mp4") == "ete.mp4"
  assert lettering.to_ascii("舞 A") == r"\u821e A"


def written(text):
  image = Image.new("RGB", (120, 20), "white")
  lettering.write(ImageDraw.Draw(image), (2, 2), text, "black")
  return np.asarray(image)


def test_names_in_any_script_are_written(monkeypatch):
  lettering._find_font.cache_clear()
  # Two characters that a font lacks would look the same.
  assert (written("舞") != written("台")).any()
  assert (written("z\udcff") != written("z")).any()
  monkeypatch.setenv("PATH", "")  # No fontconfig.
  lettering._find_font.cache_clear()
  assert (written("舞") == written(r"\u821e")).all()
  lettering._find_font.cache_clear()
