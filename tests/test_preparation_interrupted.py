"""A preparation that is stopped, killed or disturbed."""

import collections
import filecmp
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from data_prep import data_set, runners
from data_prep.clip_task import ClipOptions, ClipTask, prepare_clip
from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.tfrecord import index_path
from mmdiff_jax.disk import locks
from mmdiff_jax.media import reading
from mmdiff_jax.media.files import find_media
from tests.preparation_fixtures import (
  FLAGS,
  GOOD,
  RATE,
  ROOT,
  assert_same_files,
  run,
)


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
  original = reading.read_track

  def counting(path, *arguments):
    decoded[path] += 1
    return original(path, *arguments)

  monkeypatch.setattr(reading, "read_track", counting)
  assert run(many, output) == 0
  assert decoded.total() == 40 - done
  assert not parts.exists()
  monkeypatch.undo()
  assert run(many, tmp_path / "whole") == 0
  assert_same_files(output, tmp_path / "whole")


KILLED = """
import os, sys
from data_prep import data_set
from mmdiff_jax.cli import main
name, count, arguments = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
original = getattr(os, name)
def counted(*a, **k):
  global count
  count -= 1
  if count < 0:
    os.kill(os.getpid(), 9)
  return original(*a, **k)
setattr(os, name, counted)
main(["prepare", *arguments])
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
    patch.setattr(data_set, "make_plan", interrupted)
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
