"""What the tags of colours say is done, wherever they stand."""

import struct

import av
import numpy as np
import pytest

from mmdiff_jax.media import primaries, reading
from mmdiff_jax.media.boxes import read_boxes
from mmdiff_jax.media.ebml import read_elements
from tests.mp4_fixtures import add_to_pictures

RED, GREEN = (200, 30, 30), (40, 160, 60)
# ITU-R BT.2087: linear BT.709 in BT.2020; SMPTE RP 431 and EG 432: in P3.
FROM_BT709 = {
  9: (
    (0.6274, 0.3293, 0.0433),
    (0.0691, 0.9195, 0.0114),
    (0.0164, 0.0880, 0.8956),
  ),
  12: (
    (0.8225, 0.1774, 0.0000),
    (0.0332, 0.9669, 0.0000),
    (0.0171, 0.0724, 0.9105),
  ),
}
# Weights of red and blue in the luma of BT.601, BT.709 and BT.2020.
LUMA = {6: (0.299, 0.114), 1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}


def to_yuv(colour, matrix):
  """RGB in 0..255 -> Y, Cb, Cr in [0, 1] and [-0.5, 0.5]."""
  red, green, blue = np.asarray(colour) / 255
  if matrix == 8:
    half = (red + blue) / 2
    return (green + half) / 2, (green - half) / 2, (red - blue) / 2
  kr, kb = LUMA[matrix]
  luma = kr * red + (1 - kr - kb) * green + kb * blue
  return luma, (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)


def film(
  path, yuv, codec="ffv1", tags=(2, 2, 2), full=False, size=(64, 64), **options
):
  """Three pictures of one colour; `tags`: primaries, transfer, matrix."""
  deep = codec == "ffv1"
  height, width = size
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=10)
    stream.height, stream.width = size
    stream.pix_fmt = "yuv444p10le" if deep else "yuv444p"
    stream.options = options
    context = stream.codec_context
    context.color_primaries, context.color_trc, context.colorspace = tags
    context.color_range = 2 if full else 1
    scales = (255, 255, 255) if full else (219, 224, 224)
    offsets = (0, 128, 128) if full else (16, 128, 128)
    for index in range(3):
      frame = av.VideoFrame(width, height, stream.pix_fmt)
      for plane, value, scale, offset in zip(
        frame.planes, yuv, scales, offsets, strict=True
      ):
        code = (offset + scale * value) * (4 if deep else 1)
        kind = np.uint16 if deep else np.uint8
        count = plane.buffer_size // kind().itemsize
        plane.update(np.full(count, round(code), kind).tobytes())
      frame.pts = index
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return path


def shown(path, **options):
  item = reading.read_media(
    path, size=16, options=reading.ReadOptions(**options)
  )
  return item.video[1, 8, 8].astype(int), item.repairs


def test_matrices_are_those_of_the_standards():
  for number, matrix in FROM_BT709.items():
    found = primaries.between(1, number)
    np.testing.assert_allclose(found, matrix, atol=2e-4)
  np.testing.assert_allclose(
    primaries.luminance(9), [0.2627, 0.6780, 0.0593], atol=1e-4
  )


@pytest.mark.parametrize("colour", [RED, GREEN, (220, 220, 220), (20, 30, 200)])
@pytest.mark.parametrize(
  "number, transfer, name",
  [(9, 14, "BT.2020"), (9, 1, "BT.2020"), (12, 1, "Display P3")],
)
def test_wide_primaries_become_those_of_bt709(
  tmp_path, colour, number, transfer, name
):
  light = (np.array(colour) / 255) ** 2.4
  wide = 255 * (np.array(FROM_BT709[number]) @ light) ** (1 / 2.4)
  matrix = 9 if number == 9 else 1
  path = film(
    tmp_path / "a.mkv", to_yuv(wide, matrix), tags=(number, transfer, matrix)
  )
  found, repairs = shown(path)
  np.testing.assert_allclose(found, colour, atol=3)
  assert repairs == (f"colours of {name} mapped to BT.709",)


