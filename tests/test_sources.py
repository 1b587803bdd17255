"""Sources by name: every kind, and the clips that are cut from them."""

import json

import numpy as np
import pytest

from configs import default
from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.clips import is_held_out
from mmdiff_jax.data.pipeline import create_loader
from mmdiff_jax.data.sources import (
  ClipList,
  SourceOptions,
  media_source,
  open_source,
)
from mmdiff_jax.media import files, reading
from mmdiff_jax.world.clips import CLASSES, make_clip, split_seed
from tests.prepared_fixtures import numbered_frame, write_dataset

SPEC = AVSpec(4, 16, 16, 10.0, 8000)
LENGTHS = (9, 4, 6)


def numbered_arrays():
  """Every pixel and sample says where it belongs."""
  video = np.stack(
    [
      [numbered_frame(SPEC, video, frame) for frame in range(9)]
      for video in range(3)
    ]
  )
  audio = np.arange(3 * 7200, dtype=np.float32).reshape(3, 7200, 1) / 32768
  return {"video": video, "audio": audio, "label": np.array([2, 0, 1])}


def grey_video(path, frames, audio=True, step=10):
  """Frame i is of grey level `step` i; the sound is a rising ramp."""
  levels = np.arange(frames, dtype=np.uint8) * step
  video = np.broadcast_to(levels[:, None, None, None], (frames, 16, 16, 3))
  sound = np.linspace(-0.5, 0.5, frames * 800)[:, None] if audio else None
  path.parent.mkdir(parents=True, exist_ok=True)
  reading.write_mp4(path, video, sound, fps=10, sample_rate=8000)


def loader_config(source, **overrides):
  data = default.get_config().data
  data.update(
    source=str(source), frames=4, height=16, width=16, sample_rate=8000
  )
  data.update(num_threads=2, flip_probability=0.0, **overrides)
  return data


def epoch(data, **options):
  loader = create_loader(data, batch_size=1, seed=0, num_epochs=1, **options)
  try:
    return list(loader)
  finally:
    loader.close()


def test_a_prepared_folder_needs_no_prefix(tmp_path):
  folder = write_dataset(tmp_path / "set", SPEC, LENGTHS)
  plain, named = (
    ClipList(open_source(name, SourceOptions(SPEC)))
    for name in (folder, f"tfrecord:{folder}")
  )
  assert len(plain) == len(named) == 6 + 1 + 3
  for i in range(len(plain)):
    np.testing.assert_array_equal(plain[i].video(), named[i].video())
    assert plain[i].origin() == named[i].origin()


def test_a_list_has_the_clips_at_its_stride_in_order(tmp_path):
  folder = write_dataset(tmp_path / "set", SPEC, (9, 3, 4, 12))
  source = open_source(folder, SourceOptions(SPEC))
  for stride in (1, 3, 4):
    clips = ClipList(source, stride)
    expected = [
      (f"video_{v:03d}.mp4", start)
      for v, frames in enumerate((9, 3, 4, 12))
      for start in range(0, frames - 4 + 1, stride)
    ]
    assert [clips.place(i) for i in range(len(clips))] == expected
    for i, (video, start) in enumerate(expected):
      pixel = clips[i].video()[0, 0, 0, :2].tolist()
      assert pixel == [int(video[6:9]), start]


def test_the_splits_part_the_videos_by_their_names():
  options = SourceOptions(SPEC, synthetic_clips=200)
  source = open_source("synthetic", options)
  sides = {
    split: {clips.place(i)[0] for i in range(len(clips))}
    for split in ("train", "heldout", "all")
    for clips in [ClipList(source, 1, split, 0.3)]
  }
  held = {name for name in source.videos if is_held_out(name, 0.3)}
  assert sides["heldout"] == held and 30 < len(held) < 90
  assert sides["train"] == sides["all"] - held
  assert len(sides["all"]) == 200
  assert len(ClipList(source, 1, "train", 0.0)) == 200
  with pytest.raises(ValueError, match="'test'; allowed: train, heldout, all"):
    ClipList(source, 1, "test")
  with pytest.raises(ValueError, match=r"must be in \[0, 1\), got 1.5"):
    ClipList(source, 1, "all", 1.5)


def test_a_name_of_no_kind_is_told_all_forms(tmp_path):
  with pytest.raises(ValueError) as error:
    open_source(tmp_path / "nothing", SourceOptions(SPEC))
  for form in ("'tfrecord:DIR'", "'tfds:NAME'", "'synthetic'", ".npz", "media"):
    assert form in str(error.value)


def test_training_reads_an_npz(tmp_path):
  arrays = numbered_arrays()
  np.savez(tmp_path / "clips.npz", **arrays)
  batches = epoch(
    loader_config(tmp_path / "clips.npz"), names=("video", "audio", "label")
  )
  seen = set()
  for batch in batches:
    video, start = batch["video"][0, 0, 0, 0, :2].tolist()
    np.testing.assert_array_equal(
      batch["video"][0], arrays["video"][video, start : start + 4]
    )
    np.testing.assert_array_equal(
      batch["audio"][0], arrays["audio"][video, start * 800 : (start + 4) * 800]
    )
    assert batch["label"].dtype == np.int32
    assert batch["label"].tolist() == [[2, 0, 1][video]]
    seen.add((video, start))
  assert seen == {(v, s) for v in range(3) for s in range(6)}
  assert len(batches) == 18


