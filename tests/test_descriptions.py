"""Captions, embeddings and labels: their files, sources and batches."""

import json

import numpy as np
import pytest

from configs import default
from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.description_files import (
  match,
  read_captions,
  read_embeddings,
)
from mmdiff_jax.data.pipeline import create_loader
from mmdiff_jax.data.sources import (
  ClipList,
  DescriptionOptions,
  SourceOptions,
  open_source,
)
from mmdiff_jax.disk.safetensors import save_safetensors
from mmdiff_jax.media import reading
from mmdiff_jax.world.clips import CLASSES
from tests.tiny_encoder import TinyEncoder, vector_of

SPEC = AVSpec(4, 16, 16, 10.0, 8000)


def write(path, text):
  path.write_text(text, encoding="utf-8")
  return path


def test_captions_of_csv_are_read(tmp_path):
  """With other columns, a mark of byte order, quotes and a line break."""
  path = write(
    tmp_path / "a.csv",
    '\ufeffid,Caption, name\n1,"rain, then\nthunder",a/b.mp4\n\n'
    '2,"a ""loud"" bell",c.mp4\n3, wind ,a/b.mp4\n',
  )
  assert read_captions(path) == {
    "a/b.mp4": ("rain, then\nthunder", "wind"),
    "c.mp4": ('a "loud" bell',),
  }


def test_captions_of_jsonl_are_read(tmp_path):
  rows = [
    {"name": "a.mp4", "caption": "Regen ☔", "id": 7},
    {"name": "b.mp4", "caption": ["one\u2028line", "two"]},
    {"name": "a.mp4", "caption": "more"},
  ]
  text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
  assert read_captions(write(tmp_path / "a.JSONL", text)) == {
    "a.mp4": ("Regen ☔", "more"),
    "b.mp4": ("one\u2028line", "two"),
  }


@pytest.mark.parametrize(
  "name, text, message",
  [
    ("a.txt", "x", "give a .csv file with the columns name and caption, or"),
    ("a.csv", "a.mp4,rain\n", "line 1: the columns are a.mp4, rain; name and"),
    ("a.csv", "name,caption\na.mp4,\n", "line 2: the caption is empty"),
    ("a.csv", "name,caption\n,rain\n", "line 2: the name is empty"),
    ("a.csv", "name,caption\na.mp4\n", "line 2: the caption is empty"),
    ("a.csv", 'name,caption\na,"b\nc\n', "line 3: unexpected end"),
    ("a.csv", "name,caption\n", "holds no caption"),
    ("a.csv", "", "the columns are absent"),
    ("a.jsonl", '{"name": "a"}', "line 1 is not an object with name and cap"),
    ("a.jsonl", "[1]", "line 1 is not an object"),
    ("a.jsonl", '\n{"name": "a",', "line 2 is not JSON"),
    ("a.jsonl", '{"name": "a", "caption": 3}', "line 1: the caption is empty"),
    ("a.jsonl", '{"name": "a", "caption": ["b", " "]}', "caption is empty or"),
  ],
)
def test_what_is_wrong_with_captions_is_said_in_a_line(
  tmp_path, name, text, message
):
  with pytest.raises(ValueError, match=message) as error:
    read_captions(write(tmp_path / name, text))
  assert "\n" not in str(error.value)


def test_captions_that_are_not_text_are_named(tmp_path):
  (tmp_path / "a.csv").write_bytes(b"name,caption\na.mp4,\xff\xfe\n")
  with pytest.raises(ValueError, match="a.csv is not UTF-8 text"):
    read_captions(tmp_path / "a.csv")


def test_embeddings_of_all_forms_are_read(tmp_path):
  vectors = {
    "a/b.mp4": np.arange(3, dtype=np.float32),
    "c.mp4": np.ones(3, np.float32),
  }
  np.savez(tmp_path / "names.npz", **vectors)
  np.savez(
    tmp_path / "rows.npz",
    names=np.array(list(vectors)),
    embeddings=np.stack(list(vectors.values())).astype(np.float64),
  )
  save_safetensors(
    tmp_path / "a.safetensors", {k: x[None] for k, x in vectors.items()}
  )
  for path in tmp_path.iterdir():
    found = read_embeddings(path)
    assert list(found) == list(vectors)
    for name, vector in found.items():
      assert vector.dtype == np.float32
      np.testing.assert_array_equal(vector, vectors[name])