def test_display_p3_of_photographs_has_the_transfer_of_srgb(tmp_path):
  light = (np.array(RED) / 255 + 0.055) / 1.055
  light = np.array(FROM_BT709[12]) @ light**2.4
  wide = 255 * (1.055 * light ** (1 / 2.4) - 0.055)
  path = film(tmp_path / "a.mkv", to_yuv(wide, 1), tags=(12, 13, 1))
  np.testing.assert_allclose(shown(path)[0], RED, atol=3)


def nclx(*numbers):
  """A box of colours: primaries, transfer, matrix; limited range."""
  return b"nclx" + struct.pack(">HHHB", *numbers, 0)


QUIET = {"x265-params": "log-level=0"}


@pytest.mark.parametrize(
  "codec, options", [("libx265", QUIET), ("libvpx-vp9", {}), ("mpeg4", {})]
)
def test_tags_of_the_container_alone_count(tmp_path, codec, options):
  path = tmp_path / "a.mp4"
  if codec == "mpeg4":
    # It knows 4:2:0 alone; the colour is the same everywhere.
    options = {"qmax": "2"}
    image = np.full((64, 64, 3), GREEN, np.uint8)
    with av.open(str(path), "w") as container:
      stream = container.add_stream(codec, rate=10)
      stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
      stream.options = options
      for index in range(3):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        frame.colorspace, frame.pts = 2, index
        container.mux(stream.encode(frame))
      container.mux(stream.encode(None))
  else:
    film(path, to_yuv(GREEN, 1), codec, **options)
  # Without tags small pictures are BT.601.
  assert np.abs(shown(path)[0] - GREEN).max() > 10
  add_to_pictures(path, b"colr", nclx(1, 1, 1))
  np.testing.assert_allclose(shown(path)[0], GREEN, atol=5)


@pytest.mark.parametrize(
  "codec, options", [("libx265", QUIET), ("libvpx-vp9", {})]
)
def test_high_dynamic_range_is_seen_in_the_container_alone(
  tmp_path, codec, options
):
  path = tmp_path / "a.mp4"
  # 58 % of PQ is white.
  film(path, (0.58, 0, 0), codec, **options)
  add_to_pictures(path, b"colr", nclx(9, 16, 9))
  found, repairs = shown(path)
  # Grey 148 where nothing is mapped.
  assert found.min() > 220
  assert repairs == ("high dynamic range (PQ) mapped to BT.709 (BT.2390)",)
  with pytest.raises(reading.MediaError, match="high dynamic range"):
    shown(path, hdr="skip")


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("codec", ["ffv1", "libx264"])
def test_ycgco_is_read(tmp_path, codec, full):
  path = tmp_path / "a.mkv"
  for colour in (RED, GREEN, (250, 250, 250), (0, 0, 250)):
    film(path, to_yuv(colour, 8), codec, (1, 1, 8), full)
    np.testing.assert_allclose(shown(path)[0], colour, atol=4)


def test_primaries_tell_a_matrix_that_is_not_told(tmp_path):
  path = film(tmp_path / "a.mkv", to_yuv(GREEN, 1), tags=(1, 2, 2))
  np.testing.assert_allclose(shown(path)[0], GREEN, atol=3)
  path = film(tmp_path / "a.mkv", to_yuv(GREEN, 1), tags=(1, 1, 12))
  np.testing.assert_allclose(shown(path)[0], GREEN, atol=3)


@pytest.mark.parametrize("matrix, name", [(14, "ICtCp"), (10, "BT.2020 of")])
def test_colours_that_cannot_be_converted_are_named(tmp_path, matrix, name):
  path = film(tmp_path / "a.mkv", (0.5, 0.1, 0), tags=(9, 1, matrix))
  with pytest.raises(reading.MediaError, match=rf"its colours \({name}"):
    shown(path)


def dolby_vision(profile, compatible):
  """A record of version 1.0: profile, level 3, base layer and metadata."""
  return struct.pack(">BBH", 1, 0, profile << 9 | 3 << 3 | 5) + bytes(
    [compatible << 4]
  ) + bytes(19)  # fmt: skip


