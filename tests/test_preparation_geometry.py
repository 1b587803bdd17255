"""Geometry of a data set: of what videos it is made, and how they fit in."""

import numpy as np
import pytest

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.pipeline import create_loader
from mmdiff_jax.data.sources import ClipList, SourceOptions, open_source
from mmdiff_jax.data.sources.prepared import open_tfrecord
from tests.command_line import call
from tests.conftest import make_tiny_config
from tests.media_fixtures import click_track, write
from tests.preparation_fixtures import RATE, run


def two_halves(path, bright=200):
  """A second of a 64x32 video, dark at left and right, bright in the middle."""
  frames = np.full((10, 32, 64, 3), 40, np.uint8)
  frames[:, :, 16:48] = bright
  sound = click_track(1.0, RATE)
  write(path, frames, audio=sound, audio_rate=RATE)


# Mean of the whole frame, of its top rows, and of its left columns.
@pytest.mark.parametrize(
  ("fit", "whole", "top", "left"),
  [("pad", 60, 0, 40), ("crop", 200, 200, 200), ("stretch", 120, 120, 40)],
)
def test_fit_is_recorded_and_raw_media_are_treated_alike(
  tmp_path, fit, whole, top, left
):
  (tmp_path / "videos").mkdir()
  two_halves(tmp_path / "videos" / "a.mp4")
  assert run(tmp_path / "videos", tmp_path / "data", f"--fit={fit}") == 0
  source = open_tfrecord(tmp_path / "data")
  assert source.fit == fit
  prepared = ClipList(source)[2].video().astype(float)
  assert prepared.shape == (4, 16, 16, 3)
  assert prepared.mean() == pytest.approx(whole, abs=6)
  assert prepared[:, :3].mean() == pytest.approx(top, abs=6)
  assert prepared[:, 5:11, :3].mean() == pytest.approx(left, abs=6)
  raw = open_source(
    tmp_path / "videos", SourceOptions(source.spec, ("video",), fit=fit)
  )
  np.testing.assert_array_equal(ClipList(raw)[2].video(), prepared)


def test_training_wants_the_fit_of_the_data(tmp_path):
  (tmp_path / "videos").mkdir()
  two_halves(tmp_path / "videos" / "a.mp4")
  assert run(tmp_path / "videos", tmp_path / "data", "--fit=crop") == 0
  config = make_tiny_config()
  config.data.update(
    source=f"tfrecord:{tmp_path / 'data'}",
    frames=4,
    height=16,
    width=16,
    sample_rate=RATE,
  )
  with pytest.raises(ValueError, match=r"fit crop \(config: pad\).* --fit"):
    create_loader(config.data, batch_size=1, seed=0)
  config.data.fit = "crop"
  batch = next(create_loader(config.data, batch_size=1, seed=0))
  assert batch["video"].mean() > 150


CONFIG = """
from configs import default

def get_config():
  config = default.get_config()
  config.data.update(frames=4, height=16, width=24, sample_rate=RATE)
  config.data.fit = "crop"
  config.model.cross_attention_windows = (1, 2, 4)
  return config
"""


def test_geometry_follows_from_a_configuration(tmp_path, capsys):
  (tmp_path / "videos").mkdir()
  two_halves(tmp_path / "videos" / "a.mp4")
  config = tmp_path / "own.py"
  places = [f"--input={tmp_path / 'videos'}", f"--output={tmp_path / 'data'}"]
  flags = [*places, "--workers=1", f"--for={config}"]
  config.write_text(CONFIG.replace("RATE", "8000"))
  assert call("prepare", *flags, "--size=16") == 0
  source = open_tfrecord(tmp_path / "data")
  assert source.spec == AVSpec(4, 16, 16, 10.0, 8000)  # The flag goes before.
  assert source.fit == "crop"
  # 4 frames at 10 fps: 0.4 s; 64 divides 0.4 * 8160, not 0.4 * 8010.
  config.write_text(CONFIG.replace("RATE", "8010"))
  assert call("prepare", *flags) == 1
  error = capsys.readouterr().err
  assert "data.sample_rate=8010" in error and "8000 and 8160" in error
  config.write_text("get_config = 3")
  assert call("prepare", *flags) == 1
  assert "--for=" in capsys.readouterr().err
  assert call("prepare", *places, "--for=landscap") == 1
  assert "there is no such file; give" in capsys.readouterr().err


def test_a_rate_that_the_usual_networks_refuse_is_noted(tmp_path, capsys):
  (tmp_path / "videos").mkdir()
  two_halves(tmp_path / "videos" / "a.mp4")
  assert run(tmp_path / "videos", tmp_path / "data", "--sample_rate=8010") == 0
  note = capsys.readouterr().err
  assert "3204 audio samples" in note and "8000 and 8160" in note
