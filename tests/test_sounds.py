"""Of several sounds the film's own one is taken."""

from fractions import Fraction

import av
import numpy as np
import pytest

from mmdiff_jax.media import reading
from mmdiff_jax.media.audio_pair import Pair
from mmdiff_jax.media.transport import read_programs
from tests.ts_fixtures import set_programs

RATE, SECONDS = 48000, 2.0
LOW, HIGH = 300, 1000


def tone(frequency, silent=0.0):
  """Silence for a while, then a tone."""
  time = np.arange(round(SECONDS * RATE)) / RATE
  return np.where(time < silent, 0, 0.4 * np.sin(2 * np.pi * frequency * time))


def film(
  path, pictures, sounds, marks=None, titles=None, audio_codec="pcm_s16le"
):
  """Pictures of (grey level, height), and sounds of one channel each."""
  marks, titles = marks or {}, titles or {}
  with av.open(str(path), "w") as container:
    videos, audios = [], []
    for _, height in pictures:
      stream = container.add_stream("mpeg2video", rate=25)
      stream.height, stream.width = height, 2 * height
      stream.pix_fmt = "yuv420p"
      videos.append(stream)
    for number in range(len(sounds)):
      stream = container.add_stream(audio_codec, rate=RATE, layout="mono")
      stream.disposition = marks.get(number, 0)
      if number in titles:
        stream.metadata["title"] = titles[number]
      audios.append(stream)
    container.start_encoding()
    for stream, (level, height) in zip(videos, pictures, strict=True):
      image = np.full((height, 2 * height, 3), level, np.uint8)
      for index in range(round(SECONDS * 25)):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = index, Fraction(1, 25)
        container.mux(stream.encode(frame))
      container.mux(stream.encode(None))
    for stream, sound in zip(audios, sounds, strict=True):
      pcm = np.round(sound * 32767).astype(np.int16)
      size = stream.codec_context.frame_size or 1920
      for begin in range(0, len(pcm) - size + 1, size):
        frame = av.AudioFrame.from_ndarray(
          pcm[None, begin : begin + size], format="s16", layout="mono"
        )
        frame.sample_rate, frame.pts = RATE, begin
        frame.time_base = Fraction(1, RATE)
        container.mux(stream.encode(frame))
      container.mux(stream.encode(None))


