import collections
import filecmp
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from data_prep import data_set, make_synthetic, runners, videos_to_tfrecord
from data_prep.clip_task import ClipOptions, ClipTask, prepare_clip
from mmdiff_jax import locks
from mmdiff_jax.av import AVSpec
from mmdiff_jax.data import media
from mmdiff_jax.data.codec import decode_example
from mmdiff_jax.data.manifest import Manifest
from mmdiff_jax.data.media_files import find_media
from mmdiff_jax.data.pipeline import create_loader
from mmdiff_jax.data.sources import ClipList, SourceOptions, open_source
from mmdiff_jax.data.sources.prepared import open_tfrecord
from mmdiff_jax.data.tfrecord import index_path, read_records
from mmdiff_jax.evaluation.clip_sets import open_clips
from tests.conftest import make_tiny_config
from tests.media_fixtures import click_track, flash_frames, write

RATE = 8000
FLAGS = [
  "--fps=10", "--size=16", f"--sample_rate={RATE}", "--clip_frames=4",
]  # fmt: skip
GOOD = ["a.mp4", "sub/a.mp4", "sub/ключ é.mkv"]
ROOT = pathlib.Path(__file__).parents[1]


def moving(count, seed):
  """Frames that differ from each other and between seeds."""
  frames = flash_frames(np.arange(count) / 10, 32, 40)
  for index, frame in enumerate(frames):
    frame[:, (3 * index + seed) % 30 :][:, :8] = (200, 40 * seed, 90)
  return frames


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
  """A folder with good, odd and broken files."""
  folder = tmp_path_factory.mktemp("videos")
  (folder / "sub" / "deeper").mkdir(parents=True)
  for seed, (name, count) in enumerate(zip(GOOD, (10, 4, 17), strict=True)):
    sound = click_track(count / 10, RATE, clicks=(0.2,))
    write(folder / name, moving(count, seed), audio=sound, audio_rate=RATE)
  sound = click_track(1.0, RATE)
  write(folder / "short.mov", moving(3, 0), audio=sound[:2400], audio_rate=RATE)
  write(folder / "mute.webm", moving(8, 3), codec="libvpx")
  write(folder / "sound only.mp4", audio=sound, audio_rate=RATE)
  (folder / "empty.mp4").touch()
  (folder / "garbage.AVI").write_bytes(b"garbage" * 100)
  (folder / "notes.txt").write_text("not a video")
  media.write_gif_grid(
    folder / "dot.gif", np.zeros((1, 9, 1, 1, 3), np.uint8), fps=10
  )
  (folder / "link.mp4").symlink_to("a.mp4")
  (folder / "broken link.mp4").symlink_to("nowhere.mp4")
  (folder / "sub" / "deeper" / "up").symlink_to(folder)
  return folder


def run(videos, output, *flags):
  return videos_to_tfrecord.main(
    [f"--input={videos}", f"--output={output}", "--workers=1", *FLAGS, *flags]
  )


@pytest.fixture(scope="session")
def prepared(videos, tmp_path_factory):
  """Data set of all that can be used, the mute file included."""
  output = tmp_path_factory.mktemp("prepared") / "data"
  assert run(videos, output, "--missing_audio=silence", "--shards=3") == 0
  return output


def assert_same_files(left, right):
  names = sorted(path.name for path in left.iterdir())
  assert names == sorted(path.name for path in right.iterdir())
  equal, *different = filecmp.cmpfiles(left, right, names, shallow=False)
  assert different == [[], []]


def all_clips(output):
  return ClipList(open_tfrecord(output))


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
    name: media.read_media(videos / name, fps=10, size=16, sample_rate=RATE)
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
    clips.place(i)[0]: clips[i].given()["label"].tolist()
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
  assert all_clips(output)[0].given() == {}
  assert "classes" not in (output / "dataset.json").read_text()
  assert run(source, output, "--labels=folders") == 1
  shutil.copytree(source / "dog", source / "bird")
  assert run(source, output, "--labels=folders", "--overwrite") == 0
  clips = all_clips(output)
  assert clips[len(clips) - 1].given()["label"] == 2
  flat = tmp_path / "flat"
  flat.mkdir()
  shutil.copy(videos / "a.mp4", flat)
  assert run(flat, tmp_path / "none", "--labels=folders") == 1
  assert "all 1 videos lie directly in it" in capsys.readouterr().err


