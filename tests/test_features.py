import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from mmdiff_jax.av import AVSpec
from mmdiff_jax.evaluation import features
from mmdiff_jax.evaluation.clip_sets import open_clips
from mmdiff_jax.evaluation.evaluate import evaluate
from mmdiff_jax.evaluation.features import Extractor, FeatureStore

SPEC = AVSpec(frames=2, height=8, width=8, fps=10.0, sample_rate=1000)


def make_clips(count, changed=None):
  """Clip i is of grey level i."""
  video = np.zeros((count, *SPEC.video_shape), np.uint8)
  video += np.arange(count, dtype=np.uint8)[:, None, None, None, None]
  if changed is not None:
    video[changed] = 255
  audio = np.zeros((count, 200, 1), np.float32)
  return open_clips({"video": video, "audio": audio}, SPEC)


class Level:
  """Feature [level, 2 level]; counts its calls and their sizes."""

  def __init__(self):
    self.sizes = []

  def __call__(self, batch):
    self.sizes.append(len(batch["video"]))
    level = batch["video"].mean(axis=(1, 2, 3, 4))
    return np.stack([level, 2 * level], axis=-1)


def test_features_are_in_order_and_batches_have_one_size():
  level = Level()
  store = FeatureStore(None, batch_size=2, progress=False)
  out = store.extract(make_clips(13), [Extractor("level", "1", level)], "")
  np.testing.assert_array_equal(out["level"][:, 0], np.arange(13))
  np.testing.assert_array_equal(out["level"][:, 1], 2 * np.arange(13))
  assert set(level.sizes) == {2}


