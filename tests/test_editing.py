"""Editing, from the command line: what is kept is the source's to the bit."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from mmdiff_jax import checkpoint
from mmdiff_jax.av import AVSpec
from mmdiff_jax.cli import main
from mmdiff_jax.media import reading, writing
from mmdiff_jax.sampling.edit import Edit
from mmdiff_jax.task import make_task
from tests.toy import make_toy_config

FRAMES = 6


@pytest.fixture(scope="module")
def config():
  config = make_toy_config()
  config.data.frames = FRAMES
  config.sample.update(sampler="ddim", steps=3, batch_size=2)
  return config


@pytest.fixture(scope="module")
def spec(config):
  return AVSpec.from_config(config.data)


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("toy")
  params = make_task(config).init(jax.random.key(0))
  checkpoint.save_params(workdir, params, config)
  return workdir


def write_video(path, spec, frames, seed):
  rng = np.random.default_rng(seed)
  video = rng.integers(60, 200, (frames, spec.height, spec.width, 3))
  length = spec.frames_to_samples(frames)
  audio = 0.5 * rng.uniform(-1, 1, (length, 1)).astype(np.float32)
  writing.write_mp4(
    path,
    video.astype(np.uint8),
    audio,
    fps=spec.fps,
    sample_rate=spec.sample_rate,
  )
  return path


@pytest.fixture(scope="module")
def source(spec, tmp_path_factory):
  folder = tmp_path_factory.mktemp("source")
  return write_video(folder / "a.mp4", spec, FRAMES, 0)


def edit(run, output, *flags):
  return main(
    [
      "sample",
      f"--checkpoint={run}",
      f"--output={output}",
      "--num_samples=1",
      "--formats=wav,png",
      "--condition=edit",
      "--config.compilation_cache=",
      *flags,
    ]
  )


def made(output, name="a_000"):
  frames = sorted((output / name).glob("*.png"))
  video = np.stack([np.asarray(Image.open(frame)) for frame in frames])
  return video, reading.read_audio(output / f"{name}.wav")[0]


def read(path, spec):
  clip = reading.read_media(
    path,
    fps=spec.fps,
    size=(spec.height, spec.width),
    sample_rate=spec.sample_rate,
  )
  pcm = writing.to_pcm16(clip.audio[:, 0]) / np.float32(32768)
  return clip.video, pcm[:, None]


# Flags, frames that are made anew, and whether the sound of those is.
CASES = {
  "span": (["--span=0.2:0.4"], [2, 3], True),
  "video": (["--span=0.2:0.4", "--keep=audio"], [2, 3], False),
  "audio": (["--keep=video"], [], True),
  "box": (["--box=4,2,8,5"], range(FRAMES), False),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_kept_is_the_sources(run, source, spec, tmp_path, case):
  flags, frames, heard = CASES[case]
  assert edit(run, tmp_path / "out", f"--source={source}", *flags) == 0
  video, audio = made(tmp_path / "out")
  old_video, old_audio = read(source, spec)
  new = np.zeros(old_video.shape, bool)
  new[list(frames)] = True
  if case == "box":
    box = np.zeros(new.shape, bool)
    box[:, 2:7, 4:12] = True
    new &= box
  np.testing.assert_array_equal(video[~new], old_video[~new])
  assert not new.any() or (video != old_video)[new].mean() > 0.5
  sound = np.zeros(len(old_audio), bool)
  if heard:
    stretch = frames if case == "span" else range(FRAMES)
    for frame in stretch:
      edges = spec.frames_to_samples(frame), spec.frames_to_samples(frame + 1)
      sound[slice(*edges)] = True
  np.testing.assert_allclose(audio[~sound], old_audio[~sound], atol=2e-5)
  assert not heard or (audio != old_audio)[sound].mean() > 0.5
  settings = json.loads((tmp_path / "out/samples.json").read_text())
  assert settings["settings"]["condition"] == "edit"
  assert settings["settings"]["edit"]["keep"] in ("none", "audio", "video")


def test_a_mask_says_where_by_white(run, source, spec, tmp_path):
  mask = np.zeros((spec.height, spec.width), np.uint8)
  mask[5:9, :3] = 255
  Image.fromarray(mask).save(tmp_path / "mask.png")
  flags = f"--source={source}", f"--mask={tmp_path / 'mask.png'}"
  assert edit(run, tmp_path / "out", *flags) == 0
  video, audio = made(tmp_path / "out")
  old_video, old_audio = read(source, spec)
  np.testing.assert_array_equal(video[:, mask == 0], old_video[:, mask == 0])
  assert (video != old_video)[:, mask > 0].mean() > 0.5
  np.testing.assert_allclose(audio, old_audio, atol=2e-5)


def test_a_longer_source_is_edited_piece_by_piece(run, spec, tmp_path):
  source = write_video(tmp_path / "a.mp4", spec, 15, 3)
  flags = f"--source={source}", "--span=1.1:1.3"
  assert edit(run, tmp_path / "out", *flags) == 0
  video, audio = made(tmp_path / "out")
  old_video, old_audio = read(source, spec)
  assert video.shape == old_video.shape and audio.shape == old_audio.shape
  kept = np.ones(15, bool)
  kept[11:13] = False
  np.testing.assert_array_equal(video[kept], old_video[kept])
  assert (video != old_video)[~kept].mean() > 0.5


@pytest.mark.parametrize("where", ["before", "after"])
def test_an_extension_joins_the_source(run, source, spec, tmp_path, where):
  flags = f"--source={source}", f"--extend={where}", "--overlap=0.2"
  assert edit(run, tmp_path / "out", *flags) == 0
  video, _ = made(tmp_path / "out")
  old, _ = read(source, spec)
  if where == "after":
    np.testing.assert_array_equal(video[:2], old[-2:])
  else:
    np.testing.assert_array_equal(video[-2:], old[:2])
  assert len(video) == FRAMES and (video[2:4] != old[2:4]).mean() > 0.5


def test_between_leads_from_one_file_to_the_other(run, source, spec, tmp_path):
  second = write_video(tmp_path / "b.mp4", spec, FRAMES, 7)
  assert edit(run, tmp_path / "out", f"--between={source},{second}") == 0
  video, _ = made(tmp_path / "out", "a_to_b_000")
  np.testing.assert_array_equal(video[0], read(source, spec)[0][-1])
  np.testing.assert_array_equal(video[-1], read(second, spec)[0][0])


def test_a_low_strength_stays_close_to_the_source(run, source, spec, tmp_path):
  """Of three steps only the last one is free of the source."""
  distances = []
  for strength in (0.2, 1.0):
    output = tmp_path / str(strength)
    assert (
      edit(run, output, f"--source={source}", f"--strength={strength}") == 0
    )
    video, _ = made(output)
    old = read(source, spec)[0]
    distances.append(np.abs(video.astype(int) - old).mean())
  assert 0 < distances[0] < 0.9 * distances[1], distances


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ([], "nothing is to be made anew; give --span"),
    (["--span=0.4:9"], "--span=0.4:9 ends after the clip, which lasts 0.6 s"),
    (["--span=0.4:0.2"], "give seconds FROM:TO"),
    (["--span=now"], "give seconds FROM:TO, such as 0.4:0.9, not 'now'"),
    (["--box=4,2,80,5"], "does not lie in the model's frames of 16x16"),
    (["--box=4,2"], "give X,Y,WIDTH,HEIGHT"),
    (["--keep=video", "--box=0,0,4,4"], "leaves nothing to paint in"),
    (["--keep=video", "--span=0:0.1", "--keep=all"], "give one of video"),
    (["--mask=nothing.png"], "--mask=nothing.png: No such file"),
    (["--extend=after", "--span=0:0.2"], "--extend stands alone"),
    (["--strength=0"], "--strength=0.0: give a number above 0, up to 1"),
    (["--span=0:0.2", "--duration=3"], "--duration has an effect with"),
    (["--between=a.mp4"], "--between=a.mp4: give two files"),
  ],
)
def test_what_cannot_be_edited_is_one_line(
  run, source, tmp_path, capsys, flags, message
):
  assert edit(run, tmp_path / "out", f"--source={source}", *flags) == 1
  error = capsys.readouterr().err
  assert message in error and "Traceback" not in error
  assert not (tmp_path / "out").exists()


def test_masks_that_do_not_fit_are_one_line(run, source, tmp_path, capsys):
  for size, value, message in (
    ((8, 16), 255, "has 16x8 pixels; the model's frames have 16x16"),
    ((16, 16), 0, "is black"),
  ):
    Image.fromarray(np.full(size, value, np.uint8)).save(tmp_path / "m.png")
    flags = f"--source={source}", f"--mask={tmp_path / 'm.png'}"
    assert edit(run, tmp_path / "out", *flags) == 1
    assert message in capsys.readouterr().err


def test_flags_of_an_edit_need_the_condition(run, source, tmp_path, capsys):
  arguments = ["sample", f"--checkpoint={run}", f"--output={tmp_path / 'o'}"]
  assert main([*arguments, "--span=0:0.2"]) == 1
  assert "needs --condition=edit" in capsys.readouterr().err


def test_an_edit_is_a_condition_for_python(spec):
  video = np.zeros((1, *spec.video_shape), np.float32)
  audio = np.zeros((1, *spec.audio_shape), np.float32)
  condition = Edit(span=(0.2, 0.4), keep="audio").condition(
    video, audio, spec, method="clean"
  )
  assert condition.mask["audio"].all()
  assert condition.mask["video"][0, :, 0, 0, 0].tolist() == [
    True, True, False, False, True, True,
  ]  # fmt: skip