@pytest.mark.parametrize(
  "arrays, message",
  [
    ({"a": np.ones(2), "b": np.ones(3)}, "widths: 3 .'b'., 2 .'a'."),
    ({"a": np.ones((2, 3))}, r"'a' is float64\[2, 3\]; .* a vector of numbers"),
    ({"a": np.array("x")}, "'a' is <U1"),
    ({"a": np.array([1, np.nan])}, "'a' holds NaN or infinite"),
    ({"a": np.array([1e300])}, "'a' holds NaN or infinite"),
    ({}, "holds no vector"),
    (
      {"names": np.array(["a", "a"]), "embeddings": np.ones((2, 2))},
      "the same name twice",
    ),
    (
      {"names": np.array(["a"]), "embeddings": np.ones((2, 2))},
      "one text for each row",
    ),
  ],
)
def test_what_is_wrong_with_embeddings_is_said_in_a_line(
  tmp_path, arrays, message
):
  np.savez(tmp_path / "a.npz", **arrays)
  with pytest.raises(ValueError, match=message) as error:
    read_embeddings(tmp_path / "a.npz")
  assert "\n" not in str(error.value)


def test_files_that_hold_no_embeddings_are_named(tmp_path):
  with pytest.raises(ValueError, match="give a .npz or .safetensors file"):
    read_embeddings(write(tmp_path / "a.csv", "a"))
  with pytest.raises(ValueError, match="cannot be read as .npz"):
    read_embeddings(write(tmp_path / "a.npz", "a"))
  np.savez(tmp_path / "b.npz", a=np.array([{}]))
  with pytest.raises(ValueError, match="cannot be read as .npz"):
    read_embeddings(tmp_path / "b.npz")
  with pytest.raises(FileNotFoundError, match="c.npz does not exist"):
    read_embeddings(tmp_path / "c.npz")


def test_names_match_with_their_suffix_or_without():
  videos = ["a/b.mp4", "a/c.mp4", "a/c.mov", "d.1.mp4"]
  found = {"a/b": 1, "a/c.mov": 2, "d.1": 3}
  assert match(found, videos, "f") == {"a/b.mp4": 1, "a/c.mov": 2, "d.1.mp4": 3}


