"""Edit lists of mp4 and mov are played to the picture and the sample."""

import numpy as np
import pytest

from mmdiff_jax.media import reading
from mmdiff_jax.media.boxes import read_boxes
from tests.media_fixtures import write
from tests.mp4_fixtures import set_edits

FPS, RATE, SECONDS = 10, 16000, 8.0
# Edit lists: (first second that is played, or None for a gap; seconds).
LISTS = {
  "a cut": [(0, 1.7), (3.2, 3)],
  "two that adjoin": [(0, 2.5), (2.5, 3)],
  "backwards": [(4.2, 2), (1.1, 2.5)],
  "three times the same": [(1.5, 1), (1.5, 1), (1.5, 1)],
  "four": [(0.3, 0.9), (1.7, 0.8), (3.4, 1.1), (5.2, 1.5)],
  "a gap": [(0, 1.7), (None, 1.2), (3.2, 3)],
  "a picture that stands": [(0.5, 1.0), (2.0, 1.5, 0), (4.0, 2.0)],
}


def film(path, codec="libx264", options=None, audio_codec="aac"):
  """Frame i has grey level 2 i; the sound is a tone that rises evenly."""
  count = round(SECONDS * FPS)
  levels = (40 + 2 * np.arange(count)).astype(np.uint8)
  frames = np.broadcast_to(levels[:, None, None, None], (count, 48, 64, 3))
  time = np.arange(round(SECONDS * RATE)) / RATE
  # 400 Hz at the beginning, 2000 Hz after eight seconds.
  sound = 0.5 * np.sin(2 * np.pi * (400 * time + 100 * time**2))
  write(
    path,
    frames,
    rate=FPS,
    codec=codec,
    options=options,
    audio=sound,
    audio_rate=RATE,
    audio_codec=audio_codec,
  )


def second_seen(image):
  return (float(image.mean()) - 40) / 2 / FPS


def second_heard(audio):
  """Of the tone, from its frequency; None for silence."""
  if np.sqrt(np.mean(audio**2)) < 0.1:
    return None
  spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 1 << 16))
  return (spectrum.argmax() * RATE / (1 << 16) - 400) / 200


def played(rows, time):
  """Second of the film at a time; whether its sound is heard."""
  before = 0.0
  for begin, seconds, *speed in rows:
    if time < before + seconds - 1e-6:
      if begin is None:
        return None, False
      moves = speed != [0]
      return begin + (time - before) * moves, moves
    before += seconds
  raise AssertionError


def check(path, rows):
  item = reading.read_media(path, fps=FPS, sample_rate=RATE)
  seconds = sum(row[1] for row in rows)
  assert len(item.video) == pytest.approx(seconds * FPS, abs=0.5)
  assert not any("restart" in words for words in item.repairs)
  seen = None
  for index, image in enumerate(item.video):
    begin, end = index * RATE // FPS, (index + 1) * RATE // FPS
    wanted, heard = played(rows, index / FPS)
    # In a gap the picture before it stands.
    seen = seen if wanted is None else int(wanted * FPS + 1e-6) / FPS
    assert second_seen(image) == pytest.approx(seen, abs=0.06), index
    found = second_heard(item.audio[begin:end, 0])
    if heard:
      # Of the middle of this frame's sound.
      assert found == pytest.approx(wanted + 0.5 / FPS, abs=0.06), index
    else:
      assert found is None


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_several_edits_are_played_as_they_say(tmp_path, name):
  path = tmp_path / "a.mp4"
  film(path, options={"x264-params": "keyint=30:bframes=2:b-adapt=0"})
  set_edits(path, LISTS[name])
  check(path, LISTS[name])


@pytest.mark.parametrize(
  "name, codec, options, sound",
  [
    ("a.mp4", "libx264", {"x264-params": "keyint=1"}, "aac"),
    ("a.mov", "libx264", {"x264-params": "keyint=240:open-gop=1"}, "pcm_s16le"),
    ("a.mov", "mpeg4", {"bf": "2", "qmax": "2"}, "pcm_s16le"),
    ("a.mp4", "libx265", {"x265-params": "keyint=20:log-level=0"}, "aac"),
  ],
)
def test_cuts_of_other_codecs_and_distances_of_key_frames(
  tmp_path, name, codec, options, sound
):
  path = tmp_path / name
  film(path, codec, options, sound)
  set_edits(path, LISTS["four"])
  check(path, LISTS["four"])


def test_each_track_has_its_own_edits(tmp_path):
  path = tmp_path / "a.mp4"
  film(path)
  set_edits(path, {0: [(1, 2), (5, 2)], 1: [(0.5, 4)]})
  item = reading.read_media(path, fps=FPS, sample_rate=RATE)
  for index, image in enumerate(item.video):
    seen = index / FPS + (1 if index < 20 else 3)
    assert second_seen(image) == pytest.approx(seen, abs=0.06)
    begin = index * RATE // FPS
    heard = second_heard(item.audio[begin : begin + RATE // FPS, 0])
    assert heard == pytest.approx(0.5 + (index + 0.5) / FPS, abs=0.06)


def test_one_edit_is_left_to_ffmpeg(tmp_path):
  path = tmp_path / "a.mp4"
  film(path)
  set_edits(path, [(1.3, 4)])
  check(path, [(1.3, 4)])


def test_another_speed_is_a_reason_to_leave_a_film_out(tmp_path):
  path = tmp_path / "a.mp4"
  film(path)
  set_edits(path, [(0, 2), (2, 2, 0.5)])
  with pytest.raises(reading.MediaError, match="plays at 0.5 times the speed"):
    reading.read_media(path)


def test_boxes_that_make_no_sense_are_passed_over(tmp_path):
  path = tmp_path / "a.mp4"
  film(path)
  set_edits(path, LISTS["a cut"])
  whole = path.read_bytes()
  assert len(read_boxes(path)[1].edits) == 2
  rng = np.random.default_rng(0)
  start = whole.rindex(b"moov")
  for _ in range(200):
    data = bytearray(whole)
    for position in rng.integers(start - 4, len(data), 8):
      data[position] = rng.integers(256)
    path.write_bytes(data)
    read_boxes(path)
  path.write_bytes(whole[: start - 4])
  assert read_boxes(path) == {}
