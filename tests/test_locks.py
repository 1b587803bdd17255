import errno
import subprocess
import sys

import pytest

from mmdiff_jax.disk import flock, locks

HOLD = """
import sys, time
from mmdiff_jax.disk.locks import locked
with locked(sys.argv[1]):
  print("held", flush=True)
  time.sleep(60)
"""


def test_the_holder_is_named_and_its_death_frees_the_directory(tmp_path):
  holder = subprocess.Popen(
    [sys.executable, "-c", HOLD, str(tmp_path)],
    stdout=subprocess.PIPE,
    text=True,
  )
  try:
    assert holder.stdout.readline() == "held\n"
    with (
      pytest.raises(locks.InUseError, match=f"process {holder.pid} on "),
      locks.locked(tmp_path),
    ):
      pass
  finally:
    holder.kill()
    holder.wait()
  assert (tmp_path / locks.LOCK).exists()  # Left by the kill.
  with locks.locked(tmp_path):
    pass
  assert list(tmp_path.iterdir()) == []


def test_a_directory_is_made_and_its_loss_is_noticed(tmp_path):
  folder = tmp_path / "a" / "b"
  with locks.locked(folder) as lock:
    lock.check()
    folder.rename(tmp_path / "moved")
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match="b was deleted or replaced"):
      lock.check()


def test_a_file_system_without_locks_is_noted(tmp_path, monkeypatch, caplog):
  def refuse(file, operation):
    raise OSError(errno.ENOLCK, "No locks available")

  monkeypatch.setattr(flock.fcntl, "flock", refuse)
  with locks.locked(tmp_path):
    pass
  assert "cannot be locked (No locks available)" in caplog.text


def test_a_place_that_cannot_be_written_to_is_named():
  with (
    pytest.raises(OSError, match="/proc/nowhere"),
    locks.locked("/proc/nowhere"),
  ):
    pass


def test_a_disk_without_room_for_the_lock_is_named(tmp_path, monkeypatch):
  def pwrite(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(locks.os, "pwrite", pwrite)
  with (
    pytest.raises(OSError, match=str(tmp_path / locks.LOCK)),
    locks.locked(tmp_path),
  ):
    pass
  assert not list(tmp_path.iterdir())
