"""Cases of public bug reports: pictures, their times, their streams."""

import os
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest

from mmdiff_jax.media import files, hdr, reading
from mmdiff_jax.media.streams import Packets, Streams, choose_streams
from tests.media_fixtures import click_track, flash_frames, onsets, write

RATE = 16000


def grey_counter(count=40, height=48, width=64):
  """Frame i has grey level 40 + 4 i, so that every one can be told."""
  levels = (40 + 4 * np.arange(count)).astype(np.uint8)
  return np.broadcast_to(
    levels[:, None, None, None], (count, height, width, 3)
  ).copy()


def levels_shown(video):
  return {int(round((v - 40) / 4)) for v in video.mean(axis=(1, 2, 3))}


def tone(seconds, rate=RATE, frequency=440.0):
  times = np.arange(round(seconds * rate)) / rate
  return (0.5 * np.sin(2 * np.pi * frequency * times)).astype(np.float32)


@pytest.mark.parametrize("name", ["b.avi", "b.h264"])
def test_no_frame_is_lost_where_a_container_has_no_times(tmp_path, name):
  path = tmp_path / name
  write(path, grey_counter(), rate=25, options={"x264-params": "b-adapt=0"})
  with av.open(str(path)) as container:
    kinds = {frame.pict_type for frame in container.decode(video=0)}
  assert av.video.frame.PictureType.B in kinds
  item = reading.read_media(path)
  assert levels_shown(item.video) == set(range(40))
  assert np.all(np.diff(item.video.mean(axis=(1, 2, 3))) > -1)


class Stream:
  """Stands for a stream of PyAV."""

  index, type = 0, "video"


class Packet:
  """Stands for a packet of PyAV; `size` 0 and no time at the end."""

  stream, duration, time_base = Stream(), 1, Fraction(1, 10)
  is_discard = False

  def __init__(self, time, size=9):
    self.dts = self.pts = time
    self.size = size


class Container:
  """Stands for a container of PyAV."""

  duration = None

  class format:  # noqa: N801
    flags = 0

  def __init__(self, packets):
    self.streams, self._packets = [Stream()], packets

  def demux(self, streams):
    return iter(self._packets)


def test_an_empty_packet_on_the_way_does_not_end_the_decoder():
  """Theora in Ogg has them; PyAV takes them for the final one."""
  packets = [Packet(0), Packet(None, 0), Packet(2), Packet(None, 0)]
  read = Packets(Container(packets), Streams(0, None), 0)
  assert [packet.pts for packet, _ in read] == [0, 2, None]


@pytest.mark.parametrize(
  "name, codec, sound",
  [
    ("a.ts", "mpeg2video", "mp2"),
    ("a.m2ts", "libx264", "aac"),
    ("a.mpg", "mpeg2video", "mp2"),
    ("a.vob", "mpeg2video", "mp2"),
    ("a.flv", "flv", "aac"),
    ("a.wmv", "mpeg4", "aac"),
    ("a.3gp", "libx264", "aac"),
    ("a.f4v", "libx264", "aac"),
  ],
)
def test_containers_are_found_and_read(tmp_path, name, codec, sound):
  path = tmp_path / name
  frames = flash_frames(np.arange(50) / 25)
  clicks = click_track(2.0, 44100)
  formats = {".vob": "vob", ".m2ts": "mpegts", ".wmv": "asf"}
  write(
    path,
    frames,
    rate=25,
    codec=codec,
    audio=clicks,
    audio_rate=44100,
    audio_codec=sound,
    container_format=formats.get(path.suffix),
  )
  hidden = tmp_path / "film.data"
  shutil.copy(path, hidden)
  found, left_out = files.find_media(tmp_path)
  assert [n for n, _ in found] == sorted([name, "film.data"])
  assert not left_out
  for file in (path, hidden):
    item = reading.read_media(file, fps=25, sample_rate=RATE)
    bright = np.flatnonzero(item.video.mean(axis=(1, 2, 3)) > 100) / 25
    starts = bright[np.diff(bright, prepend=-1.0) > 0.1]
    late = starts - onsets(item.audio, RATE)
    # The frame that shows the flash begins up to one frame after it.
    assert np.all(np.abs(late) < 0.04), late


