import contextlib
import errno
import pathlib
import shutil
import subprocess
import sys

import pytest

from mmdiff_jax.disk import flock, leftovers
from mmdiff_jax.disk.files import replacing
from mmdiff_jax.evaluation.cache import ClipCache

ROOT = pathlib.Path(__file__).parents[1]
WRITE = """
import sys, time, pathlib
from mmdiff_jax.disk import files, leftovers
path = pathlib.Path(sys.argv[2])
if sys.argv[1] == "file":
  with files.replacing(path) as temporary:
    open(temporary, "wb").write(b"half")
    print("writing", flush=True)
    sys.stdin.readline()
else:
  with leftovers.temporary_folder(path) as temporary:
    # As orbax does: what is not complete has a longer name.
    half = temporary.with_name(temporary.name + ".orbax-checkpoint-tmp")
    (half / "d").mkdir(parents=True)
    (half / "d" / "data").write_bytes(b"half")
    print("writing", flush=True)
    sys.stdin.readline()
    half.rename(path)
"""
CLEAR = """
import sys
from mmdiff_jax.disk.leftovers import remove_leftovers
remove_leftovers(sys.argv[1], below=True)
"""
# Process 1 of another container: the writer's number is no process's there.
CONTAINER = (
  "unshare",
  "--user",
  "--map-root-user",
  "--pid",
  "--fork",
  "--mount-proc",
)


@contextlib.contextmanager
def writing(kind, path):
  """A process that has begun to write and waits for a line."""
  with subprocess.Popen(
    [sys.executable, "-c", WRITE, kind, str(path)],
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == "writing\n"
    try:
      yield process
    finally:
      process.kill()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_being_written_stays_and_is_finished(tmp_path, kind):
  with writing(kind, tmp_path / "x") as process:
    before = sorted(tmp_path.rglob("*"))
    leftovers.remove_leftovers(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    process.communicate("go on\n")
    assert process.returncode == 0
  assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_was_writing_goes(tmp_path, kind):
  with writing(kind, tmp_path / "x"):
    pass
  assert len(list(tmp_path.iterdir())) == (1 if kind == "file" else 2)
  leftovers.remove_leftovers(tmp_path)
  assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
  shutil.which("unshare") is None
  or subprocess.run([*CONTAINER, "true"], capture_output=True).returncode != 0,
  reason="this user may not make a container",
)
def test_another_container_on_the_same_volume_leaves_it_alone(tmp_path):
  with writing("file", tmp_path / "x") as process:
    subprocess.run(
      [*CONTAINER, sys.executable, "-c", CLEAR, str(tmp_path)],
      cwd=ROOT,
      check=True,
    )
    process.communicate("go on\n")
    assert process.returncode == 0
  assert (tmp_path / "x").read_bytes() == b"half"


def test_files_of_others_stay(tmp_path):
  names = [".lock", "a.tmp", ".x.tmp", ".sample.mp4", ".x.abc.1.tmp"]
  names += [f"x.{'0' * 16}.tmp", f".x.{'0' * 16}.tmp.png"]
  for name in names:
    (tmp_path / name).write_bytes(b"")
  (tmp_path / f".x.{'0' * 16}.tmp").write_bytes(b"")  # Ours, and left over.
  leftovers.remove_leftovers(tmp_path)
  assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_writer_whose_new_file_is_taken_for_left_over_makes_another(
  tmp_path, monkeypatch
):
  """The moment between the making of a file and its lock."""
  lock, taken = leftovers.try_lock, []

  def late(file):
    if not taken:
      (name,) = tmp_path.iterdir()
      name.unlink()
      taken.append(name)
    return lock(file)

  monkeypatch.setattr(leftovers, "try_lock", late)
  with replacing(tmp_path / "x") as temporary:
    assert [str(path) for path in tmp_path.iterdir()] == [temporary]
    assert temporary != str(taken[0])
    pathlib.Path(temporary).write_text("whole")
  assert (tmp_path / "x").read_text() == "whole"


def test_without_locks_nothing_is_taken_for_left_over(tmp_path, monkeypatch):
  with writing("file", tmp_path / "x"):
    pass

  def refuse(file, operation):
    raise OSError(errno.ENOLCK, "No locks available")

  monkeypatch.setattr(flock.fcntl, "flock", refuse)
  with replacing(tmp_path / "y") as temporary:
    open(temporary, "w").close()
    leftovers.remove_leftovers(tmp_path)
  assert len(list(tmp_path.iterdir())) == 2


def test_the_longest_name_that_a_file_can_have_is_written(tmp_path):
  name = "\u00e9" * 127
  with replacing(tmp_path / name) as temporary:
    pathlib.Path(temporary).write_text("whole")
  assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_cache_of_an_evaluation_is_cleared(tmp_path):
  with writing("file", tmp_path / "features" / "mel-0" / "a"):
    pass
  folder = tmp_path / "features" / "mel-0"
  assert list(folder.iterdir())
  ClipCache(tmp_path, "features")
  assert not list(folder.iterdir())


@pytest.mark.parametrize("below", [False, True])
def test_folders_below_are_cleared_where_that_is_asked(tmp_path, below):
  place = tmp_path / "previews" / "2"
  with writing("file", place / "x"):
    pass
  leftovers.remove_leftovers(tmp_path, below=below)
  assert len(list(place.iterdir())) == (not below)