def level(audio, frequency, second=1):
  """Amplitude of a frequency within a second, 1 s to 2 s by default."""
  part = audio[second * RATE : (second + 1) * RATE - RATE // 10, 0]
  wave = np.exp(-2j * np.pi * frequency * np.arange(len(part)) / RATE)
  return 2 * abs(np.mean(part * wave))


@pytest.mark.parametrize(
  "programs, seen, heard",
  [
    ([[256, 258], [257, 259]], 200, HIGH),
    ([[256, 259], [257, 258]], 200, LOW),
    # A program of pictures alone stands back.
    ([[256, 258, 259], [257]], 60, LOW),
    ([[256, 257, 258, 259]], 200, LOW),
  ],
)
def test_picture_and_sound_are_of_one_program(tmp_path, programs, seen, heard):
  path = tmp_path / "a.ts"
  pictures = [(60, 48), (200, 96)]
  film(path, pictures, [tone(LOW), tone(HIGH)], audio_codec="mp2")
  set_programs(path, programs)
  assert read_programs(path) == [set(program) for program in programs]
  item = reading.read_media(path)
  assert item.video.mean() == pytest.approx(seen, abs=4)
  assert level(item.audio, heard) == pytest.approx(0.4, abs=0.05)
  assert level(item.audio, LOW + HIGH - heard) < 0.02


def test_tables_that_make_no_sense_are_passed_over(tmp_path):
  path = tmp_path / "a.ts"
  film(path, [(60, 48)], [tone(LOW)], audio_codec="mp2")
  whole = path.read_bytes()[: 188 * 40]
  rng = np.random.default_rng(0)
  for _ in range(200):
    data = bytearray(whole)
    for position in rng.integers(0, len(data), 200):
      data[position] = rng.integers(256)
    path.write_bytes(data)
    read_programs(path)
  for data in (b"", b"G", b"G" * 1000, bytes(1000)):
    path.write_bytes(data)
    assert read_programs(path) == []


MARKS = ("visual_impaired", "comment", "hearing_impaired", "dub")


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_sounds_for_some_listeners_stand_back(tmp_path, name, mark):
  path = tmp_path / name
  marks = {0: getattr(av.stream.Disposition, mark)}
  sounds = [tone(LOW), tone(HIGH)]
  codec = "aac" if name == "a.mp4" else "pcm_s16le"
  film(path, [(60, 48)], sounds, marks, audio_codec=codec)
  item = reading.read_media(path)
  assert level(item.audio, HIGH) > 0.3 > 0.02 > level(item.audio, LOW)
  assert "sound: stream 2 of 2 taken" in item.repairs
  # Even one that is marked as the default; it is taken where there is no other.
  default = av.stream.Disposition.default
  film(path, [(60, 48)], sounds, {0: marks[0] | default}, audio_codec=codec)
  assert level(reading.read_media(path).audio, HIGH) > 0.3
  film(path, [(60, 48)], sounds[:1], marks, audio_codec=codec)
  assert level(reading.read_media(path).audio, LOW) > 0.3


def test_a_title_tells_what_a_mark_does_not(tmp_path):
  path = tmp_path / "a.mkv"
  for title in ("Director's commentary", "Audio Description"):
    film(path, [(60, 48)], [tone(LOW), tone(HIGH)], titles={0: title})
    assert level(reading.read_media(path).audio, HIGH) > 0.3


@pytest.mark.parametrize("name", ["a.mxf", "a.mov"])
def test_left_and_right_in_two_streams_are_one_sound(tmp_path, name):
  path = tmp_path / name
  film(path, [(60, 48)], [tone(LOW), tone(HIGH, silent=1.0)])
  item = reading.read_media(path)
  assert "sound: streams 1 and 2 of 2 taken, as left and right" in item.repairs
  assert level(item.audio, LOW, 0) == pytest.approx(0.2, abs=0.01)
  assert level(item.audio, HIGH, 0) < 0.01
  for frequency in (LOW, HIGH):
    assert level(item.audio, frequency) == pytest.approx(0.2, abs=0.01)
  item = reading.read_media(path, channels="first")
  assert level(item.audio, LOW) == pytest.approx(0.4, abs=0.01)
  assert level(item.audio, HIGH) < 0.01
  item = reading.read_media(path, channels="all")
  assert item.audio.shape[1] == 2
  # Elsewhere two streams are two versions.
  path = tmp_path / "a.mkv"
  film(path, [(60, 48)], [tone(LOW), tone(HIGH)])
  assert level(reading.read_media(path).audio, HIGH) < 0.01


def test_a_channel_that_is_silent_throughout_is_no_half_of_a_sound(tmp_path):
  path = tmp_path / "a.mov"
  film(path, [(60, 48)], [tone(LOW, silent=9), tone(HIGH)])
  item = reading.read_media(path)
  assert level(item.audio, HIGH) == pytest.approx(0.4, abs=0.01)
  assert "sound: stream 2 of 2 taken" in item.repairs


def test_sides_that_begin_and_end_apart_stay_on_one_axis():
  left = [(1.0 + i / 10, np.full((100, 1), 0.5, np.float32)) for i in range(10)]
  right = [(1.55, np.full((30, 1), -0.5, np.float32))]
  pair = Pair([iter(left), iter(right)], 1000)
  pieces = list(pair.pieces())
  assert pieces[0][0] == 1.0
  assert all(time is None for time, _ in pieces[1:])
  joined = np.concatenate([samples for _, samples in pieces])
  wanted = np.zeros((1000, 2), np.float32)
  wanted[:, 0], wanted[550:580, 1] = 0.5, -0.5
  np.testing.assert_array_equal(joined, wanted)
  assert not list(Pair([iter([]), iter([])], 1000).pieces())