def test_training_reads_a_folder_of_videos(tmp_path, caplog):
  """Frame numbers and the ramp of sound tell which clip each one is."""
  grey_video(tmp_path / "a.mp4", 12)
  grey_video(tmp_path / "below" / "b.mkv", 7)
  grey_video(tmp_path / "mute.mp4", 8, audio=False)
  grey_video(tmp_path / "short.mp4", 3)
  (tmp_path / "broken.mp4").write_bytes(b"nothing" * 50)
  starts = []
  for batch in epoch(loader_config(tmp_path)):
    levels = batch["video"][0].mean(axis=(1, 2, 3)) / 10
    start = round(float(levels[0]))
    np.testing.assert_allclose(levels, start + np.arange(4), atol=0.25)
    ramp = batch["audio"][0, 400:-400, 0]
    slope = np.polyfit(np.arange(len(ramp)), ramp, 1)[0]
    frames = round(1 / slope / 800)
    expected = (start + 2) / frames - 0.5
    assert abs(ramp.mean() - expected) < 0.02
    starts.append((frames, start))
  assert sorted(starts) == [(7, s) for s in range(4)] + [
    (12, s) for s in range(9)
  ]
  assert "mute.mp4: has no audio" in caplog.text
  assert "broken.mp4: damaged" in caplog.text


def test_super_resolution_learns_from_a_folder_without_sound(tmp_path):
  grey_video(tmp_path / "mute.mp4", 8, audio=False)
  batches = epoch(
    loader_config(tmp_path), view="images", sr=default.get_config().sr
  )
  assert len(batches) == 5
  assert {b["low_res"].shape for b in batches} == {(1, 4, 4, 3)}


def test_decoded_videos_are_kept_up_to_a_number_of_bytes(tmp_path, monkeypatch):
  for name in "abc":
    grey_video(tmp_path / f"{name}.mp4", 8)
  decoded = []
  original = media_source._read

  def counting(path, *options):
    decoded.append(str(path)[-5])
    return original(path, *options)

  monkeypatch.setattr(media_source, "_read", counting)
  one = 8 * 16 * 16 * 3 + 4 * 8 * 800
  monkeypatch.setattr(media_source, "_CACHE_BYTES", 2 * one)
  source = open_source(tmp_path, SourceOptions(SPEC))
  for name in "abbacab":
    source.clip(f"{name}.mp4", 2).video()
  assert "".join(decoded) == "abcb"


@pytest.mark.parametrize("streams", [("video", "audio"), ("audio",)])
def test_a_long_file_lies_on_the_disk_and_reads_the_same(
  tmp_path, monkeypatch, streams
):
  grey_video(tmp_path / "a.mp4", 11)
  clips = []
  for limit in (2**26, 1000):
    monkeypatch.setattr(media_source, "_SPOOL_BYTES", limit)
    source = open_source(tmp_path, SourceOptions(SPEC, streams))
    content = source._decode("a.mp4")
    arrays = [a for a in (content.video, content.audio) if a is not None]
    assert len(arrays) == len(streams)
    assert all(isinstance(a, np.memmap) == (limit == 1000) for a in arrays)
    clips.append(arrays)
  for one, other in zip(*clips, strict=True):
    np.testing.assert_array_equal(one, other)
  whole = reading.read_media(
    tmp_path / "a.mp4",
    fps=SPEC.fps,
    size=(SPEC.height, SPEC.width),
    sample_rate=SPEC.sample_rate,
  )
  if len(streams) == 2:
    np.testing.assert_array_equal(clips[1][0], whole.video)
    np.testing.assert_array_equal(clips[1][1], whole.audio)


def test_a_video_that_ends_before_its_header_says_is_named(
  tmp_path, monkeypatch
):
  grey_video(tmp_path / "a.mp4", 6)
  monkeypatch.setattr(media_source, "_count_frames", lambda *_: 9)
  source = open_source(tmp_path, SourceOptions(SPEC))
  with pytest.raises(ValueError, match="a.mp4: lasts 0.60 s, but 0.90 s"):
    source.clip("a.mp4", 5).video()


