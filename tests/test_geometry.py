"""At which geometry an evaluation reads its sides, and what it says of it."""

import dataclasses
import json

import numpy as np
import pytest

from mmdiff_jax.av import AVSpec
from mmdiff_jax.evaluation.clip_sets import open_clips
from mmdiff_jax.evaluation.geometry import (
  Geometry,
  find_geometry,
  frames_needed,
  resample,
)
from tests.media_fixtures import click_track, flash_frames, write
from tests.prepared_fixtures import write_dataset

SPEC = AVSpec(8, 16, 24, 10.0, 8000)


def sampled(folder, spec, fit="pad"):
  """A folder as sampling leaves it, without the files."""
  folder.mkdir()
  geometry = dataclasses.asdict(spec) | {"fit": fit}
  content = {"settings": {"geometry": geometry}, "samples": []}
  (folder / "samples.json").write_text(json.dumps(content))
  return str(folder)


def filmed(folder, seconds=2.0):
  """A folder of one video of 48x64 at 25 fps with sound of 16 kHz."""
  folder.mkdir()
  frames = flash_frames(np.arange(round(25 * seconds)) / 25)
  sound = click_track(seconds, 16000)
  write(folder / "a.mp4", frames, rate=25, audio=sound, audio_rate=16000)
  return str(folder)


@pytest.mark.parametrize("order", [("real", "fake"), ("fake", "real")])
def test_sides_that_agree_are_read_as_they_are(tmp_path, order):
  places = {
    "real": str(write_dataset(tmp_path / "set", SPEC, [8])),
    "fake": sampled(tmp_path / "fake", SPEC),
  }
  found = find_geometry({side: places[side] for side in order})
  assert found == Geometry(SPEC)


def test_every_difference_is_said_and_records_go_first(tmp_path):
  real = f"tfrecord:{write_dataset(tmp_path / 'set', SPEC, [8])}"
  fake = sampled(tmp_path / "fake", AVSpec(8, 32, 48, 20.0, 16000), "crop")
  found = find_geometry({"real": real, "fake": fake})
  # 8 frames at 20 fps last for 4 of the records' frames.
  assert found.spec == dataclasses.replace(SPEC, frames=4)
  pixels, rate, sound, length, fit = sorted(found.notes, key=_place)
  assert pixels == ("fake (its samples.json): 32x48 pixels resampled to 16x24.")
  assert rate.endswith("20 frames a second resampled to 10.")
  assert sound.endswith("sound of 16000 Hz resampled to 8000.")
  assert length == "real (its data set): clips of 0.8 s cut to 0.4 s."
  assert "fitted by 'crop', the others by 'pad'" in fit


def _place(note):
  words = ("pixels", "frames a second", "sound", "cut to", "fitted by")
  return [word in note for word in words].index(True)


def test_raw_media_follow_the_other_side(tmp_path):
  real, fake = (
    filmed(tmp_path / "raw"),
    sampled(tmp_path / "fake", SPEC, "crop"),
  )
  found = find_geometry({"real": real, "fake": fake})
  assert (found.spec, found.fit) == (SPEC, "crop")
  assert found.notes == (
    "real says nothing of its geometry: read at that of fake (its "
    "samples.json), 8 frames of 16x24 at 10 fps, 8000 Hz.",
  )


def test_where_nothing_is_known_the_last_sides_first_file_decides(tmp_path):
  places = {n: filmed(tmp_path / n, s) for n, s in (("real", 2), ("fake", 1))}
  found = find_geometry(places)
  assert found.spec == AVSpec(25, 48, 64, 25.0, 16000)
  (note,) = found.notes
  assert (
    note.startswith("real says nothing") and "fake (its first file)" in note
  )


def test_what_is_asked_for_goes_before_what_is_known(tmp_path):
  real = str(write_dataset(tmp_path / "set", SPEC, [8]))
  fake = sampled(tmp_path / "fake", SPEC)
  found = find_geometry(
    {"real": real, "fake": fake}, {"height": 8, "frames": 2}
  )
  assert found.spec == dataclasses.replace(SPEC, frames=2, height=8)
  assert sum("16x24 pixels resampled to 8x24" in n for n in found.notes) == 2
  assert sum("0.8 s cut to 0.2 s" in n for n in found.notes) == 2


def test_arrays_say_their_size(tmp_path):
  arrays = {"video": np.zeros((2, 6, 16, 24, 3), np.uint8)}
  fake = sampled(tmp_path / "fake", SPEC)
  spec = find_geometry({"real": arrays, "fake": fake}).spec
  assert spec == dataclasses.replace(SPEC, frames=6)
  assert find_geometry({"real": arrays, "fake": arrays}).spec == AVSpec(
    6, 16, 24
  )


def test_a_damaged_listing_is_named(tmp_path):
  fake = sampled(tmp_path / "fake", SPEC)
  broken = {"settings": {"geometry": {"frames": "many"}}, "samples": []}
  (tmp_path / "fake" / "samples.json").write_text(json.dumps(broken))
  with pytest.raises(ValueError, match="not a listing of samples"):
    find_geometry({"real": fake, "fake": fake})


def test_a_resampled_clip_shows_and_sounds_the_same_moment():
  has, wanted = AVSpec(20, 16, 16, 20.0, 16000), AVSpec(4, 16, 16, 8.0, 8000)
  assert frames_needed(has, wanted) == 10
  video = np.arange(20, dtype=np.uint8)[:, None, None, None]
  video = np.broadcast_to(video, has.video_shape)
  tone = np.sin(2 * np.pi * 440 * np.arange(has.audio_length) / 16000)
  shown, heard = resample(video, tone.astype(np.float32), has, Geometry(wanted))
  # At 0, 1/8, 2/8 and 3/8 s the frames from 0, 2/20, 5/20, 7/20 s on show.
  assert shown[:, 0, 0, 0].tolist() == [0, 2, 5, 7]
  expected = np.sin(2 * np.pi * 440 * np.arange(wanted.audio_length) / 8000)
  np.testing.assert_allclose(heard[50:-50], expected[50:-50], atol=2e-3)


def test_records_and_files_of_other_rates_hold_the_same_clips(tmp_path):
  fast = AVSpec(8, 16, 16, 20.0, 16000)
  records = open_clips(
    str(write_dataset(tmp_path / "set", fast, [24])), AVSpec(4, 16, 16, 10.0)
  )
  # Frame n of the records holds n; every second one is shown.
  assert [clip.start for clip in records.ids] == [0, 8, 16]
  assert records.load(1)["video"][:, 0, 0, 1].tolist() == [8, 10, 12, 14]
