import json
import sys
import zlib

import google_crc32c
import pytest

from mmdiff_jax.disk import checksums
from mmdiff_jax.disk.verify import find_changes


def test_checksums_are_those_of_the_libraries(tmp_path):
  content = bytes(range(256)) * 9000  # More than one piece.
  path = tmp_path / "file"
  path.write_bytes(content)
  assert checksums.checksum(path, "crc32") == f"{zlib.crc32(content):08x}"
  assert checksums.checksum(path) == f"{google_crc32c.value(content):08x}"


def test_every_kind_of_change_is_named(tmp_path):
  for name in ("same", "flipped", "shorter", "gone", "folder/deep", "other"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("content")
  assert find_changes(tmp_path) is None
  checksums.write_checksums(tmp_path)
  assert find_changes(tmp_path) == []
  (tmp_path / "flipped").write_text("contenu")
  (tmp_path / "shorter").write_text("cont")
  (tmp_path / "gone").unlink()
  (tmp_path / "folder" / "deep").write_text("Content")
  (tmp_path / "other").unlink()
  (tmp_path / "other").mkdir()  # 4096 "bytes", or others.
  (tmp_path / "new").write_text("not listed, not looked at")
  assert [line.split()[0] for line in find_changes(tmp_path)] == [
    "flipped",
    "folder/deep",
    "gone",
    "other",
    "shorter",
  ]
  # Sizes alone are compared of files that are larger than asked for.
  assert len(find_changes(tmp_path, largest=6)) == 3


def test_a_machine_without_crc32c_uses_what_python_has(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("content")
  checksums.write_checksums(tmp_path)
  monkeypatch.setitem(sys.modules, "google_crc32c", None)
  assert find_changes(tmp_path) == []  # It cannot tell.
  checksums.write_checksums(tmp_path)
  (tmp_path / "file").write_text("contenu")
  assert len(find_changes(tmp_path)) == 1


def test_a_file_that_is_written_late_carries_its_own_checksum(tmp_path):
  def write(content, **others):
    (tmp_path / "late").write_text(json.dumps({"ours": content, **others}))

  ours = checksums.seal({"pair": (1, 2), "name": "x"})
  write(ours, time=1)
  checksums.write_checksums(tmp_path, sealed={"late": ["ours"]})
  write(ours, time=2)
  assert find_changes(tmp_path) == []
  broken = [ours | {"name": "y"}, {"name": "x"}, [], 1, ours | {"new": 1}]
  for content in broken:
    write(content)
    (change,) = find_changes(tmp_path)
    assert change.startswith("late is not what was written")
  (tmp_path / "late").write_text("{")
  assert len(find_changes(tmp_path)) == 1
  (tmp_path / "late").unlink()
  assert find_changes(tmp_path) == ["late is missing"]


@pytest.mark.parametrize(
  "text",
  [
    "", "{", "[1]", "{}", "null", '{"a": 1}', '{"a": {"bytes": 1}}',
    '{"files": {}}', '{"version": 2, "files": {}}', '{"version": 2}',
    '{"checksum": "00000000"}', "[" * 3000,
  ],
)  # fmt: skip
def test_damaged_checksums_are_said_to_be(tmp_path, text):
  (tmp_path / checksums.CHECKSUMS).write_text(text)
  (change,) = find_changes(tmp_path)
  assert "damaged" in change and "\n" not in change


def test_no_character_of_the_list_changes_unseen(tmp_path):
  """Whatever stands there instead: another meaning is always noticed."""
  for name in ("a", "b"):
    (tmp_path / name).write_text(name)
  checksums.write_checksums(tmp_path, sealed={"c": []})
  (tmp_path / "c").write_text(json.dumps(checksums.seal({})))
  path = tmp_path / checksums.CHECKSUMS
  text = path.read_text()
  assert find_changes(tmp_path) == []
  for i, character in enumerate(text):
    for other in {"0", "1", "x", chr(ord(character) ^ 1)} - {character}:
      path.write_text(text[:i] + other + text[i + 1 :])
      try:
        same = json.loads(path.read_text()) == json.loads(text)
      except ValueError:
        same = False
      assert same == (find_changes(tmp_path) == []), text[i - 5 : i + 5]