def test_what_holds_no_video_is_counted_by_kind(tmp_path):
  from PIL import Image

  (tmp_path / "a.json").write_text("{}")
  (tmp_path / "b.json").write_text("[1]")
  (tmp_path / "README").write_text("words")
  (tmp_path / "x.bin").write_bytes(np.random.default_rng(0).bytes(9000))
  Image.new("RGB", (64, 64)).save(tmp_path / "p.png")
  os.mkfifo(tmp_path / "x.mp4")
  write(tmp_path / "s.wav", audio=tone(0.5), audio_codec="pcm_s16le")
  found, left_out = files.find_media(tmp_path)
  assert not found
  assert dict(left_out) == {
    "*.json": "2 files without a video",
    "*.bin": "1 file without a video",
    "*.png": "1 file without a video",
    "*.wav": "1 file without a video",
    "files without a suffix": "1 file without a video",
    "x.mp4": "is a FIFO, not a regular file",
  }
  with pytest.raises(reading.MediaError, match="FIFO"):
    reading.read_media(tmp_path / "x.mp4")
  with pytest.raises(reading.MediaError, match="device"):
    reading.read_media("/dev/zero")
  found, _ = files.find_media(tmp_path, sound_alone=True)
  assert [name for name, _ in found] == ["s.wav"]


def write_streams(path, videos, sounds, default=None):
  """Several videos `[F, H, W, 3]` and sounds; `default` gets the mark."""
  with av.open(str(path), "w") as container:
    streams = []
    for video in videos:
      stream = container.add_stream("mjpeg", rate=10)
      stream.height, stream.width = video.shape[1:3]
      stream.pix_fmt = "yuvj420p"
      streams.append(stream)
    for _ in sounds:
      streams.append(
        container.add_stream("pcm_s16le", rate=RATE, layout="mono")
      )
    mark = av.stream.Disposition.default
    for index, stream in enumerate(streams):
      stream.disposition = mark if index == default else 0
    for stream, video in zip(streams, videos, strict=False):
      for index, image in enumerate(video):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = index, Fraction(1, 10)
        container.mux(stream.encode(frame))
      container.mux(stream.encode(None))
    for stream, sound in zip(streams[len(videos) :], sounds, strict=True):
      pcm = np.round(sound * 32767).astype(np.int16)[None]
      frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
      frame.sample_rate, frame.pts = RATE, 0
      frame.time_base = Fraction(1, RATE)
      container.mux(stream.encode(frame))
      container.mux(stream.encode(None))


def pitch(audio):
  spectrum = np.abs(np.fft.rfft(audio[:RATE, 0]))
  return int(spectrum.argmax())


def test_the_default_sound_is_taken_or_the_first_with_content(tmp_path):
  film = grey_counter(12)
  low, high = tone(1.2, frequency=300), tone(1.2, frequency=1000)
  silence = np.zeros_like(low)
  for sounds, default, wanted in (
    ([low, high], 2, 1000),
    ([low, high], 1, 300),
    ([silence, high], None, 1000),
    ([silence, high], 1, 1000),
  ):
    path = tmp_path / "a.mkv"
    write_streams(path, [film], sounds, default)
    item = reading.read_media(path)
    assert pitch(item.audio) == wanted
    assert any("of 2 taken" in words for words in item.repairs)