def test_workers_do_not_change_a_byte(videos, prepared, tmp_path):
  flags = ["--missing_audio=silence", "--shards=3", "--workers=2"]
  assert run(videos, tmp_path / "data", *flags) == 0
  assert_same_files(prepared, tmp_path / "data")


def test_killed_run_continues_to_the_same_bytes(videos, tmp_path, monkeypatch):
  many = tmp_path / "many"
  many.mkdir()
  for index in range(40):
    shutil.copy(videos / GOOD[index % 3], many / f"{index:02d}.mkv")
  output = tmp_path / "killed"
  command = [sys.executable, "-m", "data_prep.videos_to_tfrecord"]
  command += [f"--input={many}", f"--output={output}", "--workers=1", *FLAGS]
  environment = {**os.environ, "PYTHONPATH": str(ROOT)}
  process = subprocess.Popen(command, env=environment, cwd=ROOT)
  parts = output / data_set.PARTS
  while len(list(parts.glob("*.json"))) < 5 and process.poll() is None:
    time.sleep(0.005)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not (output / "dataset.json").exists()
  done = len(list(parts.glob("*.json")))
  assert 5 <= done < 40
  decoded = collections.Counter()
  original = media.read_track

  def counting(path, *arguments):
    decoded[path] += 1
    return original(path, *arguments)

  monkeypatch.setattr(media, "read_track", counting)
  assert run(many, output) == 0
  assert decoded.total() == 40 - done
  assert not parts.exists()
  monkeypatch.undo()
  assert run(many, tmp_path / "whole") == 0
  assert_same_files(output, tmp_path / "whole")


KILLED = """
import os, sys
from data_prep import data_set, videos_to_tfrecord
name, count, arguments = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
original = getattr(os, name)
def counted(*a, **k):
  global count
  count -= 1
  if count < 0:
    os.kill(os.getpid(), 9)
  return original(*a, **k)
setattr(os, name, counted)
videos_to_tfrecord.main(arguments)
"""


@pytest.mark.parametrize(
  ("name", "counts"),
  [("replace", range(0, 13, 3)), ("unlink", range(0, 12, 3)), ("rmdir", [0])],
)
def test_a_kill_at_any_point_is_made_good_by_the_next_run(
  videos, tmp_path, name, counts
):
  source = tmp_path / "in"
  source.mkdir()
  for index in range(2):
    shutil.copy(videos / GOOD[index], source / f"{index}.mkv")
  assert run(source, tmp_path / "whole", "--shards=2") == 0
  output = tmp_path / "killed"
  killed = 0
  for count in counts:
    # The odd ones replace the data set of the ones before.
    frames = 4 + count % 2
    arguments = [f"--input={source}", f"--output={output}", "--overwrite"]
    arguments += [
      *FLAGS,
      "--workers=1",
      "--shards=2",
      f"--clip_frames={frames}",
    ]
    process = subprocess.run(
      [sys.executable, "-c", KILLED, name, str(count), *arguments],
      cwd=ROOT,
      capture_output=True,
    )
    killed += process.returncode == -signal.SIGKILL
    assert run(source, output, "--shards=2", "--overwrite") == 0
    assert_same_files(tmp_path / "whole", output)
  assert killed >= len(counts) - 1


def test_a_missing_part_is_work_to_do(videos, tmp_path, monkeypatch):
  output = tmp_path / "data"

  def interrupted(*arguments):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(data_set, "assemble", interrupted)
    assert run(videos, output) == 130
  parts = sorted((output / data_set.PARTS).glob("*.tfrecord"))
  parts[0].unlink()
  next(p for p in parts[0].parent.glob("*.json")).write_text('{"fra')
  assert run(videos, output) == 0
  assert run(videos, tmp_path / "whole") == 0
  assert_same_files(output, tmp_path / "whole")


