import av
import numpy as np
import pytest

from mmdiff_jax.media import reading
from tests.media_fixtures import (
  FLASHES,
  click_track,
  flash_frames,
  flash_times,
  onsets,
  write,
)

RATE = 16000


def av_file(path, *, rate=10, seconds=2.0, audio_rate=RATE, **options):
  """A file with flashes and clicks at FLASHES."""
  times = np.arange(round(seconds * rate)) / rate
  channels = {"stereo": 2, "5.1": 6}.get(options.get("layout"), 1)
  sound = np.tile(click_track(seconds, audio_rate), (channels, 1))
  frames = flash_frames(times)
  write(path, frames, rate=rate, audio=sound, audio_rate=audio_rate, **options)
  return path


def assert_in_sync(item, fps=10.0, seconds=2.0):
  assert item.video.shape[0] == round(seconds * fps)
  assert item.audio.shape == (round(seconds * RATE), 1)
  np.testing.assert_allclose(flash_times(item.video, fps), FLASHES, atol=1e-6)
  np.testing.assert_allclose(onsets(item.audio, RATE), FLASHES, atol=0.01)


@pytest.mark.parametrize(
  "name, options",
  [
    ("a.mp4", {}),
    ("a.mov", {"rate": 50, "codec": "mpeg4", "audio_rate": 44100}),
    ("a.mkv", {"rate": 30, "audio_codec": "libopus", "audio_rate": 48000}),
    (
      "a.avi",
      {
        "rate": 20,
        "codec": "mjpeg",
        "pix_fmt": "yuvj420p",
        "audio_codec": "pcm_s16le",
        "audio_rate": 44100,
      },
    ),
    (
      "a.webm",
      {
        "rate": 30,
        "codec": "libvpx-vp9",
        "audio_codec": "libopus",
        "audio_rate": 48000,
        "layout": "stereo",
        "options": {"deadline": "realtime", "cpu-used": "8"},
      },
    ),
  ],
)
def test_containers_codecs_and_rates_stay_in_sync(tmp_path, name, options):
  path = av_file(tmp_path / name, **options)
  item = reading.read_media(path, fps=10, size=(24, 32), sample_rate=RATE)
  assert item.video.shape[1:] == (24, 32, 3)
  assert_in_sync(item)


def test_ntsc_rate_keeps_time(tmp_path):
  rate = 30000 / 1001
  times = np.arange(60) / rate
  path = tmp_path / "ntsc.mp4"
  write(path, flash_frames(times), rate=rate)
  video = reading.read_media(path, fps=10).video
  assert len(video) == 20
  np.testing.assert_allclose(flash_times(video, 10), FLASHES, atol=1e-6)


def test_variable_frame_rate_is_sampled_by_time(tmp_path):
  times = np.concatenate([np.arange(0, 1, 0.2), np.arange(1, 2, 0.025)])
  path = tmp_path / "vfr.mkv"
  frames = flash_frames(times, flashes=(0.4, 1.5), length=0.2)
  write(path, frames, times=times)
  video = reading.read_media(path, fps=10).video
  assert len(video) == 20
  bright = np.flatnonzero(video.mean(axis=(1, 2, 3)) > 100)
  assert bright.tolist() == [4, 5, 15, 16]


def test_late_audio_is_padded_and_reported(tmp_path):
  path = tmp_path / "late.mp4"
  times = np.arange(20) / 10
  sound = click_track(1.6, RATE, clicks=(0.1, 1.1))
  write(path, flash_frames(times), audio=sound, audio_start=0.4)
  item = reading.read_media(path, fps=10, sample_rate=RATE)
  assert_in_sync(item)
  assert np.abs(item.audio[: int(0.3 * RATE)]).max() == 0
  assert any("late" in words for words in item.repairs)


def test_late_video_holds_its_first_frame(tmp_path):
  path = tmp_path / "late_video.mkv"
  times = 0.35 + np.arange(20) / 10
  frames = flash_frames(times, flashes=(0.55, 1.55))
  write(
    path,
    frames,
    times=times,
    audio=click_track(2.35, RATE, clicks=(0.55, 1.55)),
  )
  item = reading.read_media(path, fps=10, sample_rate=RATE)
  assert len(item.video) == 23
  assert any("first frame held 3 times" in words for words in item.repairs)
  # The grid starts at 0.05 s, so that the frames keep their phase.
  np.testing.assert_allclose(flash_times(item.video, 10), FLASHES)
  np.testing.assert_allclose(onsets(item.audio, RATE), FLASHES, atol=0.01)


