import dataclasses

import numpy as np
import pytest

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data import clips
from mmdiff_jax.data.codec import decode_example
from mmdiff_jax.data.manifest import MANIFEST, Manifest, Video


@pytest.mark.parametrize("clip_frames", [1, 2, 5, 16])
@pytest.mark.parametrize("num_frames", [1, 4, 5, 6, 9, 10, 14, 15, 16, 31, 100])
def test_every_clip_is_in_exactly_one_segment(num_frames, clip_frames):
  seen = []
  for start, frames in clips.segments(num_frames, clip_frames):
    assert clip_frames <= frames <= 2 * clip_frames - 1
    assert start + frames <= num_frames
    seen += range(start, start + frames - clip_frames + 1)
  assert seen == list(range(max(0, num_frames - clip_frames + 1)))


@pytest.mark.parametrize("frame_format", clips.FRAME_FORMATS)
def test_frames_round_trip(frame_format):
  y, x = np.mgrid[:24, :20]
  image = np.stack([x * 9, y * 8, x * 4 + y * 5], -1).astype(np.uint8)
  data = clips.encode_frame(image, frame_format, 95)
  back = clips.decode_frame(data, frame_format, 24, 20)
  tolerance = 6 if frame_format == "jpeg" else 0
  np.testing.assert_allclose(back.astype(int), image, atol=tolerance)


def make_segment(spec, start, num_frames, source="a/b.mp4"):
  """A record cut from a video whose frames and samples are numbered."""
  begin, end = clips.audio_span(spec, start, num_frames)
  shape = (spec.height, spec.width, 3)
  frames = [
    np.full(shape, start + i, np.uint8).tobytes() for i in range(num_frames)
  ]
  audio = np.arange(begin, end, dtype=np.float32)[:, None] / 32768
  return clips.encode_segment(
    spec,
    source=source,
    start=start,
    frames=frames,
    frame_format="raw",
    audio=audio,
  )


@pytest.mark.parametrize("rate, fps", [(16000, 10.0), (1000, 29.97), (999, 7)])
def test_a_clip_has_the_audio_of_its_time_span(rate, fps):
  spec = AVSpec(5, 4, 6, fps, rate)
  segment = clips.Segment(make_segment(spec, 10, 9), spec)
  assert (segment.start, segment.num_clips, segment.num_frames) == (10, 5, 9)
  for offset in range(segment.num_clips):
    video, audio = segment.video(offset), segment.audio(offset)
    assert video.shape == spec.video_shape
    assert audio.shape == spec.audio_shape
    assert video[:, 0, 0, 0].tolist() == list(range(10 + offset, 15 + offset))
    # Sample n was numbered n: the first is the one at the first frame's time.
    assert round(float(audio[0, 0]) * 32768) == round(
      (10 + offset) * rate / fps
    )
    np.testing.assert_allclose(np.diff(audio[:, 0]) * 32768, 1, atol=1e-3)


def test_a_record_is_an_example_that_others_can_read():
  spec = AVSpec(2, 4, 6, 10.0, 100)
  record = make_segment(spec, 2, 3, "été/ключ.mp4")
  features = decode_example(record)
  assert bytes(features["clip/source"][0]).decode() == "été/ключ.mp4"
  assert features["clip/windows"].tolist() == [2]
  assert features["video/height"].tolist() == [4]
  assert features["video/fps"].tolist() == [10.0]
  assert len(features["video/frames"]) == 3
  assert clips.Segment(record, spec).source == "été/ключ.mp4"


def test_names_that_are_no_text_survive():
  spec = AVSpec(2, 4, 6, 10.0, 100)
  source = b"\xff.mp4".decode("utf-8", "surrogateescape")
  assert clips.Segment(make_segment(spec, 0, 2, source), spec).source == source


def test_a_record_of_another_geometry_is_an_error():
  record = make_segment(AVSpec(2, 4, 6, 10.0, 100), 0, 3)
  with pytest.raises(ValueError, match="does not fit dataset.json"):
    clips.Segment(record, AVSpec(3, 4, 6, 10.0, 100))
  with pytest.raises(ValueError, match="no feature 'clip/source'"):
    clips.Segment(b"", AVSpec())


def test_a_record_without_anything_given_is_as_it_always_was():
  spec = AVSpec(2, 4, 6, 10.0, 100)
  features = decode_example(make_segment(spec, 0, 2))
  assert sorted(features) == [
    "audio/pcm16",
    "audio/sample_rate",
    "clip/source",
    "clip/start",
    "clip/window_frames",
    "clip/windows",
    "video/format",
    "video/fps",
    "video/frames",
    "video/height",
    "video/width",
  ]


@pytest.mark.parametrize(
  ("name", "value", "message"),
  [
    ("a/b", 1, "must be a name"),
    ("text", "words", "allowed are integers and floats"),
    ("label", 2**31, "beyond 32 bits"),
  ],
)
def test_what_no_record_can_carry_is_named(name, value, message):
  with pytest.raises(ValueError, match=message):
    clips.as_inputs(name, value)


def manifest():
  return Manifest(
    spec=AVSpec(5, 8, 8, 10.0, 1000),
    frame_format="jpeg",
    jpeg_quality=90,
    videos=(Video("a.mp4", 12, ("late",)), Video("b.mp4", 5)),
    shards=(("clips-0.tfrecord", 1), ("clips-1.tfrecord", 1)),
    skipped=(("c.mp4", "empty"),),
    options={"channels": "mean"},
    fingerprint="f",
  )


def test_manifest_round_trip_and_counts(tmp_path):
  original = manifest()
  original.save(tmp_path)
  assert Manifest.load(tmp_path) == original
  counts, owners = original.record_table()
  # 12 frames: clips 0-4 and 5-7; 5 frames: one clip.
  assert counts.tolist() == [5, 3, 1]
  assert owners.tolist() == [0, 0, 1]
  assert (original.num_clips, original.num_records) == (9, 3)
  assert original.hours == pytest.approx(17 / 10 / 3600)
  assert "classes" not in original.to_json()
  labelled = dataclasses.replace(original, classes=("cat", "dog"))
  assert Manifest.from_json(labelled.to_json()) == labelled


def test_manifest_errors_name_the_file_and_the_cure(tmp_path):
  with pytest.raises(ValueError, match="prepare --input"):
    Manifest.load(tmp_path)
  path = tmp_path / MANIFEST
  path.write_text(manifest().to_json()[:200])
  with pytest.raises(ValueError, match="dataset.json is damaged"):
    Manifest.load(tmp_path)
  path.write_text(manifest().to_json().replace('"version": 1', '"version": 9'))
  with pytest.raises(ValueError, match="version 9; this program reads"):
    Manifest.load(tmp_path)


def test_the_held_out_share_is_stable_and_near_its_fraction():
  names = [f"folder/{i}.mp4" for i in range(4000)]
  held = [clips.is_held_out(name, 0.1) for name in names]
  assert 0.08 < np.mean(held) < 0.12
  # A larger share contains the smaller one.
  more = [clips.is_held_out(name, 0.2) for name in names]
  assert all(b for a, b in zip(held, more, strict=True) if a)
  assert not clips.is_held_out("x", 0.0)