def test_two_runs_do_not_write_one_data_set(videos, tmp_path, capsys):
  with locks.locked(tmp_path / "data"):
    assert run(videos, tmp_path / "data") == 1
  error = capsys.readouterr().err
  assert f"in use by process {os.getpid()} on" in error
  assert error.count("\n") == 1


WORKER = """
import sys, time, pathlib, os
from data_prep import runners
def work(path):
  pathlib.Path(path, str(os.getpid())).touch()
  time.sleep(60)
if __name__ == "__main__":
  runners.run_processes([sys.argv[1]] * 4, 2, print, work=work)
"""


def test_workers_end_when_their_parent_is_killed(tmp_path):
  script = tmp_path / "script.py"
  script.write_text(WORKER)
  folder = tmp_path / "pids"
  folder.mkdir()
  parent = subprocess.Popen(
    [sys.executable, str(script), str(folder)],
    env={**os.environ, "PYTHONPATH": str(ROOT)},
  )
  deadline = time.monotonic() + 60
  while len(list(folder.iterdir())) < 2:
    assert parent.poll() is None and time.monotonic() < deadline
    time.sleep(0.05)
  parent.kill()
  parent.wait()
  left = {int(path.name) for path in folder.iterdir()}
  while left and time.monotonic() < deadline:
    left = {pid for pid in left if pathlib.Path(f"/proc/{pid}/task").exists()}
    time.sleep(0.05)
  assert not left


def test_a_finished_run_is_not_repeated(videos, prepared, capsys, tmp_path):
  output = tmp_path / "data"
  shutil.copytree(prepared, output)
  before = {p.name: p.stat().st_mtime_ns for p in output.iterdir()}
  flags = ["--missing_audio=silence", "--shards=3"]
  assert run(videos, output, *flags) == 0
  assert "already prepared" in capsys.readouterr().out
  assert before == {p.name: p.stat().st_mtime_ns for p in output.iterdir()}
  assert run(videos, output, *flags, "--channels=first") == 1
  assert "holds a data set of other videos" in capsys.readouterr().err
  assert run(videos, output, "--shards=1", "--overwrite") == 0
  assert [p.name for p in output.glob("*.tfrecord")] == [
    "clips-00000-of-00001.tfrecord"
  ]


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--clip_frames=1000000"], "none of the"),
    (["--runner=beam"], "needs Apache Beam"),
    (["--missing_audio=error"], "has no audio"),
  ],
)
def test_a_failed_run_leaves_the_old_data_set(
  videos, prepared, tmp_path, capsys, monkeypatch, flags, words
):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  output, source = tmp_path / "data", tmp_path / "in"
  shutil.copytree(prepared, output)
  source.mkdir()
  shutil.copy(videos / "mute.webm", source)
  assert run(source, output, "--overwrite", *flags) == 1
  assert words in capsys.readouterr().err
  assert_same_files(prepared, output)


def test_the_old_data_set_stays_until_the_new_one_is_written(
  videos, prepared, tmp_path, monkeypatch
):
  output = tmp_path / "data"
  shutil.copytree(prepared, output)

  def full_disk(path):
    raise OSError(f"{path}: no space")

  monkeypatch.setattr(data_set, "read_records", full_disk)
  flags = ["--shards=1", "--overwrite"]
  assert run(videos, output, *flags) == 1
  # The work that is done serves the next run.
  assert len(list((output / data_set.PARTS).glob("*.json"))) > 3
  equal, *different = filecmp.cmpfiles(
    prepared, output, os.listdir(prepared), shallow=False
  )
  assert different == [[], []]
  monkeypatch.undo()
  assert run(videos, output, *flags) == 0
  assert run(videos, tmp_path / "new", "--shards=1") == 0
  assert_same_files(output, tmp_path / "new")


