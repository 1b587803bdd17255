"""Pictures that nobody sees are not decoded, and nothing else changes."""

import av
import numpy as np
import pytest

from mmdiff_jax.media import reading
from mmdiff_jax.media.container import ReadOptions, check_hwaccel
from mmdiff_jax.media.skip import Skipper
from tests.media_fixtures import write

# Bicubic, all chroma samples, exact rounding.
EXACT = 0x4 | 0x2000 | 0x40000
# Three of four pictures are B-frames, to none or to one of which others refer.
FLAT = {"x264-params": "bframes=3:b-adapt=0:b-pyramid=none:scenecut=0"}
PYRAMID = {"x264-params": "bframes=3:b-adapt=0:b-pyramid=normal:scenecut=0"}


def moving(count, height=48, width=64):
  """Stripes that move by a column a frame, over noise that never repeats."""
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 60, (count, height, width, 3), dtype=np.uint8)
  for index in range(count):
    frames[index, :, index % 8 :: 8] += 150
  return frames


def by_hand(path, fps):
  """All frames decoded; of those begun by k / fps (within 2 ms) the last."""
  with av.open(str(path)) as container:
    shown = [
      (f.time, f.to_ndarray(format="rgb24", interpolation=EXACT))
      for f in container.decode(video=0)
    ]
  start = shown[0][0]
  times = np.array([time - start for time, _ in shown])
  count = int((times[-1] + times[1]) * fps + 0.1)
  points = np.arange(count) / fps
  return [
    shown[i][1] for i in np.searchsorted(times, points + 2e-3, "right") - 1
  ]


@pytest.mark.parametrize(
  "name, codec, options",
  [
    ("a.mp4", "libx264", FLAT),
    ("a.mkv", "libx264", PYRAMID),
    ("a.mkv", "mpeg2video", {"bf": "2"}),
  ],
)
@pytest.mark.parametrize("fps", [3.0, 10.0])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_frames_shown_are_those_of_decoding_everything(
  tmp_path, monkeypatch, name, codec, options, fps, threads
):
  path = tmp_path / name
  write(path, moving(50), rate=25, codec=codec, options=options)
  told = []
  monkeypatch.setattr(
    Skipper,
    "_needed",
    lambda *a, needed=Skipper._needed: told.append(needed(*a)) or told[-1],
  )
  reader = reading.FrameReader(
    path, fps, None, None, ReadOptions(threads=threads)
  )
  found = list(reader)
  wanted = by_hand(path, fps)
  assert told.count(False) > 20
  assert len(found) == len(wanted)
  np.testing.assert_array_equal(found, wanted)


def test_a_decoder_leaves_pictures_out(tmp_path):
  path = tmp_path / "a.mp4"
  write(path, moving(50), rate=25, options=FLAT)
  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    skipper = Skipper(stream.codec_context)
    skipper.grid = lambda time: int(time * 2)
    packets = ((p, 0) for p in container.demux(stream))
    frames = [f for p, _ in skipper.watch(packets) for f in p.decode()]
  assert len(frames) < 20


def test_hardware_that_is_absent_is_one_line():
  with pytest.raises(ValueError, match="--hwaccel=abacus: this FFmpeg knows"):
    check_hwaccel("abacus")
  # A machine of tests may have a GPU; no machine has all kinds of hardware.
  from av.codec.hwaccel import hwdevices_available

  absent = 0
  for name in hwdevices_available():
    try:
      check_hwaccel(name)
    except ValueError as error:
      absent += 1
      assert "\n" not in str(error) and "leave it out" in str(error)
  assert absent
