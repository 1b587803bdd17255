"""Synchformer against independent numbers, and DeSync from evaluation down."""

import functools

import jax
import numpy as np
import pytest

from mmdiff_jax import convert
from mmdiff_jax.av import AVSpec
from mmdiff_jax.evaluation import weights
from mmdiff_jax.evaluation.descriptors import resample
from mmdiff_jax.metric_networks import synchformer, synchformer_inputs
from tests.evaluation_fixtures import run
from tests.metric_golden import DATA, key_shapes, published_weights, rng

# The golden network, small; the published one has the same layers.
SMALL = {
  "width": 48,
  "depth": 2,
  "heads": 4,
  "joint_depth": 2,
  "joint_heads": 3,
}
FRAMES = 136


@pytest.fixture(scope="module")
def published():
  return published_weights("synchformer_small")


@pytest.fixture(scope="module")
def variables(published):
  return convert.convert_checkpoint(published, "synchformer", SMALL)


@pytest.fixture
def small(monkeypatch):
  """Files of weights are those of the small network."""
  monkeypatch.setattr(
    weights,
    "convert_checkpoint",
    functools.partial(convert.convert_checkpoint, model_config=SMALL),
  )


@pytest.fixture(scope="module")
def golden():
  return np.load(DATA / "synchformer_small_pub.npz")