def test_damaged_shards_are_prepared_again(videos, prepared, tmp_path, capsys):
  output = tmp_path / "data"
  shutil.copytree(prepared, output)
  flags = ["--missing_audio=silence", "--shards=3"]
  first, second, third = sorted(output.glob("*.tfrecord"))
  for damage, words in (
    (lambda: os.truncate(first, first.stat().st_size - 9), "truncated"),
    (lambda: os.truncate(second, 0), "truncated"),
    (third.unlink, "the shard is missing"),
    (
      lambda: [
        shutil.copy(a, b)
        for a, b in ((first, third), (index_path(first), index_path(third)))
      ],
      "2 records of 5",
    ),
  ):
    damage()
    assert run(videos, output, *flags) == 0
    text = capsys.readouterr().out
    assert words in text and "preparing the videos again" in text
    assert "nothing to do" not in text
    assert_same_files(prepared, output)


def test_a_run_stopped_for_missing_audio_continues(videos, tmp_path, capsys):
  source, output = tmp_path / "in", tmp_path / "out"
  source.mkdir()
  for name in ("a.mp4", "mute.webm"):
    shutil.copy(videos / name, source)
  assert run(source, output, "--missing_audio=error") == 1
  assert "the same command continues" in capsys.readouterr().err
  (source / "mute.webm").unlink()
  assert run(source, output, "--missing_audio=error") == 0
  assert not (output / data_set.PARTS).exists()


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
    with pytest.raises(SystemExit) as status:
      run(videos, tmp_path, flag)
    assert status.value.code == 2
    error = capsys.readouterr().err
    assert flag.split("=")[0] in error and words in error


def test_an_output_that_is_a_file_is_refused(videos, tmp_path, capsys):
  path = tmp_path / "file"
  path.touch()
  for output in (path, path / "below"):
    assert run(videos, output) == 1
    error = capsys.readouterr().err
    assert f"--output={output}: {path} is no folder" in error
    assert error.count("\n") == 1


def crashing_work(task):
  """Stands for a decoder that takes its process down on one file."""
  if task.source == "sub/a.mp4":
    os._exit(11)
  return prepare_clip(task)


def test_a_crashing_decoder_costs_one_file(videos, tmp_path):
  files, _ = find_media(videos)
  options = ClipOptions(
    AVSpec(4, 16, 16, 10.0, RATE), "raw", None, "mean", "skip"
  )
  tasks = [
    ClipTask(path, source, str(tmp_path), f"{i}", options)
    for i, (source, path) in enumerate(files)
    if source in GOOD
  ]
  reports = []
  runners.run_processes(tasks, 2, reports.append, work=crashing_work)
  by_source = {report["source"]: report for report in reports}
  assert len(reports) == 3
  assert by_source["sub/a.mp4"]["reason"] == "the decoder crashed on it"
  assert by_source["a.mp4"]["frames"] == 10