def test_what_counts_as_a_medium_is_the_same_everywhere(tmp_path):
  names = ["B.MP4", "a/c.gif", "a/d.wav", "a/e.txt", ".hidden.mp4"]
  names += [".parts/f.mp4", "run/grid.gif", "run/s.mp4", "run/s_256.mp4"]
  names += ["run/gallery/s.mp4.png", "run/gallery/mine.mp4", "truth.json"]
  for name in names:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  (tmp_path / "link.mp4").symlink_to("B.MP4")
  (tmp_path / "a" / "up").symlink_to(tmp_path)
  listing = {"samples": [{"file": "s.mp4", "upscaled": "s_256.mp4"}]}
  (tmp_path / "run" / "samples.json").write_text(json.dumps(listing))
  found, left_out = files.find_media(tmp_path)
  assert [name for name, _ in found] == [
    "B.MP4", "a/c.gif", "run/gallery/mine.mp4", "run/s.mp4"
  ]  # fmt: skip
  assert dict(left_out) == {
    "*.txt": "1 file without a video",
    "*.wav": "1 file without a video",
    "link.mp4": "a link to B.MP4",
    "run/s_256.mp4": "samples.json does not list it as a sample",
  }
  sounds, _ = files.find_media(tmp_path, sound_alone=True)
  assert [n for n, _ in sounds] == [
    "B.MP4", "a/c.gif", "a/d.wav", "run/gallery/mine.mp4", "run/s.mp4"
  ]  # fmt: skip


def synthetic_labels(count):
  """(audio, label) of each clip by what its attributes say."""
  for number in range(count):
    clip = make_clip(split_seed("train", number), SPEC)
    shape = clip.attributes[0]
    color = ["red", "green", "blue"].index(shape["color"])
    kind = ["disc", "square", "triangle"].index(shape["kind"])
    yield clip.audio, 3 * color + kind


def test_synthetic_labels_are_colour_and_kind_whether_flipped_or_not():
  data = loader_config("synthetic", synthetic_clips=40)
  for flip in (0.0, 1.0):
    data.flip_probability = flip
    batches = epoch(data, names=("audio", "label"))
    found = {b["audio"][0].tobytes(): int(b["label"][0]) for b in batches}
    expected = {a.tobytes(): label for a, label in synthetic_labels(40)}
    assert found == expected
    assert len(set(found.values())) > 6
    assert batches[0].keys() == {"audio", "label"}
    assert batches[0]["label"].dtype == np.int32
  assert len(CLASSES) == 9 and CLASSES[5] == ("green", "triangle")


def test_a_synthetic_clip_is_rendered_once(monkeypatch):
  from mmdiff_jax.world import clips

  rendered = []

  def counting(seed, spec):
    rendered.append(seed)
    return make_clip(seed, spec)

  monkeypatch.setattr(clips, "make_clip", counting)
  clip = open_source("synthetic", SourceOptions(SPEC)).clip(
    "synthetic/00000003", 0
  )
  clip.inputs(), clip.video(), clip.audio(), clip.frame(1)
  assert rendered == [split_seed("train", 3)]


def test_a_feature_that_the_source_lacks_is_named(tmp_path):
  data = loader_config("synthetic", synthetic_clips=2)
  with pytest.raises(ValueError, match="no text; it has video, audio, label"):
    create_loader(data, names=("video", "text"), batch_size=1, seed=0)
  folder = write_dataset(tmp_path / "set", SPEC, LENGTHS)
  data = loader_config(folder)
  with pytest.raises(ValueError, match="no label; it has video, audio"):
    create_loader(data, names=("label",), batch_size=1, seed=0)
  with pytest.raises(ValueError, match="no video; it has image, low_res"):
    create_loader(
      data,
      view="images",
      names=("image", "video"),
      sr=default.get_config().sr,
      batch_size=1,
      seed=0,
    )
  with pytest.raises(ValueError, match="view 'sounds'; allowed: clips, images"):
    create_loader(data, view="sounds", batch_size=1, seed=0)
  with pytest.raises(ValueError, match="needs sr"):
    create_loader(data, view="images", batch_size=1, seed=0)


def test_what_records_carry_reaches_the_batch(tmp_path):
  given = [
    {"label": v, "place": np.array([[0.5, v]]), "empty": np.zeros((0, 2))}
    for v in (7, -3, 2)
  ]
  folder = write_dataset(tmp_path / "set", SPEC, LENGTHS, given=given)
  names = ("video", "label", "place", "empty")
  for batch in epoch(loader_config(folder), names=names):
    assert batch.keys() == set(names)
    video = int(batch["video"][0, 0, 0, 0, 0])
    assert batch["label"].tolist() == [given[video]["label"]]
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["place"][0], given[video]["place"])
    assert batch["place"].dtype == np.float32
    assert batch["empty"].shape == (1, 0, 2)


def test_tfds_carries_what_is_given(tmp_path):
  pytest.importorskip("tensorflow_datasets")
  from data_prep import tfds_builder

  given = [{"label": v, "place": np.array([0.5, v])} for v in (7, 0, 2)]
  folder = write_dataset(tmp_path / "set", SPEC, LENGTHS, given=given)
  tfds_builder.build(folder, "labelled", tmp_path)
  names = ("audio", "label", "place")
  records = epoch(loader_config(folder), names=names)
  tfds = epoch(
    loader_config("tfds:labelled", tfds_dir=str(tmp_path)), names=names
  )
  assert len(tfds) == len(records) == 10
  for ours, theirs in zip(records, tfds, strict=True):
    for name in names:
      np.testing.assert_array_equal(ours[name], theirs[name])
      assert ours[name].dtype == theirs[name].dtype
