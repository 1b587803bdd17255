"""Captions and embeddings on their way into records, and out of them."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from data_prep import inspect_dataset, on_beam
from data_prep.clip_task import ClipOptions, ClipTask
from data_prep.preparation import prepare
from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.descriptions import Description
from mmdiff_jax.data.manifest import Manifest
from mmdiff_jax.data.sources import SourceOptions, open_source
from mmdiff_jax.media import reading
from tests.tiny_encoder import TinyEncoder, vector_of

SPEC = AVSpec(4, 16, 16, 10.0, 8000)
OPTIONS = ClipOptions(SPEC, "raw", None, "mean", "skip")
CAPTIONS = {"b/x.mp4": ["rain", "wet\nstreet"], "b/y.mp4": ["wind"]}
VECTOR = np.array([1.5, -2, 0.25], np.float32)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  """Three videos, of which the first has no caption."""
  folder = tmp_path_factory.mktemp("videos")
  frames = np.zeros((9, 16, 16, 3), np.uint8)
  for i, name in enumerate(("a/w.mp4", *CAPTIONS)):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    sound = np.full((7200, 1), 0.1 * i, np.float32)
    reading.write_mp4(path, frames, sound, fps=10, sample_rate=8000)
  return folder


@pytest.fixture
def files(tmp_path):
  write_captions(tmp_path, CAPTIONS)
  np.savez(tmp_path / "vectors.npz", **{"b/y.mp4": VECTOR})
  return tmp_path


def write_captions(folder, captions):
  rows = [{"name": k, "caption": v} for k, v in captions.items()]
  text = "\n".join(map(json.dumps, rows))
  (folder / "captions.jsonl").write_text(text)


def run(videos, files, output="set", encoder=None, **options):
  encoder = encoder or TinyEncoder()
  manifest = prepare(
    videos,
    files / output,
    OPTIONS,
    captions=str(files / "captions.jsonl"),
    embeddings=str(files / "vectors.npz"),
    open_encoder=lambda: encoder,
    **options,
  )
  return manifest, encoder


def check_source(source):
  """All that the files said is there, and nothing else."""
  clips = {video: source.clip(video, 1) for video in source.videos}
  assert {k: list(x.captions()) for k, x in clips.items() if x.captions()} == (
    CAPTIONS
  )
  inputs = {k: x.inputs() for k, x in clips.items()}
  assert inputs["a/w.mp4"].keys() == {"label"}
  assert inputs["b/x.mp4"].keys() == {"label", "text"}
  for video, captions in CAPTIONS.items():
    wanted = [vector_of(caption) for caption in captions]
    np.testing.assert_array_equal(inputs[video]["text"], wanted)
  np.testing.assert_array_equal(inputs["b/y.mp4"]["embedding"], VECTOR)
  infos = source.inputs
  assert infos["text"].shape == (4,) and infos["text"].encoder == "tiny"
  assert infos["embedding"].shape == (3,)
  assert infos["label"].classes == ("a", "b")


def test_records_hold_captions_and_vectors(videos, files):
  manifest, encoder = run(videos, files, labels="folders")
  assert sorted(encoder.encoded) == ["rain", "wet\nstreet", "wind"]
  assert manifest.vectors == {
    "text": {"width": 4, "videos": 2, "encoder": "tiny"},
    "embedding": {"width": 3, "videos": 1},
  }
  assert [video.captions for video in manifest.videos] == [0, 2, 1]
  assert Manifest.load(files / "set") == manifest
  check_source(open_source(files / "set", SourceOptions(SPEC)))


def test_processes_do_not_change_the_records(videos, files):
  run(videos, files, "one", workers=1)
  run(videos, files, "two", workers=2)
  shards = [
    next((files / name).glob("*.tfrecord")).read_bytes()
    for name in ("one", "two")
  ]
  assert shards[0] == shards[1]


def test_rows_of_beam_carry_descriptions(tmp_path):
  known = Description(
    ("rain", "wet"), np.ones((2, 4), np.float32), VECTOR, label=3
  )
  task = ClipTask("p", "s", str(tmp_path), "key", OPTIONS, known)
  row = json.loads(json.dumps(on_beam._as_row(task)))
  rebuilt = on_beam._as_task(str(tmp_path), OPTIONS, row)
  assert rebuilt.description.captions == known.captions
  assert rebuilt.description.label == 3
  np.testing.assert_array_equal(rebuilt.description.text, known.text)
  np.testing.assert_array_equal(rebuilt.description.embedding, VECTOR)
  assert (rebuilt.path, rebuilt.source, rebuilt.key) == ("p", "s", "key")


def test_a_finished_data_set_is_not_encoded_again(videos, files):
  before, _ = run(videos, files)
  again, encoder = run(videos, files)
  assert again == before
  assert not encoder.encoded


def test_other_captions_vectors_or_encoders_are_another_data_set(videos, files):
  run(videos, files)

  class Other(TinyEncoder):
    sha256 = "other"

  with pytest.raises(ValueError, match="of other videos or options"):
    run(videos, files, encoder=Other())
  write_captions(files, CAPTIONS | {"b/y.mp4": ["storm"]})
  with pytest.raises(ValueError, match="of other videos or options"):
    run(videos, files)
  write_captions(files, CAPTIONS)
  np.savez(files / "vectors.npz", **{"b/y.mp4": VECTOR + 1})
  with pytest.raises(ValueError, match="of other videos or options"):
    run(videos, files)


def test_an_interrupted_run_encodes_what_is_left(videos, files, monkeypatch):
  """A part that was lost since is made again, with its vectors."""
  from data_prep import runners

  real = runners.prepare_clip

  def stop_at_the_last(task):
    if task.source == "b/y.mp4":
      raise KeyboardInterrupt
    return real(task)

  monkeypatch.setattr(
    runners.run_processes, "__defaults__", (stop_at_the_last,)
  )
  with pytest.raises(KeyboardInterrupt):
    run(videos, files, labels="folders")
  monkeypatch.setattr(runners.run_processes, "__defaults__", (real,))
  saved = shutil.copytree(files / "set", files / "copy")
  _, encoder = run(videos, files, labels="folders")
  assert encoder.encoded == ["wind"]
  check_source(open_source(files / "set", SourceOptions(SPEC)))
  for part in pathlib.Path(saved).glob(".parts/*.tfrecord"):
    part.unlink()
  _, encoder = run(videos, files, "copy", labels="folders")
  assert sorted(encoder.encoded) == ["rain", "wet\nstreet", "wind"]
  check_source(open_source(saved, SourceOptions(SPEC)))


def test_nothing_is_written_where_a_file_names_no_video(videos, files):
  write_captions(files, CAPTIONS | {"b/z.mp4": ["storm"]})
  with pytest.raises(ValueError, match="'b/z.mp4' is none of the 3 videos"):
    run(videos, files)
  assert not (files / "set").exists()


def test_captions_need_an_encoder(videos, files):
  with pytest.raises(ValueError, match="captions need a text encoder"):
    prepare(
      videos, files / "set", OPTIONS, captions=str(files / "captions.jsonl")
    )


def test_inspection_tells_of_captions_and_vectors(videos, files):
  run(videos, files, labels="folders")
  text = inspect_dataset.describe(files / "set")
  assert "labels: 2 classes, a, b\n" in text
  assert "captions: 3, on 2 of 3 videos; vectors of 4 numbers by" in text
  assert "text encoder tiny\n" in text
  assert "embeddings: on 1 of 3 videos; vectors of 3 numbers\n" in text


def test_the_contact_sheet_shows_captions(videos, files):
  from PIL import Image

  run(videos, files)
  prepare(videos, files / "bare", OPTIONS)
  heights = {}
  for name in ("set", "bare"):
    inspect_dataset.contact_sheet(files / name, files / "a.png", clips=3)
    heights[name] = Image.open(files / "a.png").height
  # Two rows of clips, each with a further line.
  assert heights["set"] - heights["bare"] == 2 * inspect_dataset._LABEL


def test_tfds_carries_what_only_some_videos_have(videos, files):
  pytest.importorskip("tensorflow_datasets")
  from data_prep import tfds_builder

  run(videos, files, labels="folders")
  tfds_builder.build(files / "set", "described", files)
  source = open_source(
    "tfds:described", SourceOptions(SPEC, tfds_dir=str(files))
  )
  check_source(source)
