"""What sampling is given, from every kind of source."""

import numpy as np
import pytest

from mmdiff_jax.av import AVSpec, uint8_to_unit
from mmdiff_jax.media import writing
from mmdiff_jax.sampling.known_sources import load_sources
from mmdiff_jax.world.clips import make_clip, split_seed
from tests.prepared_fixtures import numbered_frame, write_dataset

SPEC = AVSpec(4, 16, 16, 10.0, 2000)


def test_records_are_given_as_they_are(tmp_path):
  folder = write_dataset(tmp_path / "set", SPEC, (9, 4))
  found = load_sources("continue", f"tfrecord:{folder}", SPEC, 2)
  assert [s.name for s in found] == ["video_000", "video_001"]
  for video, source in enumerate(found):
    frames = np.stack([numbered_frame(SPEC, video, i) for i in range(2)])
    np.testing.assert_array_equal(source.known["video"], uint8_to_unit(frames))
    np.testing.assert_allclose(
      source.known["audio"][:, 0], np.arange(400) / 32768
    )
    assert source.path == f"{folder}#video_{video:03d}.mp4"
  assert found[0].digest != found[1].digest


def test_synthetic_clips_can_be_longer_than_the_models():
  found = load_sources("audio", "synthetic", SPEC, 7, synthetic_clips=3)
  long = AVSpec(7, 16, 16, 10.0, 2000)
  assert len(found) == 3
  for number, source in enumerate(found):
    clip = make_clip(split_seed("train", number), long)
    assert source.known.keys() == {"audio"}
    np.testing.assert_array_equal(source.known["audio"], clip.audio)


def test_arrays_in_a_file_are_fitted(tmp_path):
  video = np.full((2, 4, 32, 32, 3), 90, np.uint8)
  np.savez(tmp_path / "a.npz", video=video, audio=np.zeros((2, 800)))
  first, second = load_sources("video", str(tmp_path / "a.npz"), SPEC, 4)
  assert first.known["video"].shape == SPEC.video_shape
  np.testing.assert_allclose(first.known["video"], 90 / 127.5 - 1, atol=1e-6)
  assert (first.name, second.name) == ("000000", "000001")


def test_records_of_another_model_are_refused(tmp_path):
  folder = str(write_dataset(tmp_path / "set", SPEC, (9,)))
  faster = AVSpec(4, 16, 16, 25.0, 2000)
  with pytest.raises(ValueError, match="at 10 fps and 2000 Hz, the model"):
    load_sources("video", folder, faster, 4)
  with pytest.raises(ValueError, match="clips of 4 frames, 6 are needed"):
    load_sources("video", folder, SPEC, 6)


def test_only_sound_is_asked_of_a_file_that_gives_only_sound(tmp_path):
  wave = np.sin(np.arange(900))[:, None] * 0.5
  writing.write_wav(tmp_path / "a.wav", wave, 2000)
  (source,) = load_sources("audio", str(tmp_path), SPEC, 4)
  np.testing.assert_allclose(source.known["audio"], wave[:800], atol=2e-5)
  with pytest.raises(ValueError, match="holds no media file"):
    load_sources("video", str(tmp_path), SPEC, 4)
  with pytest.raises(ValueError, match="a.wav: has no video"):
    load_sources("video", str(tmp_path / "a.wav"), SPEC, 4)


def test_where_nothing_can_be_used_it_is_said(tmp_path, caplog):
  for name in ("a.wav", "b.wav"):
    writing.write_wav(tmp_path / name, np.ones((100, 1)), 2000)
  with pytest.raises(ValueError, match="nothing in it can be used"):
    load_sources("audio", str(tmp_path), SPEC, 4)
  assert "b.wav: lasts 0.05 s, but 0.40 s are needed" in caplog.text