def test_what_goes_piece_by_piece_gets_no_more_than_there_is():
  level = Level()
  store = FeatureStore(None, batch_size=4, progress=False)
  slow = Extractor("level", "1", level, piecewise=True)
  out = store.extract(make_clips(7), [slow], "")
  np.testing.assert_array_equal(out["level"][:, 0], np.arange(7))
  devices = jax.local_device_count()
  assert level.sizes == [-(-n // devices) * devices for n in (4, 3)]


def test_a_second_run_computes_nothing(tmp_path):
  level = Level()
  extractor = Extractor("level", "1", level)
  first = FeatureStore(tmp_path, 2, False).extract(
    make_clips(13), [extractor], ""
  )
  calls = len(level.sizes)
  store = FeatureStore(tmp_path, 2, False)
  again = store.extract(make_clips(13), [extractor], "")
  assert len(level.sizes) == calls and store.computed == 0
  np.testing.assert_array_equal(first["level"], again["level"])


def test_only_what_is_new_is_computed_whatever_the_order(tmp_path):
  level = Level()
  extractor = Extractor("level", "1", level)
  FeatureStore(tmp_path, 2, False).extract(make_clips(13), [extractor], "")
  for make, number in (
    (lambda: make_clips(13, changed=7), 1),
    (lambda: make_clips(15), 2),
    (lambda: reordered(make_clips(13)), 0),
  ):
    store = FeatureStore(tmp_path, 2, False)
    out = store.extract(make(), [extractor], "")
    assert store.computed == number
  np.testing.assert_array_equal(out["level"][:, 0], np.arange(13)[::-1])


def reordered(clips):
  clips.ids.reverse()
  return clips


def test_of_several_features_the_missing_ones_are_computed(tmp_path):
  one, other = Level(), Level()
  first = Extractor("one", "1", one)
  both = [first, Extractor("other", "1", other)]
  FeatureStore(tmp_path, 2, False).extract(make_clips(4), [first], "")
  one.sizes.clear()
  out = FeatureStore(tmp_path, 2, False).extract(make_clips(6), both, "")
  assert sum(one.sizes) == 2 and sum(other.sizes) == 6
  for name in ("one", "other"):
    np.testing.assert_array_equal(out[name][:, 0], np.arange(6))


def test_other_weights_are_another_feature(tmp_path):
  for version in ("1", "2"):
    store = FeatureStore(tmp_path, 2, False)
    store.extract(make_clips(6), [Extractor("level", version, Level())], "")
    assert store.computed == 6


def cached(folder):
  return sorted(path for path in folder.rglob("*") if path.is_file())


def test_no_flipped_bit_of_the_cache_is_read(tmp_path):
  extractor = Extractor("level", "1", Level())
  FeatureStore(tmp_path, 2, False).extract(make_clips(4), [extractor], "")
  path = cached(tmp_path)[2]
  content = path.read_bytes()
  for position in range(0, 8 * len(content), 7):
    data = bytearray(content)
    data[position // 8] ^= 1 << position % 8
    path.write_bytes(data)
    store = FeatureStore(tmp_path, 2, False)
    out = store.extract(make_clips(4), [extractor], "")
    assert store.computed == 1
    np.testing.assert_array_equal(out["level"][:, 0], np.arange(4))
    assert path.read_bytes() == content


@pytest.mark.parametrize("damage", ["cut", "emptied", "exchanged", "folder"])
def test_a_damaged_file_of_the_cache_is_computed_again(tmp_path, damage):
  extractor = Extractor("level", "1", Level())
  FeatureStore(tmp_path, 2, False).extract(make_clips(4), [extractor], "")
  first, second, *_ = cached(tmp_path)
  content = first.read_bytes()
  if damage == "exchanged":
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
  elif damage == "folder":
    first.unlink()
    first.mkdir()
  else:
    first.write_bytes(content[:40] if damage == "cut" else b"")
  store = FeatureStore(tmp_path, 2, False)
  out = store.extract(make_clips(4), [extractor], "")
  np.testing.assert_array_equal(out["level"][:, 0], np.arange(4))
  assert store.computed == (2 if damage == "exchanged" else 1)


def test_a_cache_that_cannot_be_written_to_is_a_warning(tmp_path, caplog):
  (tmp_path / "features").write_text("a file is in the way")
  store = FeatureStore(tmp_path, 2, False)
  extractor = Extractor("level", "1", Level())
  out = store.extract(make_clips(4), [extractor], "")
  np.testing.assert_array_equal(out["level"][:, 0], np.arange(4))
  (record,) = caplog.records
  assert str(tmp_path) in record.getMessage()


def test_without_a_home_directory_nothing_is_kept(monkeypatch, caplog):
  monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
  monkeypatch.setattr("os.path.expanduser", lambda path: path)
  report = evaluate_noise(cache_dir="")
  assert report[1]["used"] == 10
  assert "There is no home directory" in caplog.text


def test_an_extractor_that_fails_says_why_and_the_others_go_on():
  def broken(batch):
    level = batch["video"].mean(axis=(1, 2, 3, 4))
    return np.where(level == 3, np.nan, level)[:, None]

  def crashing(batch):
    raise RuntimeError("out of memory")

  store = FeatureStore(None, 2, False)
  out = store.extract(
    make_clips(13),
    [
      Extractor("broken", "1", broken),
      Extractor("crashing", "1", crashing),
      Extractor("level", "1", Level()),
    ],
    "",
  )
  assert list(out) == ["level"] and len(out["level"]) == 13
  assert "broken of 000003 is not finite" in store.failures["broken"]
  assert "out of memory" in store.failures["crashing"]


def test_the_next_batch_is_decoded_while_one_is_embedded():
  """Of every batch but the last the successor has been asked for."""
  clips = make_clips(13)
  asked, seen = [], []
  load = clips.load

  def watched(index, audio=True):
    asked.append(index)
    return load(index, audio)

  clips.load = watched

  def look(batch):
    time.sleep(0.05)
    seen.append(len(asked))
    return batch["video"].mean(axis=(1, 2, 3, 4))[:, None]

  FeatureStore(None, 5, False).extract(clips, [Extractor("x", "1", look)], "")
  size = -(-5 // jax.local_device_count()) * jax.local_device_count()
  ends = [size * (batch + 2) for batch in range(-(-13 // size))]
  assert seen == [min(13, end) for end in ends]


def test_batches_are_split_over_the_devices():
  batch = {"x": np.zeros((2 * jax.local_device_count(), 3), np.float32)}
  shards = features.shard_batch(batch)["x"].addressable_shards
  assert {shard.data.shape for shard in shards} == {(2, 3)}


def test_batch_size_must_be_positive():
  with pytest.raises(ValueError, match="batch_size"):
    FeatureStore(None, 0, False)


_HOST = """
import json
import sys
import jax
import numpy as np
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from mmdiff_jax.evaluation import features
from tests import test_features
level = jax.jit(lambda x: x.mean(axis=(1, 2, 3))[:, :1])
def apply(batch):
  video = batch["video"].astype(np.float32)
  return level(features.shard_batch({"x": video})["x"])
# Of the second set the other host has nothing to do.
for count in (11, 1):
  clips = test_features.make_clips(count)
  store = features.FeatureStore(None, 2, False)
  out = store.extract(clips, [features.Extractor("x", "1", apply)], "")
  assert out["x"].shape == (count, 1), out["x"].shape
  assert (out["x"][:, 0] == np.arange(count)).all()
  print(store.computed, jax.local_device_count())
print(json.dumps(test_features.evaluate_noise()))
"""


def evaluate_noise(cache_dir=None):
  """What a report of sounds says; clip 6 of the real ones cannot be used."""
  draw = np.random.default_rng(0)
  sides = []
  for level in (0.1, 0.2):
    audio = level * draw.standard_normal((11, SPEC.audio_length, 1))
    video = draw.integers(0, 256, (11, *SPEC.video_shape), np.uint8)
    sides.append({"video": video, "audio": audio.astype(np.float32)})
  sides[0]["audio"][6] = np.nan
  report = evaluate(
    real=sides[0],
    fake=sides[1],
    spec=SPEC,
    metrics=["fad_mel", "av_dependence"],
    max_bad=0.1,
    batch_size=2,
    cache_dir=cache_dir,
    progress=False,
  )
  return [report["metrics"], report["real"]]


def test_hosts_share_the_work_and_report_as_one_does():
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    address = f"localhost:{probe.getsockname()[1]}"
  environment = dict(
    os.environ,
    JAX_PLATFORMS="cpu",
    XLA_FLAGS="--xla_force_host_platform_device_count=2",
  )
  hosts = [
    subprocess.Popen(
      [sys.executable, "-c", _HOST, address, str(i)],
      env=environment,
      cwd=pathlib.Path(__file__).parents[1],
      stdout=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  outputs = [host.communicate(timeout=240)[0] for host in hosts]
  assert [host.returncode for host in hosts] == [0, 0]
  counts = [re.findall(r"^\d+ \d+$", out, re.MULTILINE) for out in outputs]
  assert counts == [["6 2", "1 2"], ["5 2", "0 2"]]
  alone = evaluate_noise()
  assert alone[1]["skipped"] == [["000006", "its audio has NaN or infinity"]]
  for output in outputs:
    metrics, real = json.loads(output.splitlines()[-1])
    assert real == alone[1]
    for name, entry in metrics.items():
      for figure in ("value", "stderr", "real", "n_real", "n_fake"):
        expected = pytest.approx(alone[0][name][figure], rel=1e-5)
        assert entry[figure] == expected