def test_the_film_is_taken_not_its_preview_or_cover(tmp_path):
  film = grey_counter(12, 96, 128)
  path = tmp_path / "a.mkv"
  write_streams(path, [grey_counter(12, 24, 32), film], [])
  item = reading.read_media(path)
  assert item.video.shape == (12, 96, 128, 3)
  assert item.repairs == ("picture: stream 1 (128x96) of 2 taken",)
  # The mark counts more than the size.
  write_streams(path, [grey_counter(12, 24, 32), film], [], default=0)
  assert reading.read_media(path).video.shape == (12, 24, 32, 3)
  # A cover that is not marked as one, but as the default.
  cover = np.full((1, 300, 300, 3), 255, np.uint8)
  write_streams(path, [cover, film], [], default=0)
  item = reading.read_media(path)
  assert levels_shown(item.video) == set(range(12))
  assert item.repairs == ()


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_all_eight_orientations(tmp_path, rotation, mirrored):
  image = np.zeros((64, 96, 3), np.uint8)
  image[:32, :48], image[:32, 48:] = (220, 0, 0), (0, 220, 0)
  image[32:, :48], image[32:, 48:] = (0, 0, 220), (220, 220, 220)
  # Of a display matrix: x' = a x + c y, y' = b x + d y, with y downwards.
  turns = {0: (1, 0, 0, 1), 90: (0, -1, 1, 0)}
  turns |= {180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}
  a, b, c, d = turns[rotation]
  if mirrored:
    a, c = -a, -c
  expected = np.zeros((64, 96) if c == 0 else (96, 64), np.uint8)
  expected = np.repeat(expected[..., None], 3, axis=-1)
  height, width = expected.shape[:2]
  for y in range(64):
    for x in range(96):
      to_x, to_y = a * x + c * y, b * x + d * y
      expected[to_y % height, to_x % width] = image[y, x]
  path = tmp_path / "a.mp4"
  one = 1 << 16
  with av.open(str(path), "w") as container:
    stream = container.add_stream("libx264", rate=10)
    stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv444p"
    stream.set_display_matrix(
      [a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30]
    )
    for index in range(3):
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      frame.pts, frame.time_base = index, Fraction(1, 10)
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  shown = reading.read_media(path).video[0]
  assert shown.shape == expected.shape
  assert np.abs(shown.astype(int) - expected)[4::8, 4::8].max() < 20


