"""Sampling with a sound, a picture or a beginning that is known."""

import shutil

import numpy as np
import pytest

from mmdiff_jax.av import AVSpec
from mmdiff_jax.media import reading, writing
from mmdiff_jax.sampling.known_sources import (
  KnownSource,
  load_sources,
  make_jobs,
)
from mmdiff_jax.world.clips import make_clip
from tests import sampling_fixtures
from tests.sampling_fixtures import read_frames, read_wav, records, sample

config = sampling_fixtures.config
run = sampling_fixtures.run
spec = sampling_fixtures.spec


def test_index_of_a_source_depends_on_its_name_and_number_alone():
  a, b = (KnownSource(name, f"{name}.wav", {}, ()) for name in "ab")
  few = {job.name: job.index for job in make_jobs(2, [a])}
  many = {job.name: job.index for job in make_jobs(500, [b, a])}
  assert len(set(many.values())) == len(many) == 1000
  assert all(0 <= index < 2**31 for index in many.values())
  assert few == {name: many[name] for name in few}
  assert few["a_000"] == 0x4A978112  # For good: seeds samples.


def write_source(path, spec, frames):
  long = AVSpec(frames, spec.height, spec.width, spec.fps, spec.sample_rate)
  clip = make_clip(3, long)
  writing.write_mp4(
    path, clip.video, clip.audio, fps=spec.fps, sample_rate=spec.sample_rate
  )
  return clip


@pytest.mark.parametrize("method", ["replacement", "gradient", "resampling"])
def test_given_audio_is_in_the_output_bit_for_bit(
  config, run, spec, tmp_path, method
):
  clip = make_clip(3, spec)
  writing.write_wav(tmp_path / "bell.wav", clip.audio, spec.sample_rate)
  config = config.copy_and_resolve_references()
  config.sample.condition_method = method
  if method == "gradient":
    config.sample.guidance_scale = 0.1
  sample(
    config,
    run,
    tmp_path / "out",
    num_samples=2,
    condition="audio",
    source=str(tmp_path / "bell.wav"),
  )
  given = read_wav(tmp_path / "bell.wav")
  for k in range(2):
    assert (read_wav(tmp_path / f"out/bell_{k:03d}.wav") == given).all()
  videos = [read_frames(tmp_path / f"out/bell_{k:03d}") for k in range(2)]
  assert np.mean(videos[0] != videos[1]) > 0.5
  record = records(tmp_path / "out")[0]
  assert record["known"] == ["audio"]
  assert record["source"].endswith("bell.wav")


def test_another_source_of_the_same_name_is_an_error(
  config, run, spec, tmp_path
):
  def write(path, number):
    path.parent.mkdir(exist_ok=True)
    audio = make_clip(number, spec).audio
    writing.write_wav(path, audio, spec.sample_rate)

  def make(source, num_samples):
    options = {"condition": "audio", "source": str(source)}
    sample(config, run, tmp_path / "out", num_samples, **options)
    return {r["name"]: r for r in records(tmp_path / "out")}

  first, second = (tmp_path / folder / "bell.wav" for folder in "ab")
  write(first, 3)
  write(second, 4)
  before = make(first, 1)
  content = (tmp_path / "out/bell_000.mp4").read_bytes()
  for source in (second, second.parent):
    with pytest.raises(ValueError, match="another bell_000.*another --output"):
      make(source, 1)
  # The same file in another place is the same source; more samples of it
  # leave those that exist, and start from other noise.
  shutil.copy(first, second)
  after = make(second, 2)
  assert after["bell_000"] == before["bell_000"]
  assert after["bell_001"]["index"] != before["bell_000"]["index"]
  assert (tmp_path / "out/bell_000.mp4").read_bytes() == content
  frames = [read_frames(tmp_path / f"out/bell_{k:03d}") for k in range(2)]
  assert np.mean(frames[0] != frames[1]) > 0.5


def test_sources_whose_names_would_be_equal_are_told_apart(spec, tmp_path):
  for name in ("x/a.mp4", "x/a.mov", "x_a.mp4"):
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_source(path.with_suffix(".mp4"), spec, spec.frames)
    path.with_suffix(".mp4").rename(path)
  write_source(tmp_path / "in/x/a.mp4", spec, spec.frames)
  found = load_sources("video", str(tmp_path / "in"), spec, spec.frames)
  assert [s.name for s in found] == ["x_a", "x_a_mp4", "x_a_mp4_mp4"]


def test_given_video_is_in_the_output_bit_for_bit(config, run, spec, tmp_path):
  write_source(tmp_path / "ball.mp4", spec, spec.frames)
  sample(
    config,
    run,
    tmp_path / "out",
    num_samples=1,
    condition="video",
    source=str(tmp_path),
  )
  given = reading.read_media(tmp_path / "ball.mp4").video
  np.testing.assert_array_equal(read_frames(tmp_path / "out/ball_000"), given)


def test_continuation_begins_with_what_is_given(config, run, spec, tmp_path):
  write_source(tmp_path / "ball.mp4", spec, 8)
  sample(
    config,
    run,
    tmp_path / "out",
    num_samples=1,
    condition="continue",
    source=str(tmp_path / "ball.mp4"),
    overlap=0.2,
  )
  given = reading.read_media(
    tmp_path / "ball.mp4", sample_rate=spec.sample_rate
  )
  frames = read_frames(tmp_path / "out/ball_000")
  np.testing.assert_array_equal(frames[:2], given.video[:2])
  assert np.mean(frames[2:] != given.video[2 : spec.frames]) > 0.5
  known = spec.frames_to_samples(2)
  np.testing.assert_array_equal(
    read_wav(tmp_path / "out/ball_000.wav")[:known],
    writing.to_pcm16(given.audio[:known, 0]),
  )


def test_long_sample_of_a_given_sound_keeps_it(config, run, spec, tmp_path):
  long = AVSpec(9, spec.height, spec.width, spec.fps, spec.sample_rate)
  writing.write_wav(
    tmp_path / "bell.wav", make_clip(1, long).audio, spec.sample_rate
  )
  sample(
    config,
    run,
    tmp_path / "out",
    num_samples=1,
    condition="audio",
    source=str(tmp_path / "bell.wav"),
    duration=0.9,
    overlap=0.2,
  )
  assert (
    read_wav(tmp_path / "out/bell_000.wav") == read_wav(tmp_path / "bell.wav")
  ).all()
  assert len(read_frames(tmp_path / "out/bell_000")) == 9


def test_short_source_says_what_is_needed(config, run, spec, tmp_path):
  writing.write_wav(tmp_path / "short.wav", np.ones((100, 1)), spec.sample_rate)
  with pytest.raises(ValueError, match="short.wav: lasts 0.05 s, but 0.40 s"):
    sample(
      config,
      run,
      tmp_path / "out",
      condition="audio",
      source=str(tmp_path / "short.wav"),
    )


def test_unusable_files_of_a_folder_are_left_out(
  config, run, spec, tmp_path, caplog
):
  (tmp_path / "in").mkdir()
  write_source(tmp_path / "in" / "good.mp4", spec, spec.frames)
  (tmp_path / "in" / "broken.mp4").write_bytes(b"<html>not found</html>")
  sample(
    config,
    run,
    tmp_path / "out",
    num_samples=1,
    condition="video",
    source=str(tmp_path / "in"),
  )
  assert [r["name"] for r in records(tmp_path / "out")] == ["good_000"]
  assert "broken.mp4" in caplog.text
