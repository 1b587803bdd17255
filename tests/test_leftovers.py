import multiprocessing
import os
import subprocess
import sys
import zlib

import pytest

from mmdiff_jax.disk import leftovers
from mmdiff_jax.disk.files import replacing
from mmdiff_jax.evaluation.cache import BlockCache


def process_that_has_ended():
  with subprocess.Popen([sys.executable, "-c", ""]) as process:
    process.wait()
  return process.pid


def own_name(path, process):
  path = leftovers.temporary_path(path)
  return path.with_name(path.name.replace(f".{os.getpid()}.", f".{process}."))


def test_what_the_dead_left_goes_and_what_the_living_write_stays(tmp_path):
  dead = process_that_has_ended()
  gone = own_name(tmp_path / "sample 1.mp4", dead)
  gone.write_bytes(b"half")
  folder = own_name(tmp_path / "export", dead)
  folder = folder.with_name(folder.name + ".orbax-checkpoint-tmp")
  (folder / "d").mkdir(parents=True)
  (folder / "d" / "data").write_bytes(b"half")
  living = own_name(tmp_path / "sample 1.mp4", os.getppid())
  living.write_bytes(b"more to come")
  others = [".lock", "a.tmp", f".x.{dead}.tmp", ".sample.mp4", ".x.abc.1.tmp"]
  for name in others:
    (tmp_path / name).write_bytes(b"")
  with replacing(tmp_path / "index") as temporary:
    open(temporary, "w").close()
    leftovers.remove_leftovers(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*others, living.name, os.path.basename(temporary)}


def test_other_machines_have_a_day(tmp_path, monkeypatch):
  monkeypatch.setattr(leftovers.socket, "gethostname", lambda: "elsewhere")
  path = own_name(tmp_path / "x", process_that_has_ended())
  monkeypatch.undo()
  assert f"{zlib.crc32(b'elsewhere'):08x}" in path.name
  path.touch()
  leftovers.remove_leftovers(tmp_path)
  assert path.exists()
  os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 90_000))
  leftovers.remove_leftovers(tmp_path)
  assert not path.exists()


def test_the_cache_of_an_evaluation_is_cleared(tmp_path):
  path = own_name(tmp_path / "features" / "a.npy", process_that_has_ended())
  path.parent.mkdir()
  path.touch()
  BlockCache(tmp_path, "features")
  assert not path.exists()


@pytest.mark.parametrize("below", [False, True])
def test_folders_below_are_cleared_where_that_is_asked(tmp_path, below):
  (tmp_path / "previews" / "2").mkdir(parents=True)
  path = own_name(tmp_path / "previews" / "2" / "x", process_that_has_ended())
  path.touch()
  leftovers.remove_leftovers(tmp_path, below=below)
  assert path.exists() != below


def _die_while_writing(path):
  with replacing(path) as temporary:
    open(temporary, "w").close()
    os._exit(9)


def test_a_process_that_dies_in_replacing_leaves_what_the_next_removes(
  tmp_path,
):
  process = multiprocessing.get_context("fork").Process(
    target=_die_while_writing, args=(tmp_path / "x",)
  )
  process.start()
  process.join()
  assert len(list(tmp_path.iterdir())) == 1
  leftovers.remove_leftovers(tmp_path)
  assert not list(tmp_path.iterdir())
