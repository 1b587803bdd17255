"""`main.py verify`: what was written is told from what is there."""

import contextlib
import hashlib
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from mmdiff_jax import checkpoint
from mmdiff_jax.av import AVSpec
from mmdiff_jax.cli.verify import verify
from mmdiff_jax.data.manifest import Manifest
from mmdiff_jax.data.sources import ClipList
from mmdiff_jax.data.sources.prepared import open_tfrecord
from mmdiff_jax.data.tfrecord import TFRecordWriter, index_path, read_records
from mmdiff_jax.data.verify import verify_data_set
from mmdiff_jax.disk.safetensors import save_safetensors
from mmdiff_jax.sampling import folder as sample_folder
from mmdiff_jax.study.folder import Study, write_study
from mmdiff_jax.study.settings import load_settings
from mmdiff_jax.study.store import Store
from tests.command_line import call
from tests.prepared_fixtures import write_dataset
from tests.test_checkpoint import flip_bit, run  # noqa: F401

SPEC = AVSpec(4, 16, 16, 10.0, 8000)
OLD = pathlib.Path(__file__).parent / "data" / "old_formats.zip"


@pytest.fixture
def data_set(tmp_path):
  return write_dataset(tmp_path / "data", SPEC, (9, 4, 6), shards=2)


@pytest.fixture
def samples(tmp_path):
  folder = sample_folder.SampleFolder(
    tmp_path / "samples", SPEC, ("mp4", "wav", "png"), {"seed": 1}
  )
  for name in ("a.b", "c"):
    write_sample(folder, name)
  folder.write_index({})
  return tmp_path / "samples"


def write_sample(folder, name):
  rng = np.random.default_rng(0)
  folder.write(
    name,
    rng.integers(0, 256, (4, 16, 16, 3), np.uint8),
    rng.uniform(-1, 1, (3200, 1)).astype(np.float32),
    {"index": 0},
  )


@pytest.fixture
def weights(tmp_path):
  path = tmp_path / "model.safetensors"
  save_safetensors(path, {"w": np.arange(6, dtype=np.float32)})
  return path


def problems(directory):
  return [line for _, lines, _ in verify(directory) for line in lines]


def test_what_is_whole_passes(run, data_set, samples, weights, capsys):  # noqa: F811
  assert [what.split()[0] for what, *_ in verify(run)] == ["checkpoint"] * 3
  for place in (run, data_set, samples, samples.parent, weights):
    assert problems(place) == []
    assert call("verify", str(place)) == 0
    assert "is as it was written." in capsys.readouterr().out


