"""The sounding-shapes world keeps the truth it states."""

import json

import numpy as np
import pytest

from data_prep.make_synthetic import write_folder
from mmdiff_jax.av import AVSpec
from mmdiff_jax.world.clips import SPLITS, World, make_clip, split_seed
from mmdiff_jax.world.shapes import COLORS, FLOOR, PITCHES, TIMBRES
from tests.command_line import call

SPEC = AVSpec(frames=16, height=32, width=32, fps=10.0, sample_rate=4000)


def lowest_row(frame: np.ndarray) -> float:
  """Lower edge of the coloured pixels, in frame heights."""
  frame = frame.astype(float)
  colored = frame.max(axis=-1) - frame.min(axis=-1) > 60
  return (np.nonzero(colored.any(axis=1))[0].max() + 1) / len(frame)


@pytest.mark.parametrize(
  "spec",
  [
    SPEC,
    AVSpec(frames=16, height=16, width=16, fps=10.0, sample_rate=2000),
    AVSpec(frames=21, height=48, width=80, fps=12.5, sample_rate=11025),
    AVSpec(frames=1, height=16, width=16, fps=10.0, sample_rate=2000),
  ],
)
def test_shapes_and_ranges_follow_the_spec(spec):
  for seed in range(5):
    clip = make_clip(seed, spec)
    assert clip.video.shape == spec.video_shape
    assert clip.video.dtype == np.uint8
    assert clip.audio.shape == spec.audio_shape
    assert clip.audio.dtype == np.float32
    assert np.abs(clip.audio).max(initial=0) <= 1
    assert len(clip.impact_times) == len(clip.impact_speeds)
    assert all(0 <= t < spec.duration for t in clip.impact_times)


def test_the_seed_decides_everything():
  first, again, other = (make_clip(s, SPEC) for s in (3, 3, 4))
  np.testing.assert_array_equal(first.video, again.video)
  np.testing.assert_array_equal(first.audio, again.audio)
  assert first.truth() == again.truth()
  assert first.truth() != other.truth()


def test_time_is_continuous_truth_does_not_depend_on_resolution():
  small = make_clip(11, SPEC)
  large = make_clip(11, AVSpec(16, 64, 64, 10.0, 16000))
  assert small.truth() == large.truth()


def test_silence_before_each_impact_and_sound_right_after_it():
  for seed in range(50):
    clip = make_clip(seed, SPEC)
    wave = clip.audio[:, 0]
    sounding = np.zeros(len(wave), bool)
    for time in clip.impact_times:
      onset = int(np.ceil(time * SPEC.sample_rate))
      length = clip.attributes[0]["tone_length"]
      sounding[onset : onset + int(length * SPEC.sample_rate) + 2] = True
      assert not wave[onset - 40 : onset].any()
      assert np.abs(wave[onset : onset + 40]).max() > 0.2
    assert not wave[~sounding].any()


def test_only_the_frame_of_contact_touches_the_floor():
  spec = AVSpec(16, 128, 128, 10.0, 4000)
  for seed in range(30):
    clip = make_clip(seed, spec)
    contact = set((clip.impact_times * spec.fps).astype(int).tolist())
    touching = {
      i
      for i, frame in enumerate(clip.video)
      if abs(lowest_row(frame) - FLOOR) < 0.015
    }
    assert touching == contact


def test_pitch_is_that_of_the_colour_and_every_class_occurs():
  seen = set()
  for seed in range(40):
    clip = make_clip(seed, SPEC)
    color = clip.attributes[0]["color"]
    seen.add(color)
    spectrum = np.abs(np.fft.rfft(clip.audio[:, 0]))
    peak = spectrum.argmax() / SPEC.duration
    assert abs(peak - PITCHES[color]) < 15
    mean = clip.video.reshape(-1, 3).mean(axis=0)
    assert list(COLORS)[mean.argmax()] == color
  assert seen == set(COLORS)


def test_a_harder_impact_is_louder():
  speeds, peaks = [], []
  for seed in range(60):
    clip = make_clip(seed, SPEC, kinds=("disc",), colors=("red",))
    for time, speed in zip(clip.impact_times, clip.impact_speeds, strict=True):
      onset = int(time * SPEC.sample_rate)
      speeds.append(speed)
      peaks.append(np.abs(clip.audio[onset : onset + 80]).max())
  assert np.corrcoef(speeds, peaks)[0, 1] > 0.95


def test_both_streams_are_equally_strong():
  """Neither is lost in the noise of the diffusion long before the other."""
  spec = AVSpec(16, 16, 16, 10.0, 2000)
  clips = [make_clip(seed, spec) for seed in range(100)]
  video = np.stack([clip.video for clip in clips]) / 127.5 - 1
  audio = np.stack([clip.audio for clip in clips])
  assert 0.8 < audio.var() / video.var() < 1.25


def test_bounces_obey_gravity():
  world = World()
  for seed in range(30):
    clip = make_clip(seed, AVSpec(60, 16, 16, 10.0, 2000))
    # A bounce between two impacts lands as fast as it took off: T = 2 v / g.
    np.testing.assert_allclose(
      np.diff(clip.impact_times),
      2 * clip.impact_speeds[1:] / world.gravity,
      rtol=1e-9,
    )
    assert np.diff(clip.impact_times).min() > 0.4


