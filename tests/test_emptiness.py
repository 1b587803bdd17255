import json

import numpy as np

from data_prep.emptiness import Emptiness, Limits
from data_prep.summary import summary
from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.manifest import Manifest, Video
from mmdiff_jax.data.sources import ClipList
from mmdiff_jax.data.sources.prepared import open_tfrecord
from tests.command_line import call
from tests.media_fixtures import write

RATE = 8000


def half_empty():
  """40 frames, the pictures still in 10-19, the sound silent in 20-39."""
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 256, (40, 16, 16, 3), np.uint8)
  frames[10:20] = frames[10]
  sound = rng.uniform(-0.5, 0.5, 4 * RATE).astype(np.float32)
  sound[2 * RATE :] = 0
  return frames, sound


def measured():
  empty = Emptiness()
  frames, sound = half_empty()
  for index, image in enumerate(frames):
    empty.add_picture(image)
    empty.add_sound(sound[800 * index : 800 * (index + 1), None])
  return empty


def brute_force(is_bad, frames=4):
  bad = [is_bad(range(i, i + frames)) for i in range(40 - frames + 1)]
  return {i for i, b in enumerate(bad) if b}


def starts(runs):
  return {i for begin, end in runs for i in range(begin, end)}


def test_clips_beyond_a_limit_are_those_that_counting_finds():
  empty = measured()
  assert empty.left_out(4, Limits()) == []
  assert starts(empty.left_out(4, Limits(max_silence=0.5))) == brute_force(
    lambda clip: sum(i >= 20 for i in clip) > 2
  )
  assert starts(empty.left_out(4, Limits(max_frozen=0.5))) == brute_force(
    lambda clip: sum(10 < i < 20 for i in list(clip)[1:]) > 1.5
  )
  # A uniform noise of +-0.5 has -10.8 dB; a quarter of it, 6 dB less.
  assert starts(empty.left_out(4, Limits(min_loudness=-14.5))) == brute_force(
    lambda clip: sum(i < 20 for i in clip) < 2
  )
  assert empty.seconds(10) == {"silent": 2.0, "still": 0.9, "black": 0.0}


def test_empty_clips_are_counted_and_can_be_left_out(tmp_path, capsys):
  (tmp_path / "in").mkdir()
  frames, sound = half_empty()
  write(
    tmp_path / "in" / "a.mkv",
    frames,
    codec="ffv1",
    pix_fmt="bgr0",
    audio=sound,
    audio_rate=RATE,
    audio_codec="pcm_s16le",
  )
  flags = [f"--input={tmp_path / 'in'}", "--fps=10", "--size=16"]
  flags += [f"--sample_rate={RATE}", "--clip_frames=4", "--workers=1"]
  assert call("prepare", *flags, f"--output={tmp_path / 'all'}") == 0
  assert "empty a.mkv: 2 s silent, 0.9 s still" in capsys.readouterr().out
  content = json.loads((tmp_path / "all" / "dataset.json").read_text())
  assert content["clips"][0]["empty"]["silent"] == 2.0
  assert len(ClipList(open_tfrecord(tmp_path / "all"))) == 37
  output = tmp_path / "loud"
  assert call("prepare", *flags, f"--output={output}", "--max_silence=0.5") == 0
  clips = ClipList(open_tfrecord(output))
  assert [clips.place(i)[1] for i in range(len(clips))] == list(range(19))
  for clip in clips:
    silent = np.abs(clip.audio()).reshape(4, -1).max(axis=1) == 0
    assert silent.sum() <= 2
  assert "18 clips left out" in capsys.readouterr().out
  flags += [f"--output={tmp_path / 'none'}", "--min_loudness=-1"]
  assert call("prepare", *flags) == 1
  assert "every clip is too quiet" in capsys.readouterr().err


def test_the_emptiest_videos_are_listed_and_the_rest_are_counted():
  spec = AVSpec(4, 8, 8, 10, RATE)
  videos = tuple(
    Video(f"{i}.mkv", frames=40, empty={"silent": float(i)}) for i in range(9)
  )
  manifest = Manifest(spec, "raw", None, videos, shards=())
  lines = [
    line for line in summary(manifest).splitlines() if line.startswith("empty")
  ]
  assert lines[0] == "empty 8.mkv: 8 s silent"
  assert len(lines) == 6
  assert lines[-1] == "empty in part: 3 more, listed in dataset.json"
