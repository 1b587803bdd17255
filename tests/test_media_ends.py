"""Films are read to their end, and over the joints of their segments."""

import pathlib

import numpy as np
import pytest

from mmdiff_jax.media import reading
from mmdiff_jax.media.transport import is_joined
from tests.media_fixtures import (
  click_track,
  flash_frames,
  flash_times,
  onsets,
  write,
)
from tests.ts_fixtures import packets, pid

DATA = pathlib.Path(__file__).parent / "data"
RATE = 16000


def test_pictures_that_repeat_the_last_one_are_kept():
  """Ten grey levels within a second, then the last one for four more.

  Theora in Ogg, as FFmpeg 5.1 writes it: packets without content repeat the
  picture, and a last page that would hold such ones alone is missing. The
  sound lasts five seconds.
  """
  item = reading.read_media(DATA / "theora_still_end.ogv")
  grey = item.video.mean(axis=(1, 2, 3))
  assert len(grey) == 50
  assert np.all(np.diff(grey[:10]) > 10)
  assert np.ptp(grey[9:]) < 2
  assert len(item.audio) == 5 * item.sample_rate
  assert np.sqrt(np.mean(item.audio[-item.sample_rate // 2 :] ** 2)) > 0.02


def empty_chunks(path, first, last):
  """Makes chunks of pictures of an AVI file empty, from one to another."""
  data = bytearray(path.read_bytes())
  position, number = data.index(b"movi") + 4, 0
  end = data.index(b"idx1", position)
  while position < end:
    size = int.from_bytes(data[position + 4 : position + 8], "little")
    if data[position + 2 : position + 4] == b"dc":
      if first <= number < last:
        data[position + 4 : position + 8] = bytes(4)
        rest = (size + size % 2 - 8).to_bytes(4, "little")
        data[position + 8 : position + 16] = b"JUNK" + rest
      number += 1
    position += 8 + size + size % 2
  number = 0
  for row in range(end + 8, len(data) - 15, 16):
    if data[row + 2 : row + 4] == b"dc":
      if first <= number < last:
        data[row + 12 : row + 16] = bytes(4)
      number += 1
  path.write_bytes(data)


@pytest.mark.parametrize("sound", [False, True])
@pytest.mark.parametrize("first, last", [(10, 25), (10, 40), (12, 39)])
def test_empty_chunks_of_avi_repeat_a_picture(tmp_path, first, last, sound):
  path = tmp_path / "a.avi"
  levels = (40 + 4 * np.arange(40)).astype(np.uint8)
  frames = np.broadcast_to(levels[:, None, None, None], (40, 48, 64, 3))
  write(
    path,
    frames,
    codec="mjpeg",
    pix_fmt="yuvj420p",
    audio=np.zeros(4 * RATE) if sound else None,
    audio_codec="pcm_s16le",
  )
  empty_chunks(path, first, last)
  whole = path.read_bytes()
  shown = reading.read_media(path).video.mean(axis=(1, 2, 3))
  wanted = levels.copy()
  wanted[first:last] = levels[first - 1]
  np.testing.assert_allclose(shown, wanted, atol=3)
  if not sound:
    # One that is cut off is still refused.
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(reading.MediaError, match="truncated"):
      reading.read_media(path)


def test_sound_that_goes_on_is_cut_and_named(tmp_path):
  path = tmp_path / "a.mkv"
  sound = click_track(5.0, RATE)
  write(path, flash_frames(np.arange(20) / 10), audio=sound)
  item = reading.read_media(path)
  assert len(item.video) == 20 and len(item.audio) == 2 * RATE
  assert len(item.repairs) == 1
  assert item.repairs[0].startswith("audio goes on for 3.0")


def segments(folder, codec, sound, options):
  """Eight seconds as segments of two, with a flash and a click each second."""
  flashes = np.arange(1, 8)
  frames = flash_frames(np.arange(200) / 25, flashes=flashes)
  write(
    folder / "s%d.ts",
    frames,
    rate=25,
    codec=codec,
    options=options,
    audio=click_track(8.0, 48000, flashes),
    audio_rate=48000,
    audio_codec=sound,
    container_format="segment",
    container_options={"segment_time": "2", "segment_format": "mpegts"},
  )
  return sorted(folder.glob("s*.ts"))


@pytest.mark.parametrize(
  "codec, sound, options",
  [
    ("libx264", "aac", {"x264-params": "keyint=25:bframes=2"}),
    ("mpeg2video", "mp2", {"g": "25", "bf": "2"}),
    ("libx265", "ac3", {"x265-params": "keyint=25:log-level=0"}),
  ],
)
def test_segments_that_count_their_packets_anew_are_joined(
  tmp_path, codec, sound, options
):
  parts = segments(tmp_path, codec, sound, options)
  assert len(parts) >= 4
  path = tmp_path / "joined.ts"
  path.write_bytes(b"".join(part.read_bytes() for part in parts))
  assert is_joined(path)
  item = reading.read_media(path, fps=25, sample_rate=RATE)
  assert len(item.video) == 200
  assert not any("restart" in words for words in item.repairs)
  np.testing.assert_allclose(flash_times(item.video, 25), np.arange(1, 8))
  clicks = onsets(item.audio, RATE)
  np.testing.assert_allclose(clicks, np.arange(1, 8), atol=0.01)


def test_packets_that_are_missing_are_damage(tmp_path):
  parts = segments(tmp_path, "libx264", "aac", {"x264-params": "keyint=25"})
  joined = [packet for part in parts for packet in packets(part)]
  own = [i for i, packet in enumerate(joined) if pid(packet) == 256]
  starts = [k for k, i in enumerate(own) if joined[i][1] & 0x40]
  # In the midst of a picture, and the last packet of one.
  within = next(own[k] for k in range(len(own)) if k not in starts)
  last = next(own[k - 1] for k in starts if k and k - 1 not in starts)
  for missing in (within, last):
    path = tmp_path / "lost.ts"
    rest = joined[:missing] + joined[missing + 1 :]
    path.write_bytes(b"".join(rest))
    assert not is_joined(path)
    with pytest.raises(reading.MediaError, match="damaged"):
      reading.read_media(path)


def test_a_file_without_packets_is_not_joined(tmp_path):
  path = tmp_path / "a.ts"
  for data in (b"", b"G" * 50, bytes(2000)):
    path.write_bytes(data)
    assert not is_joined(path)


def test_a_transport_stream_of_one_piece_is_not_joined(tmp_path):
  path = tmp_path / "a.ts"
  write(path, flash_frames(np.arange(20) / 10), audio=click_track(2.0, RATE))
  assert not is_joined(path)