def test_short_audio_is_padded_and_long_audio_is_cut(tmp_path):
  times = np.arange(20) / 10
  for seconds in (1.0, 3.0):
    path = tmp_path / f"{seconds}.mkv"
    sound = np.full(round(seconds * RATE), 0.5, np.float32)
    write(path, flash_frames(times), audio=sound, audio_codec="pcm_s16le")
    item = reading.read_media(path, fps=10, sample_rate=RATE)
    assert item.audio.shape == (2 * RATE, 1)
    covered = min(round(seconds * RATE), 2 * RATE)
    np.testing.assert_allclose(item.audio[:covered], 0.5, atol=1e-4)
    assert not item.audio[covered:].any()
    assert bool(item.repairs) == (seconds < 2)


def test_aac_padding_is_trimmed_and_nothing_else(tmp_path):
  """AAC packs 1024 samples: a tone of 25.8 packs comes with silence around."""
  path = tmp_path / "a.mp4"
  tone = 0.5 * np.sin(np.arange(26400) * 2 * np.pi * 440 / RATE)
  write(path, flash_frames(np.arange(33) / 20), rate=20, audio=tone)
  with av.open(str(path)) as container:
    decoded = sum(frame.samples for frame in container.decode(audio=0))
  assert decoded > len(tone)
  audio = reading.read_media(path).audio[:, 0]
  assert len(audio) == len(tone)
  for part in (slice(0, 800), slice(12000, 12800), slice(-800, None)):
    assert np.corrcoef(audio[part], tone[part])[0, 1] > 0.98


@pytest.mark.parametrize(
  "channels, expected", [("mean", 0.424), ("first", 0.6)]
)
def test_surround_sound_is_mixed_or_its_first_channel_taken(
  tmp_path, channels, expected
):
  sound = np.zeros((6, RATE), np.float32)
  sound[0] = 0.6
  path = tmp_path / "surround.mkv"
  frames = flash_frames(np.arange(10) / 10)
  write(path, frames, audio=sound, layout="5.1", audio_codec="pcm_s16le")
  item = reading.read_media(path, channels=channels)
  np.testing.assert_allclose(item.audio, expected, atol=1e-3)