@pytest.mark.parametrize(
  "found, message",
  [
    (
      ["a/x.mp4", "a/b.mp4", "z"],
      r"f: 'a/x.mp4' \(and 1 more of its names\) is none of the 3 videos. "
      ".*did you mean 'a/b.mp4'",
    ),
    (["c"], "'c' may be 'c.mp4' or 'c.mov'"),
    (["a/b", "a/b.mp4"], "names 'a/b.mp4' twice"),
  ],
)
def test_names_that_fit_no_video_are_told(found, message):
  videos = ["a/b.mp4", "c.mp4", "c.mov"]
  with pytest.raises(ValueError, match=message):
    match(dict.fromkeys(found, 0), videos, "f")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Three videos, captions of two of them, and an embedding of one."""
  folder = tmp_path_factory.mktemp("described")
  for name in ("rain/a.mp4", "rain/b.mp4", "c.mp4"):
    path = folder / "videos" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    sound = np.zeros((3200, 1), np.float32)
    reading.write_mp4(path, frames, sound, fps=10, sample_rate=8000)
  write(
    folder / "captions.csv", "name,caption\nrain/a,rain\nrain/a,wet\nc,wind\n"
  )
  np.savez(folder / "vectors.npz", **{"rain/b.mp4": np.arange(3.0)})
  return folder


def data_config(source, **keys):
  data = default.get_config().data
  data.update(
    source=str(source), frames=4, height=16, width=16, sample_rate=8000
  )
  data.update(num_threads=1, flip_probability=0.0, **keys)
  return data


def options_of(folder, **keys):
  return SourceOptions(
    SPEC,
    descriptions=DescriptionOptions(
      captions=str(folder / "captions.csv"),
      embeddings=str(folder / "vectors.npz"),
      **keys,
    ),
  )


def test_a_folder_is_described_by_files_and_folders(folder):
  encoder = TinyEncoder()
  options = options_of(folder, labels="folders", open_encoder=lambda: encoder)
  source = open_source(folder / "videos", options)
  clips = {name: source.clip(name, 0) for name in source.videos}
  assert {name: clip.captions() for name, clip in clips.items()} == {
    "rain/a.mp4": ("rain", "wet"),
    "rain/b.mp4": (),
    "c.mp4": ("wind",),
  }
  texts = {k: x.inputs().get("text") for k, x in clips.items()}
  np.testing.assert_array_equal(
    texts["rain/a.mp4"], [vector_of("rain"), vector_of("wet")]
  )
  assert texts["rain/b.mp4"] is None
  assert "embedding" not in clips["c.mp4"].inputs()
  assert clips["rain/b.mp4"].inputs()["embedding"].tolist() == [0, 1, 2]
  assert "label" not in clips["c.mp4"].inputs()
  assert clips["rain/b.mp4"].inputs()["label"] == 0
  assert source.inputs["label"].classes == ("rain",)
  assert source.inputs["text"].shape == (4,)
  assert source.inputs["text"].encoder == "tiny"
  assert source.inputs["embedding"].shape == (3,)
  assert clips["c.mp4"].video().shape == (4, 16, 16, 3)


def test_captions_are_encoded_only_where_they_are_wanted(folder):
  source = open_source(folder / "videos", options_of(folder))
  assert "text" not in source.inputs
  assert source.clip("rain/a.mp4", 0).captions() == ("rain", "wet")


def test_batches_have_one_caption_and_say_what_is_absent(folder):
  data = data_config(
    folder / "videos",
    captions=str(folder / "captions.csv"),
    embeddings=str(folder / "vectors.npz"),
  )
  absent = {"text": np.zeros(4, np.float32), "embedding": np.full(3, -1.0)}
  loader = create_loader(
    data,
    names=["video", "text", "embedding"],
    batch_size=3,
    seed=0,
    num_epochs=30,
    absent=absent,
    open_encoder=TinyEncoder,
  )
  counts = {"rain": 0, "wet": 0, "wind": 0, "": 0}
  embeddings = set()
  for batch in loader:
    assert batch["text"].shape == (3, 4)
    for row in batch["text"]:
      (found,) = [
        text
        for text in counts
        if np.array_equal(row, vector_of(text) if text else np.zeros(4))
      ]
      counts[found] += 1
    embeddings |= set(map(tuple, batch["embedding"].tolist()))
  loader.close()
  assert counts["wind"] == counts[""] == counts["rain"] + counts["wet"] == 30
  assert min(counts["rain"], counts["wet"]) >= 5
  assert embeddings == {(0, 1, 2), (-1, -1, -1)}


def test_arrays_carry_captions_and_vectors(tmp_path):
  arrays = {
    "video": np.zeros((2, 4, 16, 16, 3), np.uint8),
    "audio": np.zeros((2, 3200), np.float32),
    "captions": np.array([["rain", "wet"], ["", ""]]),
    "embedding": np.ones((2, 5)),
  }
  np.savez(tmp_path / "a.npz", **arrays)
  options = SourceOptions(
    SPEC, descriptions=DescriptionOptions(open_encoder=TinyEncoder)
  )
  for name in (tmp_path / "a.npz", arrays):
    source = open_source(name, options)
    clips = ClipList(source)
    assert clips[0].captions() == ("rain", "wet")
    assert clips[1].captions() == ()
    assert clips[0].inputs()["text"].shape == (2, 4)
    assert clips[1].inputs().keys() == {"embedding"}
    assert source.inputs["embedding"].shape == (5,)
  with pytest.raises(ValueError, match=r"captions are <U1\[3\]; give texts"):
    open_source(arrays | {"captions": np.array(["a", "b", "c"])}, options)


def test_the_world_describes_its_clips():
  encoder = TinyEncoder()
  options = SourceOptions(
    SPEC,
    synthetic_clips=20,
    descriptions=DescriptionOptions(open_encoder=lambda: encoder),
  )
  source = open_source("synthetic", options)
  assert source.inputs["label"].classes[:2] == ("red disc", "red square")
  for clip in ClipList(source):
    color, kind = CLASSES[int(clip.inputs()["label"])]
    assert len(clip.captions()) >= 3
    for caption, vector in zip(
      clip.captions(), clip.inputs()["text"], strict=True
    ):
      assert color in caption and kind in caption
      np.testing.assert_array_equal(vector, vector_of(caption))
  assert len(encoder.encoded) == len(set(encoder.encoded))


@pytest.mark.parametrize(
  "source, key, message",
  [
    ("synthetic", "captions", "the world writes its own"),
    ("tfrecord:x", "embeddings", "is in its records; prepare them anew"),
  ],
)
def test_sources_that_describe_themselves_take_no_files(source, key, message):
  options = SourceOptions(
    SPEC, descriptions=DescriptionOptions(**{key: "file"})
  )
  with pytest.raises(ValueError, match=message):
    open_source(source, options)


def test_vectors_of_another_width_are_refused(folder):
  data = data_config(folder / "videos", embeddings=str(folder / "vectors.npz"))
  with pytest.raises(ValueError, match=r"\(3,\), but the network takes \(7,\)"):
    create_loader(
      data,
      names=["video", "embedding"],
      batch_size=1,
      seed=0,
      absent={"embedding": np.zeros(7)},
    )


def test_long_captions_are_told(folder, tmp_path, caplog):
  long = write(tmp_path / "long.csv", f"name,caption\nc,{'rain ' * 10_000}\n")
  options = SourceOptions(
    SPEC,
    descriptions=DescriptionOptions(
      captions=str(long), open_encoder=TinyEncoder
    ),
  )
  open_source(folder / "videos", options)
  assert "1 captions are longer than the 12 tokens" in caplog.text


def test_labels_need_folders(folder):
  options = SourceOptions(
    SPEC, descriptions=DescriptionOptions(labels="folders")
  )
  with pytest.raises(ValueError, match="all videos lie directly in it"):
    open_source(folder / "videos" / "rain", options)
  with pytest.raises(ValueError, match="labels='names' is unknown"):
    DescriptionOptions(labels="names")