def test_dolby_vision_is_left_out_where_nothing_else_shows_it(tmp_path):
  path = tmp_path / "a.mp4"
  for profile, compatible in ((5, 0), (10, 0), (8, 1), (8, 4)):
    film(path, (0.5, 0.1, 0.1), "libx265", **QUIET)
    kind = b"dvcC" if profile <= 7 else b"dvvC"
    add_to_pictures(path, kind, dolby_vision(profile, compatible))
    if compatible:
      assert len(reading.read_media(path).video) == 3
    else:
      with pytest.raises(
        reading.MediaError, match=f"Dolby Vision of profile {profile}"
      ):
        reading.read_media(path)


def element(number, content):
  """An element of Matroska, its size in eight bytes."""
  size = (1 << 56 | len(content)).to_bytes(8, "big")
  return number.to_bytes((number.bit_length() + 7) // 8, "big") + size + content


def split(content):
  """Elements (number, content) of Matroska."""
  found, position = [], 0
  while position < len(content):
    first = 9 - content[position].bit_length()
    number = int.from_bytes(content[position : position + first], "big")
    position += first
    width = 9 - content[position].bit_length()
    size = int.from_bytes(content[position : position + width], "big")
    position += width
    size &= (1 << 7 * width) - 1
    found.append((number, content[position : position + size]))
    position += size
  return found


def add_to_track(path, content, level=()):
  """Adds elements to the only track of a file that was written live.

  `level`: numbers of the elements within the track to which they are added.
  """
  data = path.read_bytes()
  cluster = data.index(b"\x1f\x43\xb6\x75")
  # The index at the beginning names it, too.
  start = data.rindex(b"\x16\x54\xae\x6b", 0, cluster)
  width = 9 - data[start + 4].bit_length()
  size = int.from_bytes(data[start + 4 : start + 4 + width], "big")
  end = start + 4 + width + (size & (1 << 7 * width) - 1)

  def added(parts, path):
    if not path:
      return b"".join(element(*part) for part in parts) + content
    return b"".join(
      element(n, added(split(c), path[1:]) if n == path[0] else c)
      for n, c in parts
    )

  tracks = added(split(data[start:end]), (0x1654AE6B, 0xAE, *level))
  path.write_bytes(data[:start] + tracks + data[end:])


def live(path, yuv, size=(64, 64)):
  film(path, yuv, "ffv1", size=size)
  # Written anew without an index, whose places would be wrong.
  with (
    av.open(str(path)) as source,
    av.open(str(path) + ".live.mkv", "w", options={"live": "1"}) as copy,
  ):
    stream = copy.add_stream_from_template(source.streams.video[0])
    for packet in source.demux(source.streams.video[0]):
      if packet.dts is not None:
        packet.stream = stream
        copy.mux(packet)
  return path.with_name(path.name + ".live.mkv")


def test_dolby_vision_and_edges_of_matroska(tmp_path):
  path = live(tmp_path / "a.mkv", (0.5, 0.1, 0.1))
  assert reading.read_media(path).video.shape == (3, 64, 64, 3)
  before = path.read_bytes()
  crops = element(0x54BB, b"\x08") + element(0x54CC, b"\x04")
  crops += element(0x54AA, b"\x02")
  add_to_track(path, crops, (0xE0,))
  assert reading.read_media(path).video.shape == (3, 54, 60, 3)
  path.write_bytes(before)
  kind, data = element(0x41E7, b"dvcC"), element(0x41ED, dolby_vision(5, 0))
  add_to_track(path, element(0x41E4, kind + data))
  with pytest.raises(reading.MediaError, match="Dolby Vision of profile 5"):
    reading.read_media(path)


def test_descriptions_that_make_no_sense_are_passed_over(tmp_path):
  mkv = live(tmp_path / "a.mkv", (0.5, 0.1, 0.1))
  mp4 = film(tmp_path / "a.mp4", (0.5, 0.1, 0.1), "libx264")
  add_to_pictures(mp4, b"dvcC", dolby_vision(5, 0))
  rng = np.random.default_rng(0)
  for path, read in ((mkv, read_elements), (mp4, read_boxes)):
    whole = path.read_bytes()
    assert len(read(path)) == 1
    for _ in range(60):
      data = bytearray(whole)
      for position in rng.integers(0, len(data), 20):
        data[position] = rng.integers(256)
      path.write_bytes(data)
      read(path)
    for end in range(0, 400, 7):
      path.write_bytes(whole[:end])
      read(path)
