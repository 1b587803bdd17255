"""What a preparation makes of a folder of videos."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from data_prep import make_synthetic
from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.codec import decode_example
from mmdiff_jax.data.manifest import Manifest
from mmdiff_jax.data.tfrecord import read_records
from mmdiff_jax.evaluation.clip_sets import open_clips
from mmdiff_jax.media import reading
from tests.preparation_fixtures import (
  GOOD,
  RATE,
  ROOT,
  all_clips,
  assert_same_files,
  run,
)


def test_usable_files_are_used_and_the_others_have_a_reason(prepared):
  content = json.loads((prepared / "dataset.json").read_text())
  used = {clip["source"]: clip for clip in content["clips"]}
  assert sorted(used) == sorted([*GOOD, "mute.webm"])
  reasons = {item["source"]: item["reason"] for item in content["skipped"]}
  assert reasons.pop("link.mp4") == "a link to a.mp4"
  assert "too short for 4 frames" in reasons.pop("short.mov")
  assert reasons.pop("sound only.mp4") == "has no video"
  assert reasons.pop("empty.mp4") == "the file is empty"
  assert "not a media file" in reasons.pop("garbage.AVI")
  assert "1x1 pixels" in reasons.pop("dot.gif")
  assert reasons.pop("broken link.mp4") == "no such file"
  assert reasons.pop("*.txt") == "1 file without a video"
  assert not reasons
  assert used["mute.webm"]["repaired"] == ["has no audio: silence"]
  assert used["a.mp4"]["repaired"] == []
  assert content["counts"] == {
    "clips": 4,
    "skipped": 8,
    "repaired": 1,
    "records": 2 + 2 + 1 + 4,
    "windows": 7 + 5 + 1 + 14,
    "frames": 10 + 8 + 4 + 17,
  }
  assert content["hours"] == pytest.approx(39 / 36000, abs=1e-6)
  assert content["spec"] == {
    "frames": 4,
    "height": 16,
    "width": 16,
    "fps": 10.0,
    "sample_rate": RATE,
  }
  assert [shard["file"] for shard in content["shards"]] == [
    f"clips-0000{i}-of-00003.tfrecord" for i in range(3)
  ]
  assert sum(shard["records"] for shard in content["shards"]) == 9


def test_every_clip_is_there_once_with_its_own_sound(videos, prepared):
  source = all_clips(prepared)
  labels = [source[i].origin() for i in range(len(source))]
  counts = dict(zip([*GOOD, "mute.webm"], (10, 4, 17, 8), strict=True))
  expected = [f"{n} @{i}" for n, c in counts.items() for i in range(c - 3)]
  assert sorted(labels) == sorted(expected)
  whole = {
    name: reading.read_media(videos / name, fps=10, size=16, sample_rate=RATE)
    for name in GOOD
  }
  for index, label in enumerate(labels):
    name, start = label.rsplit(" @", 1)
    start, samples = int(start), RATE // 10
    ours = source[index]
    if name == "mute.webm":
      assert not ours.audio().any()
      continue
    clip = whole[name]
    np.testing.assert_array_equal(ours.video(), clip.video[start : start + 4])
    sound = clip.audio[start * samples : (start + 4) * samples]
    np.testing.assert_allclose(ours.audio(), sound, atol=2e-5)


def test_records_are_examples(prepared):
  shard = next(iter(sorted(prepared.glob("*.tfrecord"))))
  features = decode_example(next(read_records(shard)))
  assert bytes(features["video/format"][0]) == b"raw"
  assert len(features["video/frames"]) == 7
  assert len(features["video/frames"][0]) == 16 * 16 * 3
  assert features["clip/window_frames"].tolist() == [4]
  assert len(features["audio/pcm16"][0]) == 7 * RATE // 10 * 2


def test_folders_can_label_their_videos(videos, tmp_path, capsys):
  source, output = tmp_path / "in", tmp_path / "out"
  for name in ("dog/x.mp4", "cat/y.mp4", "dog/more/z.mp4", "stray.mp4"):
    (source / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(videos / "a.mp4", source / name)
  assert run(source, output, "--labels=folders") == 0
  manifest = Manifest.load(output)
  assert manifest.classes == ("cat", "dog")
  assert [reason for name, reason in manifest.skipped] == [
    "lies in no folder below --input, from which its label would follow"
  ]
  clips = all_clips(output)
  labels = {
    clips.place(i)[0]: clips[i].inputs()["label"].tolist()
    for i in range(len(clips))
  }
  assert labels == {"cat/y.mp4": 0, "dog/more/z.mp4": 1, "dog/x.mp4": 1}
  # Other labels are another data set; the parts of one do not serve the other.
  capsys.readouterr()
  assert run(source, output, "--labels=folders") == 0
  assert "already prepared" in capsys.readouterr().out
  assert run(source, output) == 1
  assert "of other videos or options" in capsys.readouterr().err
  assert run(source, output, "--overwrite") == 0
  assert all_clips(output)[0].inputs() == {}
  assert "classes" not in (output / "dataset.json").read_text()
  assert run(source, output, "--labels=folders") == 1
  shutil.copytree(source / "dog", source / "bird")
  assert run(source, output, "--labels=folders", "--overwrite") == 0
  clips = all_clips(output)
  assert clips[len(clips) - 1].inputs()["label"] == 2
  flat = tmp_path / "flat"
  flat.mkdir()
  shutil.copy(videos / "a.mp4", flat)
  assert run(flat, tmp_path / "none", "--labels=folders") == 1
  assert "all 1 videos lie directly in it" in capsys.readouterr().err


def test_workers_do_not_change_a_byte(videos, prepared, tmp_path):
  flags = ["--missing_audio=silence", "--shards=3", "--workers=2"]
  assert run(videos, tmp_path / "data", *flags) == 0
  assert_same_files(prepared, tmp_path / "data")


def test_any_file_name_is_shown_in_one_line(videos, tmp_path, capsysbinary):
  folder = tmp_path / "in"
  folder.mkdir()
  for name in (b"z\xff.mp4", b"x\xff.mp4", b"a\nskipped b.mp4"):
    path = folder / os.fsdecode(name)
    path.write_bytes(b"")
    assert run(folder, tmp_path / "none") == 1
  shutil.copy(videos / "a.mp4", folder / os.fsdecode(b"z\xff.mp4"))
  assert run(folder, tmp_path / "out") == 0
  out, err = capsysbinary.readouterr()
  assert b"\nskipped b.mp4" not in out + err
  assert b"\nskipped a\\nskipped b.mp4: the file is empty\n" in out
  assert b"skipped x\\udcff.mp4: " in out
  assert Manifest.load(tmp_path / "out").videos[0].source == "z\udcff.mp4"


def test_the_evaluation_skips_what_cannot_be_read(videos, caplog):
  clips = open_clips(videos, AVSpec(4, 16, 16, 10.0, RATE))
  assert {clip.source for clip in clips.ids} >= set(GOOD)
  reasons = dict(clips.skipped)
  assert reasons["empty.mp4"] == "the file is empty"
  assert "damaged" in reasons["garbage.AVI"]
  assert reasons["sound only.mp4"] == "has no video"
  assert f"{videos / 'empty.mp4'}: the file is empty" in caplog.text


def test_missing_audio_can_skip_or_stop(videos, tmp_path, capsys):
  assert run(videos, tmp_path / "skip") == 0
  skipped = dict(Manifest.load(tmp_path / "skip").skipped)
  assert skipped["mute.webm"] == "has no audio"
  assert run(videos, tmp_path / "error", "--missing_audio=error") == 1
  error = capsys.readouterr().err
  assert "has no audio; choose --missing_audio=skip or silence" in error
  assert not (tmp_path / "error" / "dataset.json").exists()


def test_one_file_is_prepared_as_in_a_folder(tmp_path, capsys):
  videos = tmp_path / "in"
  make_synthetic.write_folder(videos, [3], AVSpec(8, 16, 16, 10.0, 4000))
  [path] = videos.glob("*.mp4")
  geometry = ("--size=16", "--sample_rate=4000", "--clip_frames=4")
  assert run(videos, tmp_path / "folder", *geometry) == 0
  assert run(path, tmp_path / "file", *geometry) == 0
  [a], [b] = ((tmp_path / n).glob("*.tfrecord") for n in ("folder", "file"))
  assert a.read_bytes() == b.read_bytes()


def test_nothing_usable_is_an_error(tmp_path, capsys):
  folder = tmp_path / "in"
  assert run(folder, tmp_path / "out") == 1
  assert "no such directory" in capsys.readouterr().err
  folder.mkdir()
  assert run(folder, tmp_path / "out") == 1
  assert "no video below" in capsys.readouterr().err
  (folder / "a.mp4").write_bytes(b"")
  assert run(folder, tmp_path / "out") == 1
  assert "none of the 1 videos can be used (a.mp4: the file is empty)" in (
    capsys.readouterr().err
  )
  assert not (tmp_path / "out" / "dataset.json").exists()


@pytest.mark.parametrize(
  "flags, frame_format, tolerance",
  [(["--frame_format=png"], "png", 0), (["--frame_format=jpeg"], "jpeg", 25)],
)
def test_compressed_frames(
  videos, prepared, tmp_path, flags, frame_format, tolerance
):
  folder = tmp_path / "in"
  folder.mkdir()
  shutil.copy(videos / "a.mp4", folder)
  assert run(folder, tmp_path / "out", *flags) == 0
  manifest = Manifest.load(tmp_path / "out")
  assert manifest.frame_format == frame_format
  assert manifest.jpeg_quality == (95 if frame_format == "jpeg" else None)
  source, raw = all_clips(tmp_path / "out"), all_clips(prepared)
  assert source[2].origin() == raw[2].origin() == "a.mp4 @2"
  difference = source[2].video().astype(int) - raw[2].video()
  assert np.abs(difference).max() <= tolerance


def test_larger_frames_are_png_by_default(videos, tmp_path):
  folder = tmp_path / "in"
  folder.mkdir()
  shutil.copy(videos / "a.mp4", folder)
  assert run(folder, tmp_path / "out", "--size=72x80") == 0
  manifest = Manifest.load(tmp_path / "out")
  assert manifest.frame_format == "png"
  assert (manifest.spec.height, manifest.spec.width) == (72, 80)
  assert all_clips(tmp_path / "out")[0].video().shape == (4, 72, 80, 3)


def test_flags_are_checked(videos, tmp_path, capsys):
  assert run(videos, tmp_path, "--jpeg_quality=5") == 1
  assert "goes with --frame_format=jpeg" in capsys.readouterr().err
  for flag, words in (
    ("--fps=0", "from 0.01 to 1000"),
    ("--fps=1e9", "from 0.01 to 1000"),
    ("--fps=nan", "from 0.01 to 1000"),
    ("--fps=x", "a number"),
    ("--sample_rate=5", "from 1000 to 192000"),
    ("--size=0", "N or HxW"),
    ("--size=1x2x3", "N or HxW"),
    ("--size=axb", "N or HxW, such as"),
    ("--workers=-1", "at least 1"),
    ("--jpeg_quality=x", "from 1 to 100"),
  ):
    assert run(videos, tmp_path / "none", flag) == 1
    error = capsys.readouterr().err
    assert flag.split("=")[0] in error and words in error


def test_an_output_that_is_a_file_is_refused(videos, tmp_path, capsys):
  path = tmp_path / "file"
  path.touch()
  for output in (path, path / "below"):
    assert run(videos, output) == 1
    error = capsys.readouterr().err
    assert f"--output={output}: {path} is not a folder" in error
    assert error.count("\n") == 1


def test_the_first_name_of_the_command_is_the_same_program():
  for line in (
    ["-m", "data_prep.videos_to_tfrecord"],
    ["main.py", "prepare"],
  ):
    result = subprocess.run(
      [sys.executable, *line, "--inptu", "x"],
      cwd=ROOT,
      capture_output=True,
      text=True,
    )
    assert result.returncode == 1
    assert result.stderr == (
      "error: unknown flag --inptu. Did you mean --input?\n"
      "See: python main.py prepare --help\n"
    )