def test_timbre_is_that_of_the_kind():
  spec = AVSpec(16, 16, 16, 10.0, 16000)
  for kind, weights in TIMBRES.items():
    clip = make_clip(5, spec, kinds=(kind,), colors=("green",))
    spectrum = np.abs(np.fft.rfft(clip.audio[:, 0]))
    hertz = np.fft.rfftfreq(spec.audio_length, 1 / spec.sample_rate)

    def level(harmonic, spectrum=spectrum, hertz=hertz):
      # Several impacts interfere; the power of the band does not see it.
      return np.linalg.norm(spectrum[np.abs(hertz - 480 * harmonic) < 40])

    measured = [level(n) / level(1) for n in (2, 3)]
    expected = (*weights, 0.0, 0.0)[1:3]
    np.testing.assert_allclose(measured, expected, atol=0.06)


def test_several_shapes_walls_and_clutter():
  spec = AVSpec(32, 48, 64, 10.0, 8000)
  plain = make_clip(2, spec, num_shapes=3)
  assert len({shape["color"] for shape in plain.attributes}) == 3
  assert (np.diff(plain.impact_times) >= 0).all()
  assert set(plain.impact_shapes.tolist()) == {0, 1, 2}
  walls = make_clip(2, spec, walls=True)
  still = make_clip(2, spec)
  assert len(walls.impact_times) > len(still.impact_times)
  assert make_clip(2, spec, clutter=5).video.std() != (still.video.std())


def test_splits_share_no_seed():
  seeds = [split_seed(s, i) for s in SPLITS for i in (0, 9)]
  assert len(set(seeds)) == 6
  assert split_seed("train", 7) == 7
  with pytest.raises(ValueError, match="outside"):
    split_seed("train", 10**9)
  with pytest.raises(ValueError, match="choose one of"):
    split_seed("test", 0)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"kinds": ("star",)}, "kinds must be some of"),
    ({"colors": ()}, "colors must be some of"),
    ({"num_shapes": 4}, "num_shapes must be 1 to 3"),
    ({"bounce": (0.1, 0.9)}, "leaves the frame"),
    ({"radius": (0.2, 0.1)}, "low <= high"),
    ({"gravity": 0.0}, "gravity must be > 0"),
  ],
)
def test_impossible_worlds_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    make_clip(0, SPEC, **options)


def test_a_sampling_rate_below_the_pitches_is_refused():
  with pytest.raises(ValueError, match="at least 2000 Hz"):
    make_clip(0, AVSpec(16, 16, 16, 10.0, 1000))


def test_command_writes_videos_and_their_truth(tmp_path, capsys):
  flags = ("--count=2", "--split=tune", "--size=16", "--frames=8")
  assert call("synthetic", tmp_path, *flags) == 0
  truth = json.loads((tmp_path / "truth.json").read_text())
  assert truth["spec"]["sample_rate"] == 16000
  for index, entry in enumerate(truth["clips"]):
    seed = split_seed("tune", index)
    clip = make_clip(seed, AVSpec(8, 16, 16, 10.0, 16000))
    assert entry["seed"] == seed
    assert entry["impact_times"] == clip.truth()["impact_times"]
    assert (tmp_path / entry["file"]).stat().st_size > 500
  assert "2 videos" in capsys.readouterr().out
  assert call("synthetic", tmp_path, "--split=test") == 1
  assert "give one of train, tune, eval, not 'test'" in capsys.readouterr().err


def test_a_folder_is_never_mixed_with_other_clips(tmp_path):
  spec = AVSpec(4, 16, 16, 10.0, 2000)
  write_folder(tmp_path, [0, 1], spec)
  before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
  write_folder(tmp_path, [0, 1], spec)
  assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}
  with pytest.raises(ValueError, match="holds 1 other clips, such as clip_"):
    write_folder(tmp_path, [0], spec)
  with pytest.raises(ValueError, match="other clips"):
    write_folder(tmp_path, [2, 3], spec)
  with pytest.raises(ValueError, match="clips of other settings"):
    write_folder(tmp_path, [0, 1], spec, clutter=2)
  assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}
  (tmp_path / "truth.json").unlink()  # as an interrupted call leaves it
  (tmp_path / "clip_0000000001.mp4").unlink()
  write_folder(tmp_path, [0, 1], spec)
  assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


@pytest.mark.parametrize(
  ("flag", "words"),
  [
    ("--fps=nan", "from 0.01 to 1000"),
    ("--fps=1e9", "from 0.01 to 1000"),
    ("--count=0", "at least 1"),
    ("--frames=0", "at least 1"),
  ],
)
def test_command_checks_its_flags(tmp_path, capsys, flag, words):
  assert call("synthetic", tmp_path / "x", flag) == 1
  assert words in capsys.readouterr().err
  assert not (tmp_path / "x").exists()


def test_command_names_an_output_that_is_no_folder(tmp_path, capsys):
  path = tmp_path / "file"
  path.touch()
  for output in (path, path / "below"):
    assert call("synthetic", output, "--count=1") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and str(output) in error
    assert error.count("\n") == 1
