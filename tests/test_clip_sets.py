import json

import numpy as np
import pytest

from mmdiff_jax.av import AVSpec
from mmdiff_jax.evaluation.clip_sets import open_clips
from mmdiff_jax.media import reading
from tests.prepared_fixtures import write_dataset

SPEC = AVSpec(frames=4, height=16, width=16, fps=10.0, sample_rate=8000)


def numbered_video(frames, height=16, width=16):
  """Frame i is of grey level 10 i."""
  levels = np.arange(frames, dtype=np.uint8) * 10
  return np.broadcast_to(
    levels[:, None, None, None], (frames, height, width, 3)
  )


def write_video(path, frames, audio=True, **size):
  sound = np.linspace(-0.5, 0.5, frames * 800)[:, None] if audio else None
  path.parent.mkdir(parents=True, exist_ok=True)
  reading.write_mp4(
    path, numbered_video(frames, **size), sound, fps=10, sample_rate=8000
  )


@pytest.fixture
def folder(tmp_path):
  write_video(tmp_path / "a.mp4", 4)
  write_video(tmp_path / "below" / "b.mp4", 13)
  write_video(tmp_path / "short.mp4", 3)
  write_video(tmp_path / ".hidden" / "c.mp4", 4)
  (tmp_path / "notes.txt").write_text("no video")
  return tmp_path


def test_a_folder_offers_the_clips_of_its_videos(folder):
  clips = open_clips(folder, SPEC)
  names = [str(clip) for clip in clips.ids]
  assert names == ["a.mp4", "below/b.mp4", "below/b.mp4@4", "below/b.mp4@8"]
  assert clips.available == 4
  assert clips.skipped == [
    ("*.txt", "1 file without a video"),
    ("short.mp4", "3 of the 4 frames of a clip"),
  ]


def test_a_clip_has_the_frames_and_the_sound_of_its_time(folder):
  clip = open_clips(folder, SPEC).load(2)
  assert clip["video"].shape == SPEC.video_shape
  levels = clip["video"].mean(axis=(1, 2, 3))
  np.testing.assert_allclose(levels, [40, 50, 60, 70], atol=2)
  ramp = np.linspace(-0.5, 0.5, 13 * 800)[4 * 800 : 8 * 800]
  np.testing.assert_allclose(clip["audio"], ramp, atol=0.05)


def test_larger_frames_are_reduced():
  """Quarters of one colour each stay quarters; a wide frame gets bars."""
  large = np.zeros((1, 4, 64, 64, 3), np.uint8)
  large[..., :32, 32:, :], large[..., 32:, :32, :] = 80, 160
  audio = np.zeros((1, 3200, 1), np.float32)
  video = open_clips({"video": large, "audio": audio}, SPEC).load(0)["video"]
  assert video.shape == SPEC.video_shape
  # Bicubic interpolation mixes the pixels next to an edge alone.
  corners = video.reshape(4, 2, 8, 2, 8, 3)[:, :, 2:-2, :, 2:-2]
  for row, column, level in ((0, 0, 0), (0, 1, 80), (1, 0, 160), (1, 1, 0)):
    assert (corners[:, row, :, column] == level).all()
  wide = np.full((1, 4, 32, 64, 3), 200, np.uint8)
  video = open_clips({"video": wide, "audio": audio}, SPEC).load(0)["video"]
  assert (video[:, 4:12] == 200).all()
  assert not video[:, :4].any() and not video[:, 12:].any()


def test_selection_takes_one_clip_of_every_video_in_turn():
  video = np.zeros((6, 12, 16, 16, 3), np.uint8)
  arrays = {"video": video, "audio": np.zeros((6, 9600, 1), np.float32)}
  clips = open_clips(arrays, SPEC)
  assert len(clips) == 18
  clips.select(8, seed=0)
  per_video = np.bincount([int(clip.source) for clip in clips.ids])
  assert sorted(per_video.tolist()) == [1, 1, 1, 1, 2, 2]
  again = open_clips(arrays, SPEC)
  again.select(8, seed=0)
  other = open_clips(arrays, SPEC)
  other.select(8, seed=1)
  assert again.ids == clips.ids != other.ids
  assert clips.available == 18


def test_arrays_files_and_folders_hold_the_same_clips(tmp_path):
  video = np.stack([numbered_video(4), numbered_video(4)[::-1]])
  audio = 0.5 * np.sin(np.arange(2 * 3200) * 0.2).reshape(2, 3200, 1)
  audio = audio.astype(np.float32)
  np.savez(tmp_path / "clips.npz", video=video, audio=audio)
  for i in range(2):
    path = tmp_path / "videos" / f"{i}.mp4"
    path.parent.mkdir(exist_ok=True)
    reading.write_mp4(path, video[i], audio[i], fps=10, sample_rate=8000)
  arrays = open_clips({"video": video, "audio": audio}, SPEC)
  archive = open_clips(tmp_path / "clips.npz", SPEC)
  files = open_clips(tmp_path / "videos", SPEC)
  for i in range(2):
    np.testing.assert_array_equal(
      arrays.load(i)["video"], archive.load(i)["video"]
    )
    np.testing.assert_allclose(
      files.load(i)["video"].astype(int), arrays.load(i)["video"], atol=3
    )
    error = files.load(i)["audio"] - arrays.load(i)["audio"]
    assert np.sqrt(np.mean(error**2)) < 0.03