def test_wide_pictures_without_tags_are_bt709(tmp_path):
  colour = (30, 200, 60)
  image = np.full((544, 1280, 3), colour, np.uint8)
  path = tmp_path / "wide.mkv"
  with av.open(str(path), "w") as container:
    stream = container.add_stream("ffv1", rate=10)
    stream.height, stream.width, stream.pix_fmt = 544, 1280, "yuv444p"
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    frame = frame.reformat(format="yuv444p", dst_colorspace="ITU709")
    frame.colorspace, frame.pts = 2, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  for size in (None, 32):
    shown = reading.read_media(path, size=size).video[0]
    middle = shown[shown.shape[0] // 2, shown.shape[1] // 2]
    np.testing.assert_allclose(middle, colour, atol=4)


def test_light_of_pq_and_hlg_is_that_of_the_standards():
  # ST 2084: full signal is 10000 nits; 58 % is the reference white of BT.2408.
  np.testing.assert_allclose(hdr.pq_to_light(np.array([1.0])), 1e4, rtol=1e-6)
  np.testing.assert_allclose(hdr.pq_to_light(np.array(0.58)), 203, rtol=0.01)
  light = np.array([0.1, 10.0, 203.0, 4000.0])
  np.testing.assert_allclose(hdr.pq_to_light(hdr.light_to_pq(light)), light)
  # HLG: 75 % is reference white, full signal the display's peak.
  np.testing.assert_allclose(hdr.hlg_to_light(np.full(3, 0.75)), 203, rtol=0.01)
  np.testing.assert_allclose(hdr.hlg_to_light(np.ones(3)), 1000, rtol=1e-3)


@pytest.mark.parametrize("transfer, name", [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_is_mapped_named_or_left_out(
  tmp_path, transfer, name
):
  """Grey bars of known light: dark ones keep their light, order stays."""
  light = np.array([1.0, 5.0, 20.0, 40.0, 100.0, 203.0, 500.0, 1000.0])
  if transfer == 16:
    signal = hdr.light_to_pq(light)
  else:
    grid = np.linspace(0, 1, 100001)
    table = hdr.hlg_to_light(np.repeat(grid[:, None], 3, axis=1))[:, 0]
    signal = np.interp(light, table, grid)
  luma = np.round(64 + 876 * signal).astype(np.uint16)
  plane = np.repeat(np.repeat(luma[None], 8, axis=1), 64, axis=0)
  planes = np.concatenate([plane, np.full_like(plane, 512).repeat(2, axis=0)])
  path = tmp_path / "a.mkv"
  with av.open(str(path), "w") as container:
    stream = container.add_stream("ffv1", rate=10)
    stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv444p10le"
    context = stream.codec_context
    context.color_trc, context.color_primaries = transfer, 9
    context.colorspace, context.color_range = 9, 1
    frame = av.VideoFrame(64, 64, "yuv444p10le")
    for index in range(3):
      part = planes[64 * index : 64 * (index + 1)]
      frame.planes[index].update(part.tobytes())
    frame.color_trc, frame.color_primaries = transfer, 9
    frame.colorspace, frame.color_range, frame.pts = 9, 1, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  item = reading.read_media(path)
  assert item.repairs == (
    f"high dynamic range ({name}) mapped to BT.709 (BT.2390)",
  )
  bars = item.video[0, 32, 4::8].astype(int)
  assert np.ptp(bars, axis=1).max() <= 1
  assert np.all(np.diff(bars[:, 0]) > 0)
  # Below the knee light is kept: BT.1886 with 203 nits as white.
  expected = 255 * (light[:4] / 203) ** (1 / 2.4)
  np.testing.assert_allclose(bars[:4, 0], expected, atol=4)
  assert bars[-1, 0] > 250
  with pytest.raises(reading.MediaError, match="high dynamic range"):
    reading.read_media(path, options=reading.ReadOptions(hdr="skip"))


def test_a_still_of_over_a_minute_is_a_still(tmp_path):
  path = tmp_path / "slides.mkv"
  times = np.array([0.0, 70.0, 75.0])
  write(
    path,
    grey_counter(3),
    times=times,
    audio=tone(76.0, 8000),
    audio_rate=8000,
    audio_codec="pcm_s16le",
  )
  item = reading.read_media(path, fps=1, sample_rate=8000)
  shown = np.round((item.video.mean(axis=(1, 2, 3)) - 40) / 4).astype(int)
  assert shown[:70].tolist() == [0] * 70
  assert shown[70:75].tolist() == [1] * 5
  assert not item.repairs


def test_files_that_were_joined_are_read_piece_by_piece(tmp_path):
  piece = tmp_path / "a.ts"
  write(
    piece,
    flash_frames(np.arange(50) / 25),
    rate=25,
    codec="mpeg2video",
    audio=click_track(2.0, 48000),
    audio_rate=48000,
    audio_codec="mp2",
  )
  path = tmp_path / "joined.ts"
  path.write_bytes(piece.read_bytes() * 3)
  # A fine grid: the pieces need not lie on the frames of the first.
  item = reading.read_media(path, fps=100, sample_rate=RATE)
  assert abs(len(item.video) - 600) <= 12
  assert "clocks restart 2 times: joined" in item.repairs
  bright = np.flatnonzero(item.video.mean(axis=(1, 2, 3)) > 100) / 100
  flashes = bright[np.diff(bright, prepend=-1.0) > 0.1]
  clicks = onsets(item.audio, RATE)
  assert len(flashes) == len(clicks) == 6
  assert np.all(np.abs(flashes - clicks) < 0.04)


def test_pictures_that_are_too_large_and_files_that_take_too_long(tmp_path):
  path = tmp_path / "a.mkv"
  write(path, grey_counter(3))
  options = reading.ReadOptions(max_pixels=48 * 64 - 1)
  with pytest.raises(reading.MediaError, match="64x48 pixels: more than"):
    reading.read_media(path, options=options)
  options = reading.ReadOptions(max_pixels=48 * 64)
  assert len(reading.read_media(path, options=options).video) == 3
  with pytest.raises(reading.MediaError, match="takes longer than 0 s"):
    reading.read_media(path, options=reading.ReadOptions(time_limit=0))


def test_the_choice_of_streams_survives_the_closing_of_the_file(tmp_path):
  path = tmp_path / "a.mkv"
  write(path, grey_counter(3), audio=tone(0.3))
  streams = choose_streams(path)
  assert (streams.video, streams.audio, streams.notes) == (0, 1, ())
