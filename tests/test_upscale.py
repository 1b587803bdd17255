"""Upsampling clips: shared noise, chunks, sizes, solvers, files."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import default
from mmdiff_jax import checkpoint
from mmdiff_jax.av import AVSpec
from mmdiff_jax.convert import importer
from mmdiff_jax.devices import memory
from mmdiff_jax.devices.mesh import make_mesh
from mmdiff_jax.media import reading, writing
from mmdiff_jax.sampling import generate
from mmdiff_jax.sampling.parameters import load_sampling_params
from mmdiff_jax.sampling.upscale import (
  Upscaler,
  upscale,
)
from mmdiff_jax.task import make_task
from mmdiff_jax.world.clips import make_clip
from tests import sr_fixtures, unet_golden
from tests.command_line import call
from tests.conftest import make_tiny_config

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  config = sr_fixtures.make_tiny_sr_config()
  return sr_fixtures.save_random(config, tmp_path_factory.mktemp("sr"))


@pytest.fixture(scope="module")
def video():
  return np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)


def upscaler(run, seed=0, sampler=None, **sr):
  settings = default.get_config()
  settings.sr.update(chunk_frames=5, **sr)
  settings.sr.sample.update(sampler or {})
  return Upscaler(run, settings, make_mesh(), seed)


@pytest.fixture(scope="module")
def plain(run, video):
  """The clip upsampled with all settings as they are by default."""
  return upscaler(run)(video, 0)


def test_clip_grows_by_the_factor_and_is_not_blank(plain, video):
  assert plain.shape == (5, 16, 16, 3) and plain.dtype == np.uint8
  assert plain.std() > 5


def test_shared_noise_makes_equal_frames_equal(run, video):
  still = np.repeat(video[:1], 5, axis=0)
  shared = upscaler(run)(still, 0)
  assert all((frame == shared[0]).all() for frame in shared)
  apart = upscaler(run, share_noise=False)(still, 0)
  for i in range(5):
    for j in range(i):
      assert np.mean(apart[i] != apart[j]) > 0.1


@pytest.mark.parametrize("share", [True, False])
def test_chunks_do_not_change_the_result(run, video, share):
  up = upscaler(run, share_noise=share)
  whole = up(video, 0)
  up.config.sr.chunk_frames = 2
  assert np.abs(up(video, 0).astype(int) - whole).max() <= 1


def test_seed_and_clip_number_change_the_noise(run, video, plain):
  for other in (upscaler(run)(video, 1), upscaler(run, seed=1)(video, 0)):
    assert np.mean(other != plain) > 0.1


def test_frames_larger_than_those_of_training_are_upsampled(run):
  large = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 3), np.uint8)
  up = upscaler(run)
  result = up(large, 0)
  assert result.shape == (2, 32, 24, 3)
  # Every part of the picture follows its own part of the input.
  changed = large.copy()
  changed[:, -2:] = 255 - changed[:, -2:]
  difference = np.abs(up(changed, 0).astype(int) - result).mean((0, 2, 3))
  assert difference[-8:].mean() > 2 * difference[:8].mean()


@pytest.mark.parametrize(
  ("sampler", "nfe"),
  [
    ({}, 2),
    ({"steps": 3}, 3),
    ({"sampler": "ddpm", "steps": 4}, 4),
    ({"sampler": "dpm_solver++", "steps": 4, "order": 2}, 4),
    ({"sampler": "dpm_solver", "steps": 3, "method": "multistep"}, 3),
  ],
)
def test_every_solver_upsamples(run, video, plain, sampler, nfe):
  up = upscaler(run, sampler=sampler)
  result = up(video, 0)
  assert up.nfe == nfe
  assert (np.mean(result != plain) > 0.1) == bool(sampler)


def test_learned_variance_moves_the_ancestral_sampler_alone(
  run, video, tmp_path
):
  """The second half of the head's channels is the variance."""
  config = checkpoint.load_config(run)
  params = jax.device_get(
    load_sampling_params(make_task(config), run, make_mesh())
  )
  bias = np.array(params["head"]["bias"])
  assert bias.shape == (6,)
  bias[3:] += 3.0
  params["head"]["bias"] = bias
  checkpoint.save_params(tmp_path, params, config)
  for name, moves in (("ddim", False), ("ddpm", True)):
    sampler = {"sampler": name, "steps": 4}
    a, b = (upscaler(p, sampler=sampler)(video, 0) for p in (run, tmp_path))
    assert (a != b).any() == moves


@pytest.mark.parametrize(
  ("sampler", "message"),
  [
    ({"sampler": "euler"}, "unknown sampler 'euler'.*ddim"),
    ({"order": 2}, "'order' does not apply to 'ddim'"),
  ],
)
def test_senseless_samplers_are_refused_before_the_work(run, sampler, message):
  with pytest.raises(ValueError, match=message):
    upscaler(run, sampler=sampler)