def test_every_file_of_a_run_and_of_samples_is_looked_at(run, samples):  # noqa: F811
  for directory in (run / "checkpoints" / "5", samples):
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
      if path.name == "commit_success.txt":
        continue
      content = path.read_bytes()
      if content and path.name != "_CHECKPOINT_METADATA":
        flip_bit(path, 8 * (len(content) // 2))
        assert_noticed(directory, path.name)
      path.unlink()
      if path.name not in ("samples.json", "checksums.json"):
        assert_noticed(directory, path.name)
      elif path.name == "samples.json":
        assert problems(directory) == ["samples.json is missing"]
      else:
        assert problems(directory)
      path.write_bytes(content)
    assert problems(directory) == []


def assert_noticed(directory, name):
  try:
    found = problems(directory)
  except ValueError as error:
    found = [str(error)]
  assert found and all(name in line for line in found)


def test_a_grid_is_listed_and_made_again_where_it_is_not_as_listed(samples):
  def reopen():
    return sample_folder.SampleFolder(
      samples, SPEC, ("mp4", "wav", "png", "gif"), {"seed": 1}
    )

  folder = reopen()
  assert folder.needs_grid()
  folder.write_grid()
  assert not reopen().needs_grid() and problems(samples) == []
  flip_bit(samples / "grid.gif", 500)
  assert_noticed(samples, "grid.gif")
  assert reopen().needs_grid()


def exchange(one, other):
  aside = one.with_name("aside")
  one.rename(aside)
  other.rename(one)
  aside.rename(other)


def exchange_shards(folder):
  for suffix in ("", ".idx"):
    first, second = (
      folder / f"clips-{i:05d}-of-00002.tfrecord{suffix}" for i in range(2)
    )
    exchange(first, second)


def exchange_records(folder):
  path = min(folder.glob("*.tfrecord"))
  records = list(read_records(path))
  assert len(records) > 1 and records[0] != records[1]
  with TFRecordWriter(path) as writer:
    for record in [records[1], records[0], *records[2:]]:
      writer.write(record)


@pytest.mark.parametrize("damage", [exchange_shards, exchange_records])
def test_what_lies_in_anothers_place_is_named_and_never_loaded(
  tmp_path, damage
):
  folder = write_dataset(tmp_path / "data", SPEC, (9, 9), shards=2)
  clips = ClipList(open_tfrecord(folder))
  assert {clip.origin().split()[0] for clip in clips} == {
    "video_000.mp4",
    "video_001.mp4",
  }
  assert problems(folder) == []
  damage(folder)
  assert len(problems(folder)) >= 2
  assert all("dataset.json says 'video_0" in line for line in problems(folder))
  changed = ClipList(open_tfrecord(folder))
  for i in range(len(changed)):
    try:
      clip = changed[i]
    except ValueError as error:
      assert "dataset.json says" in str(error) and "\n" not in str(error)
    else:
      assert clip.origin() == clips[i].origin()
      np.testing.assert_array_equal(clip.video(), clips[i].video())


def test_no_digit_of_a_data_sets_description_changes_unseen(data_set):
  path = data_set / "dataset.json"
  text = path.read_text()
  before = Manifest.load(data_set)
  tried = 0
  for i, character in enumerate(text):
    if character.isdigit():
      path.write_text(text[:i] + str((int(character) + 1) % 10) + text[i + 1 :])
      with pytest.raises(ValueError, match="dataset.json.*(changed|version)"):
        Manifest.load(data_set)
      tried += 1
  assert tried > 50
  path.write_text(text)
  assert Manifest.load(data_set) == before


def test_a_record_of_another_geometry_is_named(data_set):
  """Where dataset.json has no checksum, as in earlier versions."""
  path = data_set / "dataset.json"
  content = json.loads(path.read_text())
  del content["checksum"]
  content["spec"]["fps"], content["spec"]["sample_rate"] = 20.0, 16000
  path.write_text(json.dumps(content))  # As many samples to a clip.
  assert "does not fit dataset.json's spec" in problems(data_set)[0]
  with pytest.raises(ValueError, match="does not fit dataset.json's spec"):
    ClipList(open_tfrecord(data_set))[0]


def test_a_weight_file_is_verified_and_a_strange_one_said_to_be(
  weights, tmp_path, capsys
):
  flip_bit(weights, 8 * (weights.stat().st_size - 2))
  (problem,) = problems(weights)
  assert "its checksum differs" in problem
  strange = tmp_path / "strange.safetensors"
  header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
  strange.write_bytes(len(header).to_bytes(8, "little") + header + b"x")
  assert problems(strange) == ["has no checksum: another program wrote it"]
  assert call("verify", str(weights)) == 1
  output = capsys.readouterr()
  assert f"weight file {weights} is not right:" in output.out
  assert "1 of its files are not right" in output.err


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("none", "none does not exist"),
    ("none.safetensors", "No weight file at"),
    ("empty", "empty is not a checkpoint, a run, a .safetensors file"),
    ("text.txt", "text.txt is not a checkpoint"),
  ],
)
def test_what_cannot_be_verified_is_said_in_a_line(
  tmp_path, capsys, name, words
):
  (tmp_path / "empty").mkdir()
  (tmp_path / "text.txt").write_text("text")
  assert call("verify", str(tmp_path / name)) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("error: ") and words in line


