"""What is held or padded is bounded by a part of the film."""

from fractions import Fraction

import av
import numpy as np
import pytest

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.sources import media_source
from mmdiff_jax.media import reading
from tests.media_fixtures import write
from tests.mp4_fixtures import set_edits
from tests.test_media_cases import tone

RATE = 8000


def film(path, pictures, sounds, codec="mjpeg"):
  """Pictures and blocks of sound of 0.1 s, each at its time (seconds)."""
  tick = Fraction(1, 1000)
  with av.open(str(path), "w") as container:
    video = container.add_stream(codec, rate=10)
    video.height, video.width, video.pix_fmt = 48, 64, "yuvj420p"
    video.codec_context.time_base = tick
    audio = None
    if len(sounds):
      audio = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
    container.start_encoding()
    packets = []
    for index, time in enumerate(pictures):
      image = np.full((48, 64, 3), 40 + index % 50, np.uint8)
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      frame.pts, frame.time_base = round(time * 1000), tick
      packets += video.encode(frame)
    packets += video.encode(None)
    pcm = np.round(8000 * tone(0.1, RATE)).astype(np.int16)[None]
    for time in sounds:
      frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
      frame.sample_rate, frame.time_base = RATE, tick
      frame.pts = round(time * 1000)
      packets += audio.encode(frame)
    # A file is written by time, even by a muxer that does not care.
    for packet in sorted(packets, key=lambda p: p.pts * p.time_base):
      container.mux_one(packet)
  return path


def span(begin, end):
  return np.arange(round(begin * 10), round(end * 10)) / 10


def outcome(path):
  """Frames at 10 Hz, counted up to a bound, or the reason for none."""
  try:
    track = reading.read_track(path)
    reader = reading.FrameReader(path, 10, (8, 8), track)
    count = 0
    for _ in reader:
      count += 1
      assert count < 5000, "without a bound"
    return count
  except reading.MediaError as error:
    return error.reason


TWO_CLOCKS = {
  "sound 20000 s before": (span(20000, 20003), span(0, 3), "nothing new"),
  "pictures 20000 s before": (span(0, 3), span(20000, 20003), "nothing new"),
  "sound 40 s before": (span(40, 44), span(0, 4), "nothing new"),
  "pictures 40 s before": (span(0, 4), span(40, 44), "nothing new"),
  "both jump": (
    np.append(span(0, 2), span(20000, 20002)),
    np.append(span(0, 2), span(20000, 20002)),
    "nothing new is seen or heard for 19998 s",
  ),
  "pictures jump": (np.append(span(0, 2), span(20000, 20002)), [], "nothing"),
  "sound long before": (span(40, 44), span(0, 44), "its sound starts 40 s"),
  "one ends where the other begins": (span(4, 12), span(0, 4), "overlap"),
  "little sound": (span(0, 100), span(10, 12), "its sound lasts 2.0 s"),
}


@pytest.mark.parametrize("name", TWO_CLOCKS)
def test_films_of_two_clocks_are_left_out_with_the_reason(tmp_path, name):
  pictures, sounds, reason = TWO_CLOCKS[name]
  found = outcome(film(tmp_path / "a.mkv", pictures, sounds))
  assert isinstance(found, str), found
  assert reason in found


PAUSED = np.append(span(0, 30), span(45, 60))


@pytest.mark.parametrize(
  "pictures, sounds, frames",
  [
    (span(2, 8), span(0, 8), 80),
    (span(0, 8), span(2, 8), 80),
    (span(0, 40), span(0, 20), 400),
    # Stills with sound, and without.
    ([0, 70, 75, 75.1], span(0, 76), 752),
    ([0, 70, 75, 75.1], [], 752),
    # A pause of both in a film that is longer.
    (PAUSED, PAUSED, 600),
  ],
)
def test_ordinary_delays_and_stills_are_read(
  tmp_path, pictures, sounds, frames
):
  assert outcome(film(tmp_path / "a.mkv", pictures, sounds)) == frames


@pytest.mark.parametrize("rows", [[(None, 400)], [(0.2, 400, 0)]])
def test_edit_lists_that_play_next_to_nothing_are_left_out(tmp_path, rows):
  path = tmp_path / "a.mp4"
  frames = np.zeros((20, 48, 64, 3), np.uint8)
  write(path, frames, audio=tone(2.0, RATE), audio_rate=RATE)
  set_edits(path, [(0, 1), *rows, (1, 1)])
  assert "its edit list plays 2.0 s within 402 s" in outcome(path)


def test_a_last_picture_of_a_day_is_left_out(tmp_path):
  path = tmp_path / "a.mkv"
  with av.open(str(path), "w") as container:
    stream = container.add_stream("mjpeg", rate=10)
    stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
    frame = av.VideoFrame(64, 48, "yuvj420p")
    frame.pts, frame.time_base = 0, Fraction(1, 10)
    for packet in stream.encode(frame):
      packet.duration = 24 * 3600 * 10
      container.mux(packet)
  assert "nothing new is seen or heard for 86400 s" in outcome(path)


@pytest.mark.parametrize("name", ["a.mkv", "a.mov"])
@pytest.mark.parametrize(
  "pictures, sounds, frames",
  [
    (span(2, 8), span(0, 8), 80),
    (span(0.7, 8), span(0.7, 8), 73),
    (span(0, 8), span(2, 8), 80),
  ],
)
def test_a_folder_counts_the_frames_that_are_read(
  tmp_path, name, pictures, sounds, frames
):
  path = film(tmp_path / name, pictures, sounds)
  assert outcome(path) == frames
  spec = AVSpec(8, 8, 8, 10.0, RATE)
  source = media_source.open_file(path, spec, ("video", "audio"))
  assert source.videos == {name: frames}
  clip = source.clip(name, frames - 8)
  assert clip.video().shape == (8, 8, 8, 3) and clip.audio().shape == (6400, 1)