@pytest.fixture(scope="module")
def video():
  draw = rng("pub/synchformer/video")
  return draw.integers(0, 256, (2, FRAMES, 30, 40, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def wave():
  draw = rng("pub/synchformer/audio")
  return (0.1 * draw.standard_normal((2, FRAMES * 640))).astype(np.float32)


def test_the_network_gives_the_golden_logits(variables, golden, video, wave):
  logits = synchformer.offset_logits(
    variables, video, wave, synchformer.Sizes(**SMALL)
  )
  assert logits.shape == (2, 2, 21)
  np.testing.assert_allclose(logits, golden["logits"], atol=2e-3)
  # The two ends, and the two clips, are no more alike than that.
  assert np.abs(golden["logits"][:, 0] - golden["logits"][:, 1]).max() > 0.1
  assert np.abs(golden["logits"][0] - golden["logits"][1]).max() > 0.1


def test_frames_and_spectrogram_are_the_golden_ones(golden, video, wave):
  frames = synchformer_inputs.preprocess_frames(video[1])
  part = np.asarray(frames).transpose(0, 3, 1, 2)[::16, :, ::16, ::16]
  # Resized with whole numbers there: two grey levels apart at most.
  np.testing.assert_allclose(part, golden["frames"], atol=2.1 / 127.5)
  starts = np.arange(1 + (FRAMES - 16) // 8)[:, None] * 5120
  spectrogram = synchformer_inputs.log_mel(wave[1][starts + np.arange(10240)])
  np.testing.assert_allclose(
    spectrogram[::4, ::6, ::8], golden["log_mel"], atol=1e-5
  )


def test_the_published_checkpoint_converts_whole():
  state_dict = {
    key: np.broadcast_to(np.float32(0), shape)
    for key, shape in key_shapes("synchformer").items()
  }
  variables = convert.convert_checkpoint(state_dict, "synchformer")
  assert sum(x.size for x in jax.tree.leaves(variables)) == 236_869_653
  state_dict["transformer.sync_head.weight"] = np.zeros((2, 768))
  with pytest.raises(ValueError, match="unexpected .1.: transformer.sync_head"):
    convert.convert_checkpoint(state_dict, "synchformer")


def test_of_a_long_clip_only_the_ends_are_looked_at(variables, video, wave):
  # 38 segments, of which ten in the middle are in neither end.
  long = np.tile(video[:1], (1, 3, 1, 1, 1))[:, :312]
  sound = np.tile(wave[:1], (1, 3))[:, : 312 * 640]
  changed = long.copy()
  changed[:, 120:192] = 0
  logits = synchformer.offset_logits(
    variables,
    np.concatenate([long, changed]),
    np.concatenate([sound, sound]),
    synchformer.Sizes(**SMALL),
  )
  np.testing.assert_allclose(logits[0], logits[1], atol=1e-5)


@pytest.mark.parametrize(
  ("frames", "fps", "shown"),
  [
    (5, 25, [0, 1, 2, 3, 4]),
    (4, 10, [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]),
    (4, 50, [0, 2]),
    (6, 30, [0, 1, 2, 4, 5]),
  ],
)
def test_frames_are_shown_25_times_a_second(frames, fps, shown):
  assert synchformer_inputs.at_25_fps(frames, fps).tolist() == shown


@pytest.mark.parametrize(
  ("video", "wave", "message"),
  [
    (np.zeros((1, 120, 8, 8, 3)), np.zeros((1, 76800)), "uint8"),
    (np.zeros((1, 120, 8, 8, 3), np.uint8), np.zeros(76800), "mono waves"),
    (
      np.zeros((1, 120, 8, 8, 3), np.uint8),
      np.zeros((1, 76000)),
      "at least 4.8 s, got 4.72 s",
    ),
  ],
)
def test_synchformer_refuses(video, wave, message):
  with pytest.raises(ValueError, match=message):
    synchformer.offset_logits({}, video, wave)


def test_desync_is_the_mean_size_of_the_likeliest_offsets(
  variables, published, small, tmp_path, monkeypatch
):
  spec = AVSpec(frames=50, height=16, width=24, fps=10, sample_rate=8000)
  draw = np.random.default_rng(0)
  clips = {
    "video": draw.integers(0, 256, (3, *spec.video_shape)).astype(np.uint8),
    "audio": draw.uniform(-1, 1, (3, *spec.audio_shape)).astype(np.float32),
  }
  judge = functools.partial(
    synchformer.offset_logits, sizes=synchformer.Sizes(**SMALL)
  )
  seen = clips["video"][:, synchformer_inputs.at_25_fps(50, 10)]
  heard = resample(clips["audio"][..., 0], 8000, 16000)
  logits = np.asarray(judge(variables, seen, heard))
  # Random weights like one offset best; less their mean they differ.
  mean = logits.mean(axis=(0, 1))
  offsets = np.linspace(-2, 2, 21)[(logits - mean).argmax(axis=-1)]
  assert len(np.unique(np.abs(offsets))) > 1
  bias = "transformer.off_head.bias"
  changed = published | {bias: published[bias] - mean}
  np.savez(tmp_path / "synchformer_state_dict.npz", **changed)
  monkeypatch.setattr(synchformer, "offset_logits", judge)
  report = run(
    clips,
    {key: x[:1] for key, x in clips.items()},
    metrics=["desync"],
    weights_dir=tmp_path,
    spec=spec,
    batch_size=1,
  )
  entry = report["metrics"]["desync"]
  assert entry["better"] == "lower"
  assert entry["value"] == pytest.approx(np.abs(offsets[0]).mean())
  assert entry["real"] == pytest.approx(np.abs(offsets).mean())
  info = report["weights"]["synchformer"]
  assert info["file"] == "synchformer_state_dict.npz"
  # Its 0 is no level of chance.
  assert not any("chance" in warning for warning in report["warnings"])


def test_clips_of_the_papers_length_are_too_short_for_desync(
  published, small, tmp_path
):
  np.savez(tmp_path / "synchformer_state_dict.npz", **published)
  clips = {
    "video": np.zeros((4, 16, 8, 8, 3), np.uint8),
    "audio": np.zeros((4, 25600, 1), np.float32),
  }
  report = run(
    clips, clips, metrics=["fad_mel", "desync"], weights_dir=tmp_path
  )
  entry = report["metrics"]["desync"]
  assert entry["value"] is None and "at least 4.8 s" in entry["reason"]
  assert report["metrics"]["fad_mel"]["value"] is not None