@pytest.fixture
def old(tmp_path):
  """What the version at 3ff4a6e wrote."""
  shutil.unpack_archive(OLD, tmp_path / "old")
  return tmp_path / "old"


def test_what_earlier_versions_wrote_is_whole(old):
  for name in ("run", "export", "data", "samples"):
    assert problems(old / name) == [], name
  notes = [line for *_, lines in verify(old / "data") for line in lines]
  assert len(notes) == 1 and "without a checksum" in notes[0]
  wanted = {"w": jax.ShapeDtypeStruct((4, 3), np.float32)}
  for name in ("run", "export"):
    params = checkpoint.load_params(old / name, wanted)
    np.testing.assert_array_equal(params["w"], np.full((4, 3), -2.0))
    config = checkpoint.load_config(old / name)
    assert config.model.name == "av_unet"
  assert len(ClipList(open_tfrecord(old / "data"))) == 6 + 1


def test_damage_to_what_earlier_versions_wrote_is_named(old):
  for name in ("run", "export", "samples"):
    files = [
      path
      for path in sorted((old / name).rglob("*"))
      if path.is_file() and path.stat().st_size > 100
      # The grid had no checksum.
      if path.name not in ("samples.json", "grid.gif")
    ]
    assert len(files) > 4
    for path in files:
      content = path.read_bytes()
      # In the mark the time may change.
      flip_bit(path, 8 * (len(content) // 2))
      assert problems(old / name), path
      path.write_bytes(content)


def test_an_old_folder_of_samples_goes_on_as_a_new_one(old):
  formats = ("mp4", "wav", "png", "gif")
  folder = sample_folder.SampleFolder(
    old / "samples", SPEC, formats, {"seed": 1}
  )
  assert folder.done("a", {"index": 0}) and not folder.needs_grid()
  write_sample(folder, "new")
  folder.write_index({})
  assert problems(old / "samples") == []
  listed = json.loads((old / "samples" / "checksums.json").read_text())["files"]
  assert {"a.mp4", "a/0000.png", "new.mp4", "samples.json"} <= listed.keys()
  flip_bit(old / "samples" / "a.wav", 999)
  assert_noticed(old / "samples", "a.wav")


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


@pytest.fixture
def study(tmp_path):
  folder = tmp_path / "study"
  files = {"clips/a.mp4": b"a", "texts/b.txt": b"b"}
  files["truth.json"] = b'{"clips": {"a": {"system": "real"}}}'
  for name, content in files.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
  sha = {name: hashlib.sha256(x).hexdigest() for name, x in files.items()}
  write_study(
    Study(
      folder,
      load_settings(),
      seconds=1.6,
      size=(32, 32),
      clips={"a": sha["clips/a.mp4"]},
      texts={"b.txt": sha["texts/b.txt"]},
      slots=(),
      truth_sha256=sha["truth.json"],
    )
  )
  with contextlib.closing(Store(folder / "answers.db")) as store:
    store.add_rater("r", "token", "en", 1.0, [3], 10.0)
  return folder


def test_a_study_and_its_answers_are_verified(study):
  assert problems(study) == []
  for path in sorted(p for p in study.rglob("*") if p.is_file()):
    if path.name == "answers.db":
      continue
    content = path.read_bytes()
    flip_bit(path, 8 * (len(content) // 2))
    assert_noticed(study, path.name)
    path.write_bytes(content)
  (study / "clips" / "a.mp4").unlink()
  assert problems(study) == [f"{study / 'clips' / 'a.mp4'} is missing"]
  (study / "clips" / "a.mp4").write_bytes(b"a")
  path = study / "answers.db"
  content = path.read_bytes()
  path.write_bytes(content.replace(b"token", b"tokem"))
  assert path.read_bytes() != content
  assert_noticed(study, "answers.db")