def quadrants(count=4, height=64, width=96):
  """Top left quarter red, the rest blue."""
  frames = np.zeros((count, height, width, 3), np.uint8)
  frames[..., 2] = 200
  frames[:, : height // 2, : width // 2] = (200, 0, 0)
  return frames


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_rotation_is_applied(tmp_path, rotation):
  path = tmp_path / "rotated.mp4"
  write(path, quadrants(), rotation=rotation)
  image = reading.read_media(path).video[0]
  expected = np.rot90(quadrants()[0], rotation // 90)
  assert image.shape == expected.shape
  assert np.abs(image.astype(int) - expected)[::8, ::8].mean() < 20


def test_pixel_aspect_ratio_shapes_the_display_size(tmp_path):
  path = tmp_path / "anamorphic.mkv"
  write(path, quadrants(height=64, width=48), aspect=2)
  assert reading.read_media(path).video.shape[1:] == (64, 96, 3)
  fitted = reading.read_media(path, size=48).video[0]
  rows = np.flatnonzero(fitted.max(axis=(1, 2)) > 60)
  assert (rows[0], rows[-1]) == (8, 39)


def test_aspect_is_kept_with_black_bars(tmp_path):
  path = tmp_path / "wide.mp4"
  write(path, np.full((3, 32, 64, 3), 200, np.uint8))
  image = reading.read_media(path, size=32).video[0]
  assert not image[:8].any() and not image[24:].any()
  np.testing.assert_allclose(image[8:24], 200, atol=4)


def test_interlaced_frames_show_one_instant(tmp_path):
  frames = np.zeros((5, 64, 64, 3), np.uint8)
  frames[:, ::2] = 220
  path = tmp_path / "fields.avi"
  write(
    path,
    frames,
    codec="ffv1",
    pix_fmt="yuv444p",
    options={},
  )
  plain = reading.read_media(path).video[0]
  assert np.ptp(plain[..., 0]) > 200
  path = tmp_path / "interlaced.mpg"
  options = {"flags": "+ildct+ilme", "b": "8M"}
  write(
    path,
    frames,
    rate=25,
    codec="mpeg2video",
    options=options,
    pix_fmt="yuv422p",
  )
  image = reading.read_media(path).video[0]
  assert image.shape == (64, 64, 3)
  assert image.min() > 180


def test_bt709_and_bt601_colours_come_back(tmp_path):
  frames = np.zeros((2, 720, 64, 3), np.uint8)
  frames[...] = (30, 200, 60)
  import av

  path = tmp_path / "hd.mkv"
  with av.open(str(path), "w") as container:
    stream = container.add_stream("libx264", rate=10)
    stream.height, stream.width, stream.pix_fmt = 720, 64, "yuv444p"
    for image in frames:
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      frame = frame.reformat(format="yuv444p", dst_colorspace="ITU709")
      frame.colorspace = 2
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  # Untagged high definition means BT.709.
  image = reading.read_media(path).video[0]
  np.testing.assert_allclose(
    image[::100, ::10].mean((0, 1)), (30, 200, 60), atol=4
  )


def test_animated_gif_is_read(tmp_path):
  path = tmp_path / "a.gif"
  clips = np.zeros((3, 10, 16, 16, 3), np.uint8)
  clips[:, 5:] = 255
  reading.write_gif_grid(path, clips, fps=10)
  item = reading.read_media(path, fps=10)
  assert item.audio is None
  assert item.video.shape == (10, 32, 32, 3)
  assert item.video[4].max() < 5 and item.video[5, 0, 0, 0] > 250
  assert item.video[5, -1, -1].max() < 5  # The empty cell.
  path.write_bytes(path.read_bytes()[:-3])
  with pytest.raises(reading.MediaError, match="end mark of the gif"):
    reading.read_media(path, fps=10)


def damaged(path, kind, source):
  data = source.read_bytes()
  if kind == "empty":
    path.write_bytes(b"")
  elif kind == "garbage":
    path.write_bytes(np.random.default_rng(0).bytes(5000))
  elif kind == "html":
    path.write_text("<html><body>404 not found</body></html>")
  elif kind == "truncated":
    path.write_bytes(data[: len(data) // 2])
  elif kind == "bit rot":
    rotten = bytearray(data)
    start = data.index(b"mdat") + 200
    for i in range(start, len(data) - 200, 211):
      rotten[i] ^= 0x5A
    path.write_bytes(bytes(rotten))
  elif kind == "playlist":
    path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://localhost:9/x.ts\n")


@pytest.mark.parametrize(
  "kind, reason",
  [
    ("empty", "empty"),
    ("garbage", "damaged or not a media file"),
    ("html", "damaged or not a media file"),
    ("truncated", "damaged|truncated"),
    ("bit rot", "damaged"),
    ("playlist", "damaged or not a media file"),
    ("missing", "no such file"),
  ],
)
def test_damage_is_one_clear_error(tmp_path, kind, reason):
  source = av_file(tmp_path / "good.mp4")
  path = tmp_path / "bad.mp4"
  damaged(path, kind, source)
  with pytest.raises(reading.MediaError, match=reason) as error:
    reading.read_media(path)
  assert str(error.value).startswith(f"{path}: ")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_a_file_that_is_cut_off_is_truncated(tmp_path, container):
  noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8)
  whole = tmp_path / f"whole.{container}"
  if container == "mp4":
    reading.write_mp4(whole, noise, fps=10)
  else:
    write(whole, noise)
  path = tmp_path / f"cut.{container}"
  path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
  with pytest.raises(reading.MediaError, match="truncated|damaged"):
    reading.read_media(path)


def test_a_file_without_video_or_without_length(tmp_path):
  path = tmp_path / "sound.mp4"
  write(path, audio=click_track(1.0, RATE))
  with pytest.raises(reading.MediaError, match="has no video"):
    reading.read_media(path)
  path = tmp_path / "short.mp4"
  write(path, flash_frames(np.zeros(1)), rate=50)
  with pytest.raises(reading.MediaError, match="less than one frame"):
    reading.read_media(path, fps=10)


def test_arguments_are_checked(tmp_path):
  path = av_file(tmp_path / "a.mp4", seconds=0.5)
  with pytest.raises(ValueError, match="channels must be one of"):
    reading.read_media(path, channels="left")
  with pytest.raises(ValueError, match="fps must be positive"):
    reading.read_media(path, fps=0)
  with pytest.raises(ValueError, match="sample_rate"):
    reading.read_media(path, sample_rate=-1)
  with pytest.raises(ValueError, match="size"):
    reading.read_media(path, size=(0, 3))
