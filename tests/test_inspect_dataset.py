import numpy as np
import pytest

from data_prep import inspect_dataset
from mmdiff_jax.av import AVSpec
from tests.prepared_fixtures import write_dataset

SPEC = AVSpec(4, 8, 8, 10.0, 4000)


@pytest.fixture
def dataset(tmp_path):
  return write_dataset(tmp_path / "data", SPEC, (9, 4, 6), shards=2)


def test_a_good_data_set_passes_and_is_drawn(dataset, capsys):
  from PIL import Image

  assert inspect_dataset.main([str(dataset), "--clips=3"]) == 0
  output = capsys.readouterr().out
  assert "3 videos used, 0 skipped; 10 windows of 4 frames" in output
  assert "window: 4 frames of 8x8 at 10 fps, 1600 samples at 4000 Hz" in output
  assert "all CRCs are right" in output
  sheet = np.asarray(Image.open(dataset / inspect_dataset.SHEET))
  assert sheet.shape[1] > 1000
  assert sheet.std() > 20


def test_a_flipped_bit_is_found(dataset, capsys):
  shard = sorted(dataset.glob("*.tfrecord"))[1]
  data = bytearray(shard.read_bytes())
  data[-30] ^= 4
  shard.write_bytes(data)
  assert inspect_dataset.main([str(dataset)]) == 1
  error = capsys.readouterr().err
  assert shard.name in error and "data crc mismatch" in error
  assert "rerun the preparation" in error


def test_a_missing_shard_and_a_missing_data_set_are_found(dataset, capsys):
  shard = sorted(dataset.glob("*.tfrecord"))[0]
  shard.unlink()
  assert inspect_dataset.main([str(dataset)]) == 1
  assert "the shard is missing" in capsys.readouterr().err
  assert inspect_dataset.main([str(dataset / "nowhere")]) == 1
  assert "no prepared data set" in capsys.readouterr().err


def test_surplus_records_are_found(dataset, capsys):
  shards = sorted(dataset.glob("*.tfrecord"))
  shards[0].write_bytes(shards[0].read_bytes() + shards[1].read_bytes())
  assert inspect_dataset.main([str(dataset)]) == 1
  assert "dataset.json describes" in capsys.readouterr().err
