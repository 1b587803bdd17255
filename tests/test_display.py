"""Shape, orientation, edges and transparency of the frames of a film."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from mmdiff_jax.media import reading
from tests.media_fixtures import write
from tests.mp4_fixtures import add_to_pictures

FULL = {"x264-params": "keyint=12:bframes=2"}
# Each of four quarters has a colour of its own.
QUARTERS = {
  "R": (220, 0, 0),
  "G": (0, 220, 0),
  "B": (0, 0, 220),
  "W": (220,) * 3,
}


def quarters(height=64, width=96):
  image = np.zeros((height, width, 3), np.uint8)
  half, middle = height // 2, width // 2
  image[:half, :middle], image[:half, middle:] = QUARTERS["R"], QUARTERS["G"]
  image[half:, :middle], image[half:, middle:] = QUARTERS["B"], QUARTERS["W"]
  return image


def names(image):
  """Colours of the quarters: upper left, upper right, lower left ..."""
  height, width = image.shape[:2]
  rows, columns = (height // 4, 3 * height // 4), (width // 4, 3 * width // 4)
  middles = [image[y, x].astype(int) for y in rows for x in columns]
  return "".join(
    min(QUARTERS, key=lambda n: np.abs(middle - QUARTERS[n]).sum())
    for middle in middles
  )


def circle(aspect, height=96, width=120):
  """A circle whose pixels are so many times as wide as high."""
  y, x = np.mgrid[:height, :width]
  round_ = (
    np.hypot((x - width / 2) * float(aspect), y - height / 2) < height / 3
  )
  return np.repeat(np.where(round_, 230, 10)[..., None], 3, -1).astype(np.uint8)


def film(path, image, count=25, codec="libx264", aspect=None, options=None):
  frames = np.repeat(image[None], count, axis=0)
  write(path, frames, codec=codec, aspect=aspect, options=options, rate=25)
  return path


@pytest.mark.parametrize("codec", ["mpeg2video", "libx264", "libx265"])
@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_a_circle_stays_one_when_the_pixels_change_their_shape(
  tmp_path, codec, suffix
):
  parts = []
  options = (
    {"x265-params": "log-level=0"} if codec == "libx265" else {"bf": "2"}
  )
  for number, aspect in enumerate((Fraction(16, 15), Fraction(64, 45))):
    name = tmp_path / f"{number}.ts"
    parts.append(film(name, circle(aspect), 50, codec, aspect, options))
  path = tmp_path / "joined.ts"
  path.write_bytes(b"".join(part.read_bytes() for part in parts))
  if suffix == ".mkv":
    path = copy(path, tmp_path / "joined.mkv", offset=2.0)
  item = reading.read_media(path, fps=25, size=64)
  assert 98 <= len(item.video) <= 102
  for index, image in enumerate(item.video):
    bright = image.mean(axis=-1) > 120
    rows, columns = bright.any(axis=1).sum(), bright.any(axis=0).sum()
    assert abs(int(rows) - int(columns)) <= 1, (index, columns, rows)


def copy(source, target, offset=0.0, bitstream=None):
  """Copies packets; those whose clock falls back are moved by an offset."""
  with av.open(str(source)) as old, av.open(str(target), "w") as new:
    stream = new.add_stream_from_template(old.streams.video[0])
    last, moved = None, 0
    filters = bitstream and BitStreamFilterContext(bitstream, old.streams[0])
    for packet in old.demux(old.streams.video[0]):
      if packet.dts is None:
        continue
      if last is not None and packet.dts < last:
        moved = round(offset / packet.time_base)
      last = packet.dts
      packet.dts, packet.pts = packet.dts + moved, packet.pts + moved
      for part in filters.filter(packet) if filters else [packet]:
        part.stream = stream
        new.mux(part)
    for part in filters.filter(None) if filters else []:
      part.stream = stream
      new.mux(part)
  return target


@pytest.mark.parametrize(
  "how, wanted",
  [("rotate=90", "GWRB"), ("rotate=180", "WBGR"), ("flip=horizontal", "GRWB")],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_an_orientation_that_few_frames_tell_turns_all(
  tmp_path, how, wanted, suffix
):
  kind = ".ts" if suffix == ".ts" else ".mp4"
  plain = tmp_path / f"plain{kind}"
  film(plain, quarters(), 40, options=FULL)
  bitstream = f"h264_metadata=display_orientation=insert:{how}"
  path = copy(plain, tmp_path / f"turned{suffix}", bitstream=bitstream)
  video = reading.read_media(path).video
  assert [names(image) for image in video] == [wanted] * len(video)
  assert len(video) == 40
  assert video.shape[1:3] == ((96, 64) if "90" in how else (64, 96))


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
@pytest.mark.parametrize("right, down", [(0, 0), (8, -4)])
def test_the_clean_aperture_is_what_is_shown(tmp_path, name, right, down):
  image = np.full((96, 128, 3), (220, 220, 0), np.uint8)
  top, left = (96 - 64) // 2 + down, (128 - 96) // 2 + right
  image[top : top + 64, left : left + 96] = quarters()
  path = film(tmp_path / name, image, 5)
  before = reading.read_media(path)
  assert before.video.shape[1:3] == (96, 128)
  box = struct.pack(">IIIIiIiI", 96, 1, 64, 1, right, 1, 2 * down, 2)
  add_to_pictures(path, b"clap", box)
  item = reading.read_media(path)
  assert item.video.shape == (5, 64, 96, 3)
  np.testing.assert_array_equal(
    item.video, before.video[:, top : top + 64, left : left + 96]
  )
  assert item.repairs == ("edges are cut off as the container says",)


def hidden(alpha):
  """Green on the left; a red that is not to be seen, on the right."""
  image = np.zeros((64, 96, 4), np.uint8)
  image[:, :48], image[:, 48:] = (0, 200, 0, 255), (250, 0, 0, alpha)
  return image


def transparent(path, codec, pix_fmt, image, options=None):
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=10)
    stream.height, stream.width, stream.pix_fmt = *image.shape[:2], pix_fmt
    stream.options = options or {}
    for index in range(5):
      frame = av.VideoFrame.from_ndarray(image, format="rgba")
      frame.pts, frame.time_base = index, Fraction(1, 10)
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return path


@pytest.mark.parametrize(
  "name, codec, pix_fmt",
  [
    ("a.mov", "qtrle", "argb"),
    ("a.mov", "png", "rgba"),
    ("a.mov", "prores_ks", "yuva444p10le"),
    ("a.mkv", "ffv1", "bgra"),
    ("a.avi", "utvideo", "gbrap"),
    ("a.webm", "libvpx-vp9", "yuva420p"),
    ("a.webm", "libvpx", "yuva420p"),
  ],
)
def test_what_is_transparent_is_black(tmp_path, name, codec, pix_fmt):
  path = tmp_path / name
  options = {"auto-alt-ref": "0"} if "vpx" in codec else {}
  for alpha, seen in ((0, 0), (128, 125), (255, 250)):
    transparent(path, codec, pix_fmt, hidden(alpha), options)
    for size in (None, 32):
      item = reading.read_media(path, size=size)
      image = item.video[2].astype(int)
      row, columns = image.shape[0] // 2, image.shape[1]
      np.testing.assert_allclose(image[row, columns // 4], (0, 200, 0), atol=6)
      right = image[row, 3 * columns // 4]
      np.testing.assert_allclose(right, (seen, 0, 0), atol=6)
      words = "transparent pictures are shown over black"
      assert (words in item.repairs) == (alpha < 255)


def test_the_fourth_byte_of_raw_pictures_may_be_filling(tmp_path):
  path = tmp_path / "a.avi"
  image = np.full((64, 96, 4), (10, 200, 30, 0), np.uint8)
  transparent(path, "rawvideo", "bgra", image)
  item = reading.read_media(path)
  np.testing.assert_array_equal(item.video[0, 5, 5], (10, 200, 30))
  assert not item.repairs