def test_sizes_that_cannot_be_halved_are_named(tmp_path):
  config = sr_fixtures.make_tiny_sr_config()
  config.model.channel_mult = (1, 1, 1, 1)
  abstract = jax.eval_shape(make_task(config).init, jax.random.key(0))
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
  checkpoint.save_params(tmp_path, zeros, config)
  up = upscaler(tmp_path)
  up.check_size(4, 6)
  with pytest.raises(ValueError, match="5x6 pixels.*by 4.*multiples of 8"):
    up(np.zeros((1, 5, 6, 3), np.uint8), 0)


def test_wrong_checkpoints_and_chunks_are_refused(run, tmp_path):
  with pytest.raises(ValueError, match="chunk_frames=0 must be positive"):
    settings = default.get_config()
    settings.sr.chunk_frames = 0
    Upscaler(run, settings, make_mesh(), 0)
  checkpoint.save_params(tmp_path, {"x": np.zeros(1)}, make_tiny_config())
  with pytest.raises(ValueError, match="holds av_unet; a super-resolution"):
    upscaler(tmp_path)


DEVICES = """
import sys
import jax, numpy as np
from tests import test_upscale
video = np.load(sys.argv[2])
assert jax.device_count() == 8
np.save(sys.argv[3], test_upscale.upscaler(sys.argv[1])(video, 0))
"""