def test_prepared_shards_hold_the_clips_of_their_videos(tmp_path):
  folder = write_dataset(tmp_path / "set", SPEC, [4, 13], shards=2)
  clips = open_clips(folder, SPEC)
  assert [clip.start for clip in clips.ids] == [0, 0, 4, 8]
  # Pixel (0, 0) holds the number of the video and of the frame.
  assert clips.load(3)["video"][:, 0, 0, :2].tolist() == [
    [1, n] for n in range(8, 12)
  ]


def test_shards_of_shorter_clips_are_refused(tmp_path):
  folder = write_dataset(tmp_path / "set", SPEC, [4])
  with pytest.raises(ValueError, match=r"4 frames at 10 fps .* wants 0.8 s"):
    open_clips(folder, AVSpec(frames=8, fps=10.0, sample_rate=8000))


def test_longer_clips_are_cut_into_several(tmp_path):
  folder = write_dataset(tmp_path / "set", SPEC, [4, 13])
  clips = open_clips(folder, AVSpec(2, 16, 16, 10.0, 8000))
  # A start at frame 2 of the first video has no prepared clip.
  starts = [(clip.source[-5], clip.start) for clip in clips.ids]
  assert starts == [("0", 0), *(("1", n) for n in (0, 2, 4, 6, 8))]
  assert clips.load(3)["video"][:, 0, 0, 1].tolist() == [4, 5]
  assert len(clips.load(3)["audio"]) == 1600


def test_digests_follow_the_content_and_the_geometry(tmp_path):
  video = np.zeros((3, 8, 16, 16, 3), np.uint8)
  video[1, 0, 0, 0] = 1
  arrays = {"video": video, "audio": np.zeros((3, 6400, 1), np.float32)}
  clips = open_clips(arrays, SPEC)
  digests = [clips.digest(i) for i in range(6)]
  # Clips: video 0 at 0 and 4, video 1 (changed at frame 0), video 2.
  assert digests[0] == digests[4] != digests[2]
  larger = open_clips(arrays, AVSpec(4, 32, 16, 10.0, 8000))
  assert larger.digest(0) != digests[0]


def test_missing_audio_is_an_error_where_it_is_needed(tmp_path):
  write_video(tmp_path / "mute.mp4", 4, audio=False)
  clips = open_clips(tmp_path, SPEC)
  with pytest.raises(ValueError, match="mute.mp4: has no audio"):
    clips.load(0)
  assert not clips.load(0, audio=False)["audio"].any()


@pytest.mark.parametrize(
  "arrays, message",
  [
    ({"video": np.zeros((2, 4, 8, 8, 3), np.uint8)}, "lacks audio"),
    (
      {"video": np.zeros((2, 4, 8, 8, 3)), "audio": np.zeros((2, 3200, 1))},
      "uint8",
    ),
    (
      {
        "video": np.zeros((2, 4, 8, 8, 3), np.uint8),
        "audio": np.zeros((2, 3000, 1)),
      },
      r"need \(2, 3200, 1\)",
    ),
    (
      {
        "video": np.zeros((2, 3, 8, 8, 3), np.uint8),
        "audio": np.zeros((2, 2400, 1)),
      },
      "no clip of 4 frames",
    ),
  ],
)
def test_bad_arrays_are_named(arrays, message):
  with pytest.raises(ValueError, match=message):
    open_clips(arrays, SPEC)


def test_bad_folders_are_named(tmp_path):
  with pytest.raises(ValueError, match="no such file or folder"):
    open_clips(tmp_path / "none", SPEC)
  with pytest.raises(ValueError, match="holds no media file"):
    open_clips(tmp_path, SPEC)
  (tmp_path / "broken.mp4").write_bytes(b"not a video")
  with pytest.raises(ValueError, match="broken.mp4: damaged"):
    open_clips(tmp_path, SPEC)


def test_upsampled_copies_of_samples_are_left_out(folder):
  write_video(folder / "a_64.mp4", 4, height=64, width=64)
  samples = [{"file": "a.mp4", "upscaled": "a_64.mp4"}, {"file": "b.mp4"}]
  (folder / "samples.json").write_text(json.dumps({"samples": samples}))
  sources = {clip.source for clip in open_clips(folder, SPEC).ids}
  assert sources == {"a.mp4", "below/b.mp4"}
