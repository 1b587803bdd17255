import dataclasses
import os

import numpy as np
import pytest

from data_prep import inspect_dataset
from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.manifest import Manifest
from tests.command_line import call
from tests.prepared_fixtures import write_dataset

SPEC = AVSpec(4, 8, 8, 10.0, 4000)


@pytest.fixture
def dataset(tmp_path):
  return write_dataset(tmp_path / "data", SPEC, (9, 4, 6), shards=2)


def test_a_good_data_set_passes_and_is_drawn(dataset, capsys):
  from PIL import Image

  assert call("inspect", dataset, "--clips=3") == 0
  output = capsys.readouterr().out
  assert "Videos: 3 used (1.9 s), 0 skipped." in output
  assert "Clips: 10 of 4 frames (0.4 s)." in output
  assert "clip: 4 frames of 8x8 at 10 fps, 1600 samples at 4000 Hz" in output
  assert "all CRCs are right" in output
  sheet = np.asarray(Image.open(dataset / inspect_dataset.SHEET))
  assert sheet.shape[1] > 1000
  assert sheet.std() > 20


def test_a_flipped_bit_is_found(dataset, capsys):
  shard = sorted(dataset.glob("*.tfrecord"))[1]
  data = bytearray(shard.read_bytes())
  data[-30] ^= 4
  shard.write_bytes(data)
  assert call("inspect", dataset) == 1
  error = capsys.readouterr().err
  assert shard.name in error and "data crc mismatch" in error
  assert "rerun the preparation" in error


def test_a_missing_shard_and_a_missing_data_set_are_found(dataset, capsys):
  shard = sorted(dataset.glob("*.tfrecord"))[0]
  shard.unlink()
  assert call("inspect", dataset) == 1
  assert "the shard is missing" in capsys.readouterr().err
  assert call("inspect", dataset / "nowhere") == 1
  assert "not a prepared data set" in capsys.readouterr().err


def test_surplus_records_are_found(dataset, capsys):
  shards = sorted(dataset.glob("*.tfrecord"))
  shards[0].write_bytes(shards[0].read_bytes() + shards[1].read_bytes())
  assert call("inspect", dataset) == 1
  assert "dataset.json describes" in capsys.readouterr().err


def test_any_file_name_is_shown_in_one_line(dataset, tmp_path, capsysbinary):
  manifest = Manifest.load(dataset)
  names = (("z\udcff.mp4", "bad"), ("a\nall is well", "bad"))
  dataclasses.replace(manifest, skipped=names).save(dataset)
  moved = dataset.rename(tmp_path / os.fsdecode(b"d\xff"))
  assert call("inspect", moved, "--clips=1") == 0
  output = capsysbinary.readouterr().out
  assert b"skipped z\\udcff.mp4: bad\nskipped a\\nall is well: bad" in output


def test_the_sheet_is_a_png_file(dataset, tmp_path, capsys):
  for output, words in (
    (tmp_path, "is a folder"),
    (tmp_path / "sheet.jpg", "must be a .png file"),
  ):
    assert call("inspect", dataset, f"--output={output}") == 1
    error = capsys.readouterr().err
    assert words in error and str(output) in error
    assert error.count("\n") == 1
  assert not (tmp_path / "sheet.jpg").exists()
  sheet = tmp_path / "made" / "sheet.PNG"
  flags = ["--clips=1", f"--output={sheet}"]
  assert call("inspect", dataset, *flags) == 0
  assert sheet.stat().st_size > 0


@pytest.mark.parametrize(
  ("lengths", "count", "shown"),
  [
    # One of each, the long one too; the middle of what each has.
    ((104, 4, 5), 3, {0: 1, 1: 1, 2: 1}),
    ((104, 4, 5), 5, {0: 2, 1: 1, 2: 2}),
    ((104, 4, 5), 8, {0: 5, 1: 1, 2: 2}),
    ((4, 4, 4, 4, 4, 4), 2, {1: 1, 4: 1}),
  ],
)
def test_every_video_is_shown_before_any_is_shown_twice(
  tmp_path, monkeypatch, lengths, count, shown
):
  from PIL import Image

  from mmdiff_jax.media import rendering

  folder = write_dataset(tmp_path / "data", SPEC, lengths)
  videos = []

  def render(video, audio, sample_rate, width):
    # Pixel (0, 0) holds the video's number and the frame's.
    videos.append(tuple(int(v) for v in video[0, 0, 0, :2]))
    return Image.new("RGB", (width, 8))

  monkeypatch.setattr(rendering, "render_clip", render)
  inspect_dataset.contact_sheet(folder, tmp_path / "sheet.png", clips=count)
  assert len(set(videos)) == count
  numbers = [number for number, _ in videos]
  assert {number: numbers.count(number) for number in numbers} == shown
