"""One stream after the other, and streams guided by each other, to files."""

import jax
import numpy as np
import pytest

from mmdiff_jax import checkpoint, models
from mmdiff_jax.cli import main
from mmdiff_jax.media import reading
from mmdiff_jax.task import make_task
from tests.toy import Toy, ToyNetwork, make_toy_config


class Coupled(Toy):
  """Each stream also sees the other one's mean, and its level."""

  def __call__(self, x, t):
    video, audio = (
      leaf.reshape(len(leaf), -1) for leaf in (x["video"], x["audio"])
    )
    shift = {
      "video": 0.5 * audio.mean(1) + t["audio"] / 1000,
      "audio": 0.5 * video.mean(1) + t["video"] / 1000,
    }
    out = super().__call__(x, t["video"])
    return {
      k: v + shift[k].reshape(-1, *(1,) * (v.ndim - 1)) for k, v in out.items()
    }


class CoupledNetwork(ToyNetwork):
  module_cls = Coupled
  levels = "stream"

  def __call__(self, module, x, t, inputs, train):
    if not isinstance(t, dict):
      t = dict.fromkeys(x, t)
    return module(x, t)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Checkpoints of a network with mixed and one with shared levels."""
  models.register("coupled", CoupledNetwork)
  folders = {}
  for levels in ("mixed", "shared"):
    config = make_toy_config()
    config.model.name = "coupled"
    config.data.frames = 4
    config.train.levels = levels
    config.train.level_shares.clean_frames = 0.0
    config.sample.update(sampler="ddim", steps=3, batch_size=2)
    folders[levels] = tmp_path_factory.mktemp(levels)
    params = make_task(config).init(jax.random.key(0))
    checkpoint.save_params(folders[levels], params, config)
  return folders


def sample(run, output, *flags):
  return main(
    [
      "sample",
      f"--checkpoint={run}",
      f"--output={output}",
      "--num_samples=1",
      "--formats=wav",
      "--config.compilation_cache=",
      *flags,
    ]
  )


def sound(output):
  return reading.read_audio(output / "sample_000000.wav")[0]


def test_each_way_to_couple_streams_makes_other_clips(runs, tmp_path):
  ways = {
    "joint": [],
    "guided": ["--config.sample.coupling_audio=3.0"],
    "not guided": ["--config.sample.coupling_audio=1.0"],
    "audio first": ["--config.sample.sequence=audio_first"],
    "video first": ["--config.sample.sequence=video_first"],
  }
  made = {}
  for name, flags in ways.items():
    assert sample(runs["mixed"], tmp_path / name, *flags) == 0
    made[name] = sound(tmp_path / name)
  np.testing.assert_allclose(made["not guided"], made["joint"], atol=1e-4)
  others = [made[n] for n in ways if n != "not guided"]
  for i, a in enumerate(others):
    for b in others[:i]:
      assert np.abs(a - b).max() > 1e-3


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("coupling_video=2.0", "coupling_video needs a network that was trained"),
    ("sequence=audio_first", "sequence='audio_first' needs a network that"),
    ("sequence=first", "sequence='first' is unknown; allowed are joint, audio"),
  ],
)
def test_shared_levels_cannot_leave_a_stream_out(
  runs, tmp_path, capsys, flag, message
):
  flag = f"--config.sample.{flag}"
  assert sample(runs["shared"], tmp_path / "out", flag) == 1
  assert message in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


def test_a_known_stream_leaves_no_sequence(runs, tmp_path, capsys):
  flags = "--config.sample.sequence=audio_first", "--condition=audio"
  assert sample(runs["mixed"], tmp_path, *flags, "--source=a.wav") == 1
  assert "has no effect with --condition=audio" in capsys.readouterr().err
