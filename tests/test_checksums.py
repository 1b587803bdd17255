import sys
import zlib

import google_crc32c

from mmdiff_jax.disk import checksums


def test_checksums_are_those_of_the_libraries(tmp_path):
  content = bytes(range(256)) * 9000  # More than one piece.
  path = tmp_path / "file"
  path.write_bytes(content)
  assert checksums.checksum(path, "crc32") == f"{zlib.crc32(content):08x}"
  assert checksums.checksum(path) == f"{google_crc32c.value(content):08x}"


def test_every_kind_of_change_is_named(tmp_path):
  for name in ("same", "flipped", "shorter", "gone", "folder/deep"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("content")
  assert checksums.find_changes(tmp_path) is None
  checksums.write_checksums(tmp_path)
  assert checksums.find_changes(tmp_path) == []
  (tmp_path / "flipped").write_text("contenu")
  (tmp_path / "shorter").write_text("cont")
  (tmp_path / "gone").unlink()
  (tmp_path / "folder" / "deep").write_text("Content")
  (tmp_path / "new").write_text("not listed, not looked at")
  changes = checksums.find_changes(tmp_path)
  assert [line.split()[0] for line in changes] == [
    "flipped",
    "folder/deep",
    "gone",
    "shorter",
  ]
  # Sizes alone are compared of files that are larger than asked for.
  assert len(checksums.find_changes(tmp_path, largest=6)) == 2


def test_a_machine_without_crc32c_uses_what_python_has(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("content")
  checksums.write_checksums(tmp_path)
  monkeypatch.setitem(sys.modules, "google_crc32c", None)
  assert checksums.find_changes(tmp_path) == []  # It cannot tell.
  checksums.write_checksums(tmp_path)
  (tmp_path / "file").write_text("contenu")
  assert len(checksums.find_changes(tmp_path)) == 1


def test_damaged_checksums_are_said_to_be(tmp_path):
  for text in ("{", "[1]", '{"a": 1}', '{"a": {"bytes": 1}}'):
    (tmp_path / checksums.CHECKSUMS).write_text(text)
    assert len(checksums.find_changes(tmp_path)) == 1
