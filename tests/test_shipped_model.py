"""The model that comes with the project is as its config and log say."""

import pathlib

import numpy as np
import pytest

from configs import default, shapes, shapes_mixed
from mmdiff_jax import checkpoint
from mmdiff_jax.devices.mesh import make_mesh
from mmdiff_jax.sampling.clip_sampler import ClipSampler, Lengths
from mmdiff_jax.sampling.known_sources import Job
from mmdiff_jax.sampling.parameters import load_sampling_params
from mmdiff_jax.task import make_task
from mmdiff_jax.training import metrics
from mmdiff_jax.world import sync

FOLDER = pathlib.Path(__file__).parents[1] / "mmdiff_jax" / "assets" / "shapes"
PATH = FOLDER / "checkpoint"


def test_its_config_is_the_one_of_the_project():
  stored, config = checkpoint.load_config(PATH), shapes_mixed.get_config()
  for section in ("model", "diffusion", "data"):
    # A key that is newer than the model has its neutral value in it.
    for key, value in stored[section].items():
      assert config[section][key] == value, (section, key)


def test_it_is_small_and_names_no_place():
  files = [file for file in FOLDER.rglob("*") if file.is_file()]
  assert sum(file.stat().st_size for file in files) < 10e6
  home = str(pathlib.Path.home()).encode()
  assert not any(home in file.read_bytes() for file in files)


def test_its_logs_tell_of_a_falling_loss():
  log = metrics.read_jsonl(FOLDER / "metrics.jsonl")
  assert log[-1]["step"] == shapes.get_config().train.num_steps
  assert log[-1]["loss"] < 0.3 * log[0]["loss"]
  log = metrics.read_jsonl(FOLDER / "metrics_mixed.jsonl")
  assert log[-1]["step"] == shapes_mixed.get_config().train.num_steps
  losses = [record["loss"] for record in log]
  assert np.mean(losses[-6:]) < np.mean(losses[:6])


@pytest.fixture(scope="module")
def samples():
  config = checkpoint.load_config(PATH)
  config.sample = default.get_config().sample
  config.sample.update(
    sampler="dpm_solver++", method="multistep", order=2, steps=15
  )
  config.sample.batch_size = 16
  task, mesh = make_task(config), make_mesh()
  sampler = ClipSampler(
    task,
    config.sample,
    Lengths(task.spec.frames, None),
    load_sampling_params(task, PATH, mesh),
    mesh,
    seed=3,
  )
  return (
    *sampler([Job(str(i), i) for i in range(16)]),
    task.spec,
  )


def test_its_sounds_belong_to_its_pictures(samples):
  """Far beyond chance; the figures proper are in docs/synthetic.md."""
  report = sync.sync_report(*samples)
  assert report["events_a"] >= 16 and report["events_b"] >= 16
  assert report["onset_f1_corrected"] > 0.25


def test_its_clips_differ(samples):
  video, audio, _ = samples
  flat = video.reshape(len(video), -1).astype(np.float32)
  distances = ((flat[:, None] - flat[None]) ** 2).mean(-1)
  assert np.median(distances[~np.eye(len(flat), dtype=bool)]) > 10
  assert np.isfinite(audio).all()