def test_beam_is_optional(videos, tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  assert run(videos, tmp_path, "--runner=beam") == 1
  assert "pip install apache-beam" in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_beam_makes_the_same_bytes(videos, prepared, tmp_path):
  pytest.importorskip("apache_beam")
  flags = ["--missing_audio=silence", "--shards=3", "--runner=beam"]
  assert run(videos, tmp_path / "data", *flags) == 0
  assert_same_files(prepared, tmp_path / "data")


def two_halves(path, bright=200):
  """A second of a 64x32 video, dark at left and right, bright in the middle."""
  frames = np.full((10, 32, 64, 3), 40, np.uint8)
  frames[:, :, 16:48] = bright
  sound = click_track(1.0, RATE)
  write(path, frames, audio=sound, audio_rate=RATE)


# Mean of the whole frame, of its top rows, and of its left columns.
@pytest.mark.parametrize(
  ("fit", "whole", "top", "left"),
  [("pad", 60, 0, 40), ("crop", 200, 200, 200), ("stretch", 120, 120, 40)],
)
def test_fit_is_recorded_and_raw_media_are_treated_alike(
  tmp_path, fit, whole, top, left
):
  (tmp_path / "videos").mkdir()
  two_halves(tmp_path / "videos" / "a.mp4")
  assert run(tmp_path / "videos", tmp_path / "data", f"--fit={fit}") == 0
  source = open_tfrecord(tmp_path / "data")
  assert source.fit == fit
  prepared = ClipList(source)[2].video().astype(float)
  assert prepared.shape == (4, 16, 16, 3)
  assert prepared.mean() == pytest.approx(whole, abs=6)
  assert prepared[:, :3].mean() == pytest.approx(top, abs=6)
  assert prepared[:, 5:11, :3].mean() == pytest.approx(left, abs=6)
  raw = open_source(
    tmp_path / "videos", SourceOptions(source.spec, ("video",), fit=fit)
  )
  np.testing.assert_array_equal(ClipList(raw)[2].video(), prepared)


def test_training_wants_the_fit_of_the_data(tmp_path):
  (tmp_path / "videos").mkdir()
  two_halves(tmp_path / "videos" / "a.mp4")
  assert run(tmp_path / "videos", tmp_path / "data", "--fit=crop") == 0
  config = make_tiny_config()
  config.data.update(
    source=f"tfrecord:{tmp_path / 'data'}",
    frames=4,
    height=16,
    width=16,
    sample_rate=RATE,
  )
  with pytest.raises(ValueError, match=r"fit crop \(config: pad\).* --fit"):
    create_loader(config.data, batch_size=1, seed=0)
  config.data.fit = "crop"
  batch = next(create_loader(config.data, batch_size=1, seed=0))
  assert batch["video"].mean() > 150


CONFIG = """
from configs import default

def get_config():
  config = default.get_config()
  config.data.update(frames=4, height=16, width=24, sample_rate=RATE)
  config.data.fit = "crop"
  config.model.cross_attention_windows = (1, 2, 4)
  return config
"""


def test_geometry_follows_from_a_configuration(tmp_path, capsys):
  (tmp_path / "videos").mkdir()
  two_halves(tmp_path / "videos" / "a.mp4")
  config = tmp_path / "own.py"
  places = [f"--input={tmp_path / 'videos'}", f"--output={tmp_path / 'data'}"]
  flags = [*places, "--workers=1", f"--for={config}"]
  config.write_text(CONFIG.replace("RATE", "8000"))
  assert videos_to_tfrecord.main([*flags, "--size=16"]) == 0
  source = open_tfrecord(tmp_path / "data")
  assert source.spec == AVSpec(4, 16, 16, 10.0, 8000)  # The flag goes before.
  assert source.fit == "crop"
  # 4 frames at 10 fps: 0.4 s; 64 divides 0.4 * 8160, not 0.4 * 8010.
  config.write_text(CONFIG.replace("RATE", "8010"))
  assert videos_to_tfrecord.main(flags) == 1
  error = capsys.readouterr().err
  assert "data.sample_rate=8010" in error and "8000 and 8160" in error
  config.write_text("get_config = 3")
  assert videos_to_tfrecord.main(flags) == 1
  assert "--for=" in capsys.readouterr().err
  assert videos_to_tfrecord.main([*places, "--for=landscap"]) == 1
  assert "there is no such file; give" in capsys.readouterr().err


def test_a_rate_that_the_usual_networks_refuse_is_noted(tmp_path, capsys):
  (tmp_path / "videos").mkdir()
  two_halves(tmp_path / "videos" / "a.mp4")
  assert run(tmp_path / "videos", tmp_path / "data", "--sample_rate=8010") == 0
  note = capsys.readouterr().err
  assert "3204 audio samples" in note and "8000 and 8160" in note


def test_help_names_every_flag(capsys):
  with pytest.raises(SystemExit):
    videos_to_tfrecord.main(["--help"])
  text = capsys.readouterr().out
  flags = "fps size sample_rate clip_frames workers shards missing_audio"
  for flag in [*flags.split(), "channels", "frame_format", "labels"]:
    assert f"--{flag}" in text
