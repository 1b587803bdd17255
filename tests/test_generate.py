"""Sampling to files: reproducibility, long clips, the folder."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from configs import default
from mmdiff_jax import checkpoint
from mmdiff_jax.av import AVSpec
from mmdiff_jax.media import reading
from mmdiff_jax.media.files import listed_geometry
from mmdiff_jax.sampling import generate
from mmdiff_jax.task import make_task
from tests import sampling_fixtures
from tests.conftest import make_tiny_config
from tests.sampling_fixtures import read_frames, read_wav, records, sample
from tests.toy import make_toy_config

config = sampling_fixtures.config
run = sampling_fixtures.run
spec = sampling_fixtures.spec


@pytest.fixture(scope="module")
def joint_config():
  """The joint network, whose samples could depend on their batch."""
  config = make_tiny_config()
  config.data.frames = 4
  config.sample.update(steps=2, batch_size=2)
  return config


@pytest.fixture(scope="module")
def joint_run(joint_config, tmp_path_factory):
  """A checkpoint whose network does something: no zero-initialised layers."""
  workdir = tmp_path_factory.mktemp("joint_run")
  params = make_task(joint_config).init(jax.random.key(0))
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  params = tree.unflatten(
    leaf + 0.05 * jax.random.normal(key, leaf.shape)
    for key, leaf in zip(keys, leaves, strict=True)
  )
  checkpoint.save_params(workdir, params, joint_config)
  return str(workdir)


@pytest.fixture(scope="module")
def joint_samples(joint_config, joint_run, tmp_path_factory):
  output = tmp_path_factory.mktemp("joint_samples")
  sample(joint_config, joint_run, output, formats=("mp4", "wav", "png"))
  return output


@pytest.fixture(scope="module")
def samples(config, run, tmp_path_factory):
  output = tmp_path_factory.mktemp("samples")
  sample(config, run, output, formats=("mp4", "wav", "png", "gif"))
  return output


def test_files_hold_clips_of_the_configured_geometry(samples, spec):
  assert [r["file"] for r in records(samples)] == [
    f"sample_{i:06d}.mp4" for i in range(3)
  ]
  clip = reading.read_media(samples / "sample_000000.mp4")
  assert clip.video.shape == spec.video_shape
  assert clip.fps == spec.fps
  assert len(read_wav(samples / "sample_000000.wav")) == spec.audio_length
  assert read_frames(samples / "sample_000000").shape == spec.video_shape
  assert (samples / "grid.gif").stat().st_size > 0


def test_statistics_count_the_network_evaluations(samples):
  content = json.loads((samples / "samples.json").read_text())
  assert content["statistics"]["nfe"] == 2
  assert content["statistics"]["peak_memory_bytes"] > 1e6
  assert content["settings"]["seed"] == 0


def test_samples_differ_from_each_other_and_from_another_seed(
  joint_config, joint_run, joint_samples, tmp_path
):
  sample(joint_config, joint_run, tmp_path, num_samples=1, seed=1)
  clips = [read_wav(joint_samples / f"sample_{i:06d}.wav") for i in range(3)]
  clips.append(read_wav(tmp_path / "sample_000000.wav"))
  for i in range(4):
    for j in range(i):
      assert np.mean(clips[i] != clips[j]) > 0.5


def test_a_sample_does_not_depend_on_the_batch(
  joint_config, joint_run, joint_samples, tmp_path
):
  config = joint_config.copy_and_resolve_references()
  config.sample.batch_size = 1
  sample(config, joint_run, tmp_path)
  for i in range(3):
    name = f"sample_{i:06d}"
    a, b = (read_wav(d / f"{name}.wav") for d in (joint_samples, tmp_path))
    assert np.abs(a.astype(int) - b).max() <= 1
    a, b = (read_frames(d / name) for d in (joint_samples, tmp_path))
    assert np.abs(a.astype(int) - b).max() <= 1


def test_existing_samples_are_not_made_again(config, run, samples):
  kept, missing = (samples / f"sample_{i:06d}.mp4" for i in (0, 2))
  before = kept.stat().st_mtime_ns
  content = (samples / "sample_000002.wav").read_bytes()
  missing.unlink()
  sample(config, run, samples, formats=("mp4", "wav", "png", "gif"))
  assert kept.stat().st_mtime_ns == before
  assert missing.exists()
  assert (samples / "sample_000002.wav").read_bytes() == content


def test_folder_of_other_settings_is_an_error(config, run, samples):
  config = config.copy_and_resolve_references()
  config.sample.steps = 3
  with pytest.raises(ValueError, match="other settings") as error:
    sample(config, run, samples, seed=5)
  differing = "(sample.steps: 2, now 3; seed: 0, now 5)"
  assert differing in str(error.value)


def test_what_samples_do_not_depend_on_may_change(
  config, run, samples, tmp_path, monkeypatch
):
  """A smaller batch, and the same checkpoint in another place."""
  moved = shutil.copytree(run, tmp_path / "moved")
  output = shutil.copytree(samples, tmp_path / "out")
  config = config.copy_and_resolve_references()
  config.sample.batch_size = 1
  monkeypatch.setattr(generate, "_write", None)  # Nothing is left to do.
  sample(config, str(moved), output)
  settings = json.loads((output / "samples.json").read_text())["settings"]
  assert settings["checkpoint"].startswith(run)


def test_another_checkpoint_in_the_same_place_is_an_error(
  config, run, samples, tmp_path
):
  moved = shutil.copytree(run, tmp_path / "moved")
  output = shutil.copytree(samples, tmp_path / "out")
  params = make_task(config).init(jax.random.key(5))
  shutil.rmtree(moved)
  checkpoint.save_params(moved, params, config)
  with pytest.raises(ValueError, match=r"settings \(checkpoint_fingerprint: "):
    sample(config, str(moved), output)


@pytest.mark.parametrize(
  ("asked", "line"),
  [
    ({}, "ddim, 2 steps, batches of 2, guidance: none"),
    ({"steps": 3}, "ddim, 3 steps, batches of 2"),
    ({"sampler": "dpm_solver", "steps": 4}, "dpm_solver, 4 steps"),
    ({"batch_size": 1, "eta": 1.0}, "ddim, 2 steps, batches of 1"),
  ],
)
def test_the_sampler_is_the_checkpoints_own_but_for_what_is_asked_for(
  run, tmp_path, caplog, capfd, asked, line
):
  caplog.set_level("INFO", "mmdiff_jax")
  # The default configuration says DDPM with a thousand steps.
  result = sample(
    default.get_config(), run, tmp_path, num_samples=2, asked=asked
  )
  assert f"Sampler: {line}" in caplog.text
  settings = json.loads((tmp_path / "samples.json").read_text())["settings"]
  assert settings["sample"]["sampler"] == asked.get("sampler", "ddim")
  assert settings["sample"]["steps"] == asked.get("steps", 2) == result["nfe"]
  assert settings["sample"]["eta"] == asked.get("eta")
  # The bar counts steps, of all batches.
  steps = result["nfe"] * 2 // settings["batch_size"]
  assert f"{steps}/{steps}" in capfd.readouterr().err


def test_samples_say_their_geometry(run, tmp_path):
  config = make_toy_config()
  sample(config, run, tmp_path, num_samples=1, duration=0.9, overlap=0.2)
  expected = dataclasses.asdict(AVSpec.from_config(config.data))
  expected |= {"frames": 9, "fit": "pad"}
  assert listed_geometry(tmp_path) == expected


def test_overlap_counts_only_where_it_is_used(config, run, tmp_path):
  one_clip = {"duration": 0.4, "overlap": 0.3}
  sample(config, run, tmp_path / "a", num_samples=1, **one_clip)
  sample(config, run, tmp_path / "a", num_samples=1)
  sample(config, run, tmp_path / "b", num_samples=1, duration=0.6, overlap=0.2)
  with pytest.raises(ValueError, match=r"\(overlap_frames: 2, now 3\)"):
    sample(
      config, run, tmp_path / "b", num_samples=1, duration=0.6, overlap=0.3
    )


@pytest.mark.parametrize(
  "content", ['{"settings": {', "{}", "[1]", '{"settings": {}, "samples": [1]}']
)
def test_damaged_listing_is_named(config, run, tmp_path, content):
  (tmp_path / "samples.json").write_text(content)
  with pytest.raises(
    ValueError, match="samples.json is not a listing"
  ) as error:
    sample(config, run, tmp_path)
  assert "\n" not in str(error.value)


def test_output_that_is_a_file_is_refused_before_the_work(run, tmp_path):
  (tmp_path / "out").write_text("")
  for output in (tmp_path / "out", tmp_path / "out" / "below"):
    # Without a configuration: nothing else is looked at before.
    with pytest.raises(NotADirectoryError, match="out is not a folder"):
      sample(None, run, output)


def test_long_samples_have_the_length_asked_for_and_no_seams(
  config, run, spec, tmp_path
):
  sample(config, run, tmp_path, num_samples=1, duration=1.1, overlap=0.2)
  clip = reading.read_media(tmp_path / "sample_000000.mp4")
  assert len(clip.video) == 11
  assert len(read_wav(tmp_path / "sample_000000.wav")) == 2200


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"condition": "audio"}, "needs --source"),
    ({"source": "x.wav"}, "without --condition"),
    ({"condition": "audio", "source": "nowhere.wav"}, "nowhere.wav"),
    ({"duration": 0.1}, "shorter than the model's clip"),
    ({"duration": 1.0, "overlap": 0.4}, "overlap of 4 frames"),
    ({"duration": float("inf")}, "--duration=inf"),
    ({"duration": float("nan")}, "--duration=nan"),
    ({"duration": 1e308}, "--duration=1e.308"),
    ({"duration": 1.0, "overlap": float("nan")}, "--overlap=nan"),
    ({"overlap": 0.2}, "--overlap=0.2 has no effect without --duration"),
    ({"overlap": 0.2, "condition": "audio", "source": "x.wav"}, "no effect"),
    ({"formats": ("mp5",)}, "mp4, wav, png, gif"),
    ({"formats": ("wav", "gif")}, "add mp4"),
  ],
)
def test_senseless_requests_are_one_clear_line(
  config, run, tmp_path, options, message
):
  with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
    sample(config, run, tmp_path / "out", **options)
  assert "\n" not in str(error.value)
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("settings", "options", "message"),
  [
    ({"condition_method": "magic"}, {}, "'magic'; allowed are clean"),
    ({"condition_method": "resampling"}, {}, "condition_method=resampling has"),
    ({"resample_jump": 2}, {}, "only 'resampling' takes it"),
    (
      {"condition_method": "gradient", "guidance_scale": 2.0},
      {},
      "condition_method=gradient has no effect without --condition or",
    ),
    (
      {"condition_method": "gradient"},
      {"duration": 1.0},
      "gradient needs config.sample.guidance_scale above 0, got None",
    ),
    (
      {"condition_method": "gradient", "guidance_scale": 0.0},
      {"duration": 1.0},
      "gradient needs config.sample.guidance_scale above 0, got 0.0",
    ),
    ({"guidance_scale": 2.0}, {"duration": 1.0}, "only 'gradient' takes"),
  ],
)
def test_senseless_options_of_conditioning_are_errors(
  config, run, tmp_path, settings, options, message
):
  config = config.copy_and_resolve_references()
  config.sample.update(settings)
  with pytest.raises(ValueError, match=message):
    sample(config, run, tmp_path / "out", **options)
  assert not (tmp_path / "out").exists()


def test_option_of_another_sampler_is_an_error(config, run, tmp_path):
  config = config.copy_and_resolve_references()
  config.sample.order = 3
  with pytest.raises(ValueError, match="'order' does not apply to 'ddim'"):
    sample(config, run, tmp_path / "out")
