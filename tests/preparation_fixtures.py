"""A folder of good and bad videos, and the data set made of it."""

import filecmp
import pathlib

import numpy as np
import pytest

from mmdiff_jax.data.sources import ClipList
from mmdiff_jax.data.sources.prepared import open_tfrecord
from mmdiff_jax.media import reading
from tests.command_line import call
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
  reading.write_gif_grid(
    folder / "dot.gif", np.zeros((1, 9, 1, 1, 3), np.uint8), fps=10
  )
  (folder / "link.mp4").symlink_to("a.mp4")
  (folder / "broken link.mp4").symlink_to("nowhere.mp4")
  (folder / "sub" / "deeper" / "up").symlink_to(folder)
  return folder


def run(videos, output, *flags):
  places = (f"--input={videos}", f"--output={output}")
  return call("prepare", *places, "--workers=1", *FLAGS, *flags)


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
