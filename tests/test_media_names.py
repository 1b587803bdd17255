"""Files without a film are named for what they are."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mmdiff_jax.media import files, reading
from tests.media_fixtures import write


def without_rights(program, *arguments):
  """Runs Python as a user to whom permissions apply; its output from JSON."""
  command = [sys.executable, "-c", program, *map(str, arguments)]
  if os.geteuid() == 0:
    if shutil.which("setpriv") is None:
      pytest.skip("needs setpriv, or a user without privileges")
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
  result = subprocess.run(command, capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr
  return json.loads(result.stdout)


FIND = """
import json, sys
from mmdiff_jax.media import files, reading
try:
  print(json.dumps(files.find_media(sys.argv[1])))
except ValueError as error:
  print(json.dumps(str(error)))
"""
READ = """
import json, sys
from mmdiff_jax.media import reading
try:
  reading.read_media(sys.argv[1])
except reading.MediaError as error:
  print(json.dumps(error.reason))
"""


def film(path):
  write(path, np.zeros((3, 48, 64, 3), np.uint8), container_format="mp4")
  return path


def test_what_may_not_be_read_is_named(tmp_path):
  film(tmp_path / "good.mp4")
  for name in ("bad.mp4", "film"):
    film(tmp_path / name).chmod(0)
  (tmp_path / "closed").mkdir()
  film(tmp_path / "closed" / "inner.mp4")
  (tmp_path / "deep" / "closed").mkdir(parents=True)
  for folder in (tmp_path / "closed", tmp_path / "deep" / "closed"):
    folder.chmod(0)
  try:
    found, left_out = without_rights(FIND, tmp_path)
    reason = without_rights(READ, tmp_path / "bad.mp4")
    root = without_rights(FIND, tmp_path / "closed")
  finally:
    for folder in (tmp_path / "closed", tmp_path / "deep" / "closed"):
      folder.chmod(0o700)
  denied = "cannot be opened: permission denied"
  assert [name for name, _ in found] == ["bad.mp4", "good.mp4"]
  assert dict(left_out) == {
    "closed/": denied,
    "deep/closed/": denied,
    "film": denied,
  }
  assert reason == denied
  assert root == f"{tmp_path / 'closed'} {denied}."


def test_photographs_and_animations_are_named(tmp_path):
  pictures = [
    Image.fromarray(np.full((64, 96, 3), 40 * i, np.uint8)) for i in range(5)
  ]
  pictures[1].save(tmp_path / "photo.avif")
  pictures[1].save(tmp_path / "still.webp")
  pictures[1].save(tmp_path / "photo.jpg")
  pictures[0].save(
    tmp_path / "moving.webp", save_all=True, append_images=pictures[1:]
  )
  shutil.copy(tmp_path / "photo.avif", tmp_path / "photo.mp4")
  shutil.copy(tmp_path / "moving.webp", tmp_path / "moving")
  found, left_out = files.find_media(tmp_path)
  webp = "animated WebP cannot be read"
  assert [name for name, _ in found] == ["photo.mp4"]
  assert dict(left_out) == {
    "photo.avif": "a still picture",
    "moving.webp": webp,
    "moving": webp,
    "*.webp": "1 file without a video",
    "*.jpg": "1 file without a video",
  }
  for name, reason in (
    ("photo.avif", "a still picture"),
    ("photo.mp4", "a still picture"),
    ("moving.webp", webp),
  ):
    for read in (reading.read_media, reading.read_audio):
      with pytest.raises(reading.MediaError) as caught:
        read(tmp_path / name)
      assert caught.value.reason == reason


def test_a_film_of_avif_is_a_film(tmp_path):
  pictures = [
    Image.fromarray(np.full((64, 96, 3), 40 * i, np.uint8)) for i in range(5)
  ]
  pictures[0].save(
    tmp_path / "moving.avif",
    save_all=True,
    append_images=pictures[1:],
    duration=100,
  )
  found, _ = files.find_media(tmp_path)
  assert [name for name, _ in found] == ["moving.avif"]
  assert len(reading.read_media(tmp_path / "moving.avif").video) == 5