def test_eight_devices_upsample_as_one(run, video, plain, tmp_path):
  source, target = tmp_path / "in.npy", tmp_path / "out.npy"
  np.save(source, video)
  result = subprocess.run(
    [sys.executable, "-c", DEVICES, run, str(source), str(target)],
    cwd=ROOT,
    env=os.environ
    | {
      "PYTHONPATH": str(ROOT),
      "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    },
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr[-3000:]
  assert np.abs(np.load(target).astype(int) - plain).max() <= 1


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
  """A joint model of 4 frames of 8 x 8 pixels."""
  config = make_tiny_config()
  config.data.update(frames=4, height=8, width=8)
  config.sample.steps = 2
  config.sample.batch_size = 2
  return config, sr_fixtures.save_random(
    config, tmp_path_factory.mktemp("joint")
  )


def test_cascade_writes_both_sizes_with_the_same_sound(joint, run, tmp_path):
  """With a given sound, for longer than a clip: the hardest case."""
  config, path = joint
  spec = AVSpec.from_config(config.data)
  long = AVSpec(9, 16, 16, spec.fps, spec.sample_rate)
  bell = tmp_path / "bell.wav"
  writing.write_wav(bell, make_clip(1, long).audio, spec.sample_rate)
  options = {
    "checkpoint_path": path,
    "output": str(tmp_path / "out"),
    "num_samples": 2,
    "seed": 0,
    "formats": ("mp4", "wav"),
    "condition": "audio",
    "source": str(bell),
    "duration": 0.9,
    "overlap": 0.2,
  }
  statistics = generate.sample(config, sr_checkpoint=run, **options)
  assert statistics["sr_nfe"] == 2
  index = json.loads((tmp_path / "out/samples.json").read_text())
  large = []
  for k, record in enumerate(index["samples"]):
    assert record["upscaled"] == f"bell_{k:03d}_32.mp4"
    pair = [
      reading.read_media(tmp_path / "out" / record[key])
      for key in ("file", "upscaled")
    ]
    assert [clip.video.shape for clip in pair] == [
      (9, 8, 8, 3),
      (9, 32, 32, 3),
    ]
    assert pair[0].fps == pair[1].fps
    np.testing.assert_array_equal(pair[0].audio, pair[1].audio)
    large.append(pair[1].video)
  assert np.mean(large[0] != large[1]) > 0.1
  sounds = [
    (tmp_path / f"out/bell_{name}.wav").read_bytes()
    for name in ("000", "000_32", "001_32")
  ]
  assert sounds == [bell.read_bytes()] * 3
  # All is there, also for other chunks and the checkpoint in another place.
  moved = shutil.copytree(run, tmp_path / "moved")
  config = config.copy_and_resolve_references()
  config.sr.chunk_frames = 2
  generate.sample(config, sr_checkpoint=str(moved), **options)
  after = json.loads((tmp_path / "out/samples.json").read_text())
  assert after == index
  other = sr_fixtures.save_random(
    sr_fixtures.make_tiny_sr_config(), tmp_path / "other"
  )
  with pytest.raises(ValueError, match=r"\(sr_checkpoint_fingerprint: "):
    generate.sample(config, sr_checkpoint=other, **options)


def streams(path):
  """Kind -> duration in seconds of the streams of a file."""
  import av

  with av.open(str(path)) as container:
    return {s.type: float(s.duration * s.time_base) for s in container.streams}


def test_upscaled_file_keeps_rate_length_and_sound(run, tmp_path):
  video = np.random.default_rng(0).integers(0, 256, (8, 6, 8, 3), np.uint8)
  time = np.arange(8 * 1600)[:, None] / 8000
  # Stereo: another tone on each side.
  audio = 0.5 * np.sin(2 * np.pi * time * [440, 660]).astype(np.float32)
  source = tmp_path / "ball.mp4"
  writing.write_mp4(source, video, audio, fps=5.0, sample_rate=8000)
  [path] = upscale(
    default.get_config(),
    sr_checkpoint=run,
    source=str(source),
    output=str(tmp_path / "out"),
    seed=0,
  )
  assert path == tmp_path / "out/ball_24.mp4"
  old, new = (reading.read_media(p, channels="all") for p in (source, path))
  assert new.video.shape == (8, 24, 32, 3) and new.fps == 5.0
  assert new.audio.shape == old.audio.shape == (12800, 2)
  error = new.audio - old.audio
  assert np.sqrt(np.mean(error**2)) < 0.1 * np.sqrt(np.mean(old.audio**2))
  before, after = streams(source), streams(path)
  assert before.keys() == after.keys() == {"video", "audio"}
  for kind, seconds in before.items():
    assert abs(after[kind] - seconds) < 0.05


def test_frames_that_do_not_fit_into_memory_are_refused(
  run, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(memory, "available_host_bytes", lambda: 1000)
  source = tmp_path / "mute.mp4"
  writing.write_mp4(source, np.zeros((5, 4, 4, 3), np.uint8), fps=10)
  flags = [
    "upscale", f"--sr_checkpoint={run}", f"--source={source}",
    f"--output={tmp_path / 'out'}", "--config.sr.chunk_frames=5",
  ]  # fmt: skip
  assert call(*flags) == 1
  line = capsys.readouterr().err.splitlines()[-1]
  assert line.startswith("error: The sampler needs ")
  assert "config.sr.chunk_frames (now 5), smaller frames (now 4x4)" in line
  assert call(*flags, "--force") == 0
  assert (tmp_path / "out" / "mute_16.mp4").exists()


def test_file_without_sound_stays_without(run, tmp_path):
  source = tmp_path / "mute.mp4"
  writing.write_mp4(source, np.zeros((5, 4, 4, 3), np.uint8), fps=10)
  [path] = upscale(
    default.get_config(),
    sr_checkpoint=run,
    source=str(source),
    output=str(tmp_path / "out"),
    seed=0,
  )
  assert streams(path).keys() == {"video"}


def test_a_folder_gives_what_its_files_give_alone(run, tmp_path, caplog):
  folder = tmp_path / "in"
  generator = np.random.default_rng(0)
  for name in ("a.mp4", "below/b.mp4"):
    frames = generator.integers(0, 256, (5, 4, 4, 3), np.uint8)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    writing.write_mp4(folder / name, frames, fps=10)
  (folder / "bad.mp4").write_bytes(b"no video")

  def up(source, output):
    return upscale(
      default.get_config(),
      sr_checkpoint=run,
      source=str(source),
      output=str(tmp_path / output),
      seed=0,
    )

  paths = up(folder, "all")
  all_ = tmp_path / "all"
  assert paths == [all_ / "a_16.mp4", all_ / "below/b_16.mp4"]
  assert "Left out: " in caplog.text and "bad.mp4" in caplog.text
  [alone] = up(folder / "below/b.mp4", "one")
  assert alone == tmp_path / "one/b_16.mp4"
  assert alone.read_bytes() == paths[1].read_bytes()
  (folder / "a.mp4").rename(folder / "bad.mov")
  with pytest.raises(ValueError, match=r"bad\.m.* and bad\.m.* the same name"):
    up(folder, "twice")


def test_class_conditional_checkpoint_becomes_an_initialisation(
  tmp_path, monkeypatch, caplog
):
  """guided-diffusion's upsampler: the same keys and a class embedding."""
  case = unet_golden.load_json("sr_tiny.json")
  weights = unet_golden.state_dict("sr_tiny_keys.json")
  weights["label_emb.weight"] = np.ones((1000, 128), np.float32)
  monkeypatch.setattr(importer, "load_weight_file", lambda path: weights)
  config = sr_fixtures.make_tiny_sr_config()
  config.model.update(
    channel_mult=tuple(case["channel_mult"]),
    num_res_blocks=case["num_res_blocks"],
    attention_resolutions=tuple(case["attention_resolutions"]),
    num_heads=case["num_heads"],
    learn_sigma=False,
  )
  with caplog.at_level("INFO"):
    importer.import_checkpoint(
      config, source="upsampler.pt", workdir=str(tmp_path)
    )
  assert "Left out label_emb.weight: the class embedding" in caplog.text
  up = upscaler(tmp_path)
  assert up.config.model.learn_sigma
  stem = up._params["stem"]["kernel"]
  np.testing.assert_array_equal(
    stem, weights["input_blocks.0.0.weight"].transpose(2, 3, 1, 0)
  )
