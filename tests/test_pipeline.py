import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from configs import default
from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.clips import is_held_out
from mmdiff_jax.data.pipeline import create_loader
from mmdiff_jax.media import transforms
from tests.prepared_fixtures import write_dataset

SPEC = AVSpec(4, 8, 8, 10.0, 1000)
LENGTHS = (9, 4, 6, 13, 5)
PLACES = {(c, s) for c, n in enumerate(LENGTHS) for s in range(n - 3)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data") / "clips"
  return write_dataset(folder, SPEC, LENGTHS, shards=2)


def data_config(source, spec=SPEC, **overrides):
  data = default.get_config().data
  data.update(
    source=source,
    frames=spec.frames,
    height=spec.height,
    width=spec.width,
    fps=spec.fps,
    sample_rate=spec.sample_rate,
    num_threads=2,
  )
  data.update(overrides)
  return data


@pytest.fixture
def data(dataset):
  return data_config(f"tfrecord:{dataset}")


def take(data, count=None, state=None, **options):
  """The first batches of a loader (all if `count` is None)."""
  loader = create_loader(data, **{"seed": 0, **options})
  try:
    if state is not None:
      loader.set_state(state)
    if count is None:
      return list(loader)
    return [next(loader) for _ in range(count)]
  finally:
    loader.close()


def places(batches):
  """(clip, first frame) of every element; checks frames and sound."""
  found = []
  for batch in batches:
    for video, audio in zip(batch["video"], batch["audio"], strict=True):
      column = video[:, 0, 0]
      if video[0, 0, 1, 0] != 255:
        column = video[:, 0, -1]
      clip, start = int(column[0, 0]), int(column[0, 1])
      assert column[:, 1].tolist() == list(range(start, start + 4))
      expected = (start * 100 + np.arange(400)) / 32768
      np.testing.assert_allclose(audio[:, 0], expected, atol=1e-6)
      found.append((clip, start))
  return found


def flipped(batches):
  return [bool(v[0, 0, 1, 0] != 255) for b in batches for v in b["video"]]


def assert_equal(left, right):
  assert len(left) == len(right)
  for a, b in zip(left, right, strict=True):
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


def test_batches_have_the_contract_of_shapes_and_types(data):
  (batch,) = take(data, 1, batch_size=3)
  assert sorted(batch) == ["audio", "video"]
  assert batch["video"].shape == (3, *SPEC.video_shape)
  assert batch["video"].dtype == np.uint8
  assert batch["audio"].shape == (3, *SPEC.audio_shape)
  assert batch["audio"].dtype == np.float32


def test_an_epoch_has_every_clip_once_in_an_order_of_its_own(data):
  batches = take(data, 3 * len(PLACES), batch_size=1)
  order = places(batches)
  epochs = [
    order[i : i + len(PLACES)] for i in range(0, len(order), len(PLACES))
  ]
  assert all(set(epoch) == PLACES for epoch in epochs)
  assert epochs[0] != epochs[1] != epochs[2]
  again = places(take(data, 5, batch_size=1))
  assert again == order[:5]
  other = places(take(data, len(PLACES), batch_size=1, seed=1))
  assert other != epochs[0]


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_batches_of_one_host(data, hosts):
  whole = take(data, 8, batch_size=4)
  parts = [
    take(data, 8, batch_size=4, process_index=h, process_count=hosts)
    for h in range(hosts)
  ]
  for step, batch in enumerate(whole):
    for key in batch:
      joined = np.concatenate([part[step][key] for part in parts])
      np.testing.assert_array_equal(joined, batch[key])


@pytest.mark.parametrize("before, after", [(1, 1), (4, 2), (1, 4)])
def test_resume_is_exact_also_on_another_number_of_hosts(data, before, after):
  loader = create_loader(data, batch_size=4, seed=0, process_count=before)
  for _ in range(7):
    next(loader)
  state = json.loads(json.dumps(loader.get_state()))
  loader.close()
  assert state == {"next_index": 7}
  for host in range(after):
    options = {"process_index": host, "process_count": after}
    expected = take(data, 12, batch_size=4, **options)[7:]
    resumed = take(data, 5, state=state, batch_size=4, **options)
    assert_equal(resumed, expected)


def test_flips_have_their_probability_and_change_with_the_epoch(data):
  marks = flipped(take(data, 20 * len(PLACES), batch_size=1))
  assert abs(np.mean(marks) - 0.5) < 0.08
  data.flip_probability = 0.0
  assert not any(flipped(take(data, 30, batch_size=2)))
  data.flip_probability = 1.0
  assert all(flipped(take(data, 30, batch_size=2)))


def test_evaluation_is_not_flipped_and_can_end(data):
  batches = take(data, batch_size=2, train=False, num_epochs=1)
  assert not any(flipped(batches))
  found = places(batches)
  assert len(found) == len(set(found)) == len(PLACES) // 2 * 2


def test_held_out_clips_are_never_trained_on(tmp_path):
  lengths = (4,) * 60
  folder = write_dataset(tmp_path / "many", SPEC, lengths)
  data = data_config(f"tfrecord:{folder}", holdout_fraction=0.3)
  sides = [
    {c for c, _ in places(take(data, batch_size=1, train=t, num_epochs=1))}
    for t in (True, False)
  ]
  assert sides[0] | sides[1] == set(range(60))
  assert not sides[0] & sides[1]
  held = {c for c in range(60) if is_held_out(f"video_{c:03d}.mp4", 0.3)}
  assert sides[1] == held and 5 < len(held) < 35


def test_a_config_that_does_not_fit_the_data_is_an_error(data):
  with pytest.raises(ValueError, match="--clip_frames") as error:
    take(data_config(data.source, frames=8), 1, batch_size=1)
  assert "frames 4 (config: 8)" in str(error.value)
  with pytest.raises(ValueError, match=r"fps 10.0 \(config: 5.0\).*--fps"):
    take(data_config(data.source, fps=5), 1, batch_size=1)
  with pytest.raises(ValueError, match=r"width 8 \(config: 16\).*--size"):
    take(data_config(data.source, height=16, width=16), 1, batch_size=1)
  with pytest.raises(ValueError, match="multiple of the 3 hosts, got 4"):
    take(data, 1, batch_size=4, process_count=3)
  with pytest.raises(ValueError, match="none of 'tfrecord:DIR'"):
    take(data_config("video:here"), 1, batch_size=1)
  with pytest.raises(ValueError, match="not a prepared data set"):
    take(data_config("tfrecord:/nowhere"), 1, batch_size=1)
  with pytest.raises(ValueError, match="no held-out clip"):
    small = data_config(data.source, holdout_fraction=1e-9)
    take(small, 1, batch_size=1, train=False)


@pytest.mark.parametrize(
  ("settings", "options", "message"),
  [
    ({"flip_probability": 1.01}, {}, r"flip_probability .*\[0, 1\], got 1.01"),
    ({"flip_probability": -0.01}, {}, r"flip_probability .*, got -0.01"),
    ({"num_threads": 0}, {}, "at least 1, got 0 and "),
    ({"prefetch": 0}, {}, "at least 1, got 2 and 0"),
    ({}, {"view": "films"}, "Unknown view 'films'; allowed: clips, images"),
    ({}, {"batch_size": 0}, "multiple of the 1 hosts, got 0"),
    ({}, {"process_index": 2, "process_count": 2}, r"in \[0, 2\), got 2"),
    ({}, {"process_index": -1}, r"in \[0, 1\), got -1"),
    ({}, {"names": ("audio", "smell")}, "has no smell; it has video, audio"),
    ({}, {"view": "images"}, "view='images' needs sr"),
  ],
)
def test_what_makes_no_sense_is_one_clear_line(
  data, settings, options, message
):
  data.update(settings)
  with pytest.raises(ValueError, match=message) as error:
    take(data, 1, **{"batch_size": 2} | options)
  assert "\n" not in str(error.value)


def test_batches_hold_what_is_named_alone(data):
  whole = take(data, 2, batch_size=3)
  for name in ("video", "audio"):
    batches = take(data, 2, batch_size=3, names=(name,))
    assert [list(batch) for batch in batches] == [[name], [name]]
    for batch, expected in zip(batches, whole, strict=True):
      np.testing.assert_array_equal(batch[name], expected[name])


def test_of_a_last_batch_that_is_not_full_no_host_has_a_part(data):
  """Of 22 clips, batches of 4: each of two hosts has 5 halves."""
  assert len(PLACES) == 22
  for host in range(2):
    batches = take(
      data, batch_size=4, num_epochs=1, process_index=host, process_count=2
    )
    assert [len(batch["audio"]) for batch in batches] == [2] * 5


def test_a_corrupt_record_is_named(tmp_path):
  folder = write_dataset(tmp_path / "data", SPEC, LENGTHS)
  shard = next(folder.glob("*.tfrecord"))
  data = bytearray(shard.read_bytes())
  data[400] ^= 1
  shard.write_bytes(data)
  with pytest.raises(ValueError, match=r"00001\.tfrecord#0: data crc .*; copy"):
    take(data_config(f"tfrecord:{folder}"), 30, batch_size=1)


def test_compressed_frames_read_like_raw_ones(data, tmp_path):
  folder = write_dataset(tmp_path / "png", SPEC, LENGTHS, frame_format="png")
  png = data_config(f"tfrecord:{folder}")
  assert_equal(take(png, 5, batch_size=3), take(data, 5, batch_size=3))


def test_tfds_and_tfrecord_give_the_same_batches(dataset, data, tmp_path):
  pytest.importorskip("tensorflow_datasets")
  from data_prep import tfds_builder

  assert tfds_builder.build(dataset, "numbered", tmp_path) == 8
  tfds = data_config("tfds:numbered", tfds_dir=str(tmp_path))
  assert_equal(take(tfds, 9, batch_size=3), take(data, 9, batch_size=3))
  assert "tensorflow" not in sys.modules
  with pytest.raises(ValueError, match="no TFDS data set 'other'"):
    take(data_config("tfds:other", tfds_dir=str(tmp_path)), 1, batch_size=1)
  other = write_dataset(tmp_path / "other", SPEC, (4, 5))
  with pytest.raises(ValueError, match="holds another data set"):
    tfds_builder.build(other, "numbered", tmp_path)
  with pytest.raises(ValueError, match="lower case"):
    tfds_builder.build(other, "A b", tmp_path)


def test_synthetic_clips_need_no_files():
  spec = AVSpec(6, 16, 16, 10.0, 2000)
  data = data_config("synthetic", spec, synthetic_clips=5)
  batches = take(data, batch_size=1, num_epochs=1)
  assert len({batch["audio"].tobytes() for batch in batches}) == 5
  assert batches[0]["video"].shape == (1, 6, 16, 16, 3)
  assert_equal(take(data, batch_size=1, num_epochs=1), batches)


def sr_config(**overrides):
  sr = default.get_config().sr
  sr.update(factor=4, **overrides)
  return sr


@pytest.fixture(scope="module")
def sr_dataset(tmp_path_factory):
  spec = AVSpec(4, 40, 48, 10.0, 1000)
  folder = tmp_path_factory.mktemp("sr") / "clips"
  return write_dataset(folder, spec, (9, 6), frame_format="png")


def sr_batches(data, sr, count, **options):
  loader = create_loader(
    data, view="images", sr=sr, batch_size=4, seed=0, **options
  )
  batches = [next(loader) for _ in range(count)]
  loader.close()
  return batches


def test_sr_pairs_of_the_held_out_side_are_plain_bicubic(sr_dataset):
  data = data_config(f"tfrecord:{sr_dataset}", height=40, width=48)
  for batch in sr_batches(data, sr_config(), 3, train=False):
    assert batch["image"].shape == (4, 40, 48, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["low_res"].shape == (4, 10, 12, 3)
    assert batch["low_res"].dtype == np.float32
    for image, low in zip(batch["image"], batch["low_res"], strict=True):
      expected = transforms.resize_bicubic(image, 10, 12) / 127.5 - 1
      np.testing.assert_allclose(low, expected, atol=1e-6)


def test_sr_training_pairs_are_cropped_degraded_and_resumable(sr_dataset):
  data = data_config(f"tfrecord:{sr_dataset}", height=32, width=32)
  sr = sr_config(noise_probability=1.0, jpeg_probability=0.0)
  batches = sr_batches(data, sr, 6)
  assert batches[0]["image"].shape == (4, 32, 32, 3)
  deviations = []
  for batch in batches:
    for image, low in zip(batch["image"], batch["low_res"], strict=True):
      clean = transforms.resize_bicubic(image, 8, 8) / 127.5 - 1
      deviations.append((low - clean)[:, 3:6].std() * 127.5)
  assert 5 < np.mean(deviations) < 15 and max(deviations) < 26
  assert_equal(sr_batches(data, sr, 6), batches)
  loader = create_loader(data, view="images", sr=sr, batch_size=4, seed=0)
  loader.set_state({"next_index": 4})
  assert_equal([next(loader), next(loader)], batches[4:])
  loader.close()


def test_sr_config_is_checked(sr_dataset):
  data = data_config(f"tfrecord:{sr_dataset}", height=64, width=64)
  with pytest.raises(ValueError, match="--size 64x64"):
    sr_batches(data, sr_config(), 1)
  data.update(height=30, width=32)
  with pytest.raises(ValueError, match="divisible by sr.factor=4"):
    sr_batches(data, sr_config(), 1)
  data.update(height=32)
  with pytest.raises(ValueError, match="jpeg_quality"):
    sr_batches(data, sr_config(jpeg_quality=(50, 20)), 1)


def test_reading_and_preparing_start_no_heavy_package():
  # The pipeline itself is left out: grain imports jax.
  code = (
    "import sys; import mmdiff_jax.media.reading, mmdiff_jax.data.sources;"
    "import data_prep.clip_task;"
    "print([m for m in ('jax', 'grain', 'tensorflow', 'av', 'librosa')"
    " if m in sys.modules])"
  )
  output = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    check=True,
    cwd=pathlib.Path(__file__).parents[1],
  )
  assert output.stdout.strip() == "[]"
