"""`main.py verify`: what was written is told from what is there."""

import json

import numpy as np
import pytest

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.manifest import Manifest
from mmdiff_jax.data.tfrecord import index_path
from mmdiff_jax.data.verify import verify_data_set
from mmdiff_jax.sampling import folder as sample_folder
from mmdiff_jax.verify import verify
from tests.prepared_fixtures import write_dataset
from tests.test_checkpoint import flip_bit, run  # noqa: F401

SPEC = AVSpec(4, 16, 16, 10.0, 8000)


@pytest.fixture
def data_set(tmp_path):
  return write_dataset(tmp_path / "data", SPEC, (9, 4, 6), shards=2)


@pytest.fixture
def samples(tmp_path):
  folder = sample_folder.SampleFolder(
    tmp_path / "samples", SPEC, ("mp4", "wav", "png"), {"seed": 1}
  )
  rng = np.random.default_rng(0)
  for name in ("a.b", "c"):
    folder.write(
      name,
      rng.integers(0, 256, (4, 16, 16, 3), np.uint8),
      rng.uniform(-1, 1, (3200, 1)).astype(np.float32),
      {"index": 0},
    )
  folder.write_index({})
  return tmp_path / "samples"


def problems(directory):
  return [line for _, lines in verify(directory) for line in lines]


def test_what_is_whole_passes(run, data_set, samples):  # noqa: F811
  assert [what.split()[0] for what, _ in verify(run)] == ["checkpoint"] * 3
  for directory in (run, data_set, samples):
    assert problems(directory) == []


def test_every_file_of_a_run_and_of_samples_is_looked_at(run, samples):  # noqa: F811
  for directory in (run / "checkpoints" / "5", samples):
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
      if path.name in ("commit_success.txt", "_CHECKPOINT_METADATA"):
        continue
      content = path.read_bytes()
      if path.name not in ("samples.json", "checksums.json") and content:
        flip_bit(path, 8 * (len(content) // 2))
        assert [path.name in line for line in problems(directory)] == [True]
      path.unlink()
      if path.name == "samples.json":
        with pytest.raises(ValueError, match="give one of them"):
          problems(directory)
      else:
        assert len(problems(directory)) == 1
      path.write_bytes(content)
  assert problems(samples) == []


def test_no_damage_to_an_index_passes(data_set):
  path = index_path(sorted(data_set.glob("*.tfrecord"))[0])
  content = path.read_bytes()
  for position in range(8 * len(content)):
    flip_bit(path, position)
    (problem,) = verify_data_set(data_set)
    assert path.name in problem
    path.write_bytes(content)


def mutations(content):
  """Copies of a JSON value in which one value has another type."""
  yield from (None, 5, -1, 2.5, "text", [], [[]], {}, {"a": 1}, True)
  items = content.items() if isinstance(content, dict) else None
  if isinstance(content, list):
    items = enumerate(content)
  for key, value in items or ():
    for changed in mutations(value):
      copy = content.copy()
      copy[key] = changed
      yield copy


def assert_one_line(read, path):
  """Whatever its types, a file is read or refused in one line."""
  content = path.read_bytes()
  refused = 0
  for changed in mutations(json.loads(content)):
    path.write_text(json.dumps(changed))
    try:
      read()
    except ValueError as error:
      refused += 1
      assert "\n" not in str(error) and str(path.parent) in str(error)
  for changed in (b"", b"\xff", content[:-3], b"[" * 2000):
    path.write_bytes(changed)
    with pytest.raises(ValueError, match=path.name):
      read()
  path.write_bytes(content)
  read()
  assert refused > 50


def test_wrong_types_in_a_data_set_are_one_line(data_set):
  def read():
    manifest = Manifest.load(data_set)
    return manifest.num_records, manifest.to_json()

  assert_one_line(read, data_set / "dataset.json")


def test_wrong_types_in_a_list_of_samples_are_one_line(samples):
  def read():
    for formats in (("mp4",), ("png",)):
      folder = sample_folder.SampleFolder(samples, SPEC, formats, {"seed": 1})
      for name in ("a.b", "c"):
        folder.done(name, {"index": 0})

  assert_one_line(read, samples / "samples.json")
