"""Writes small prepared data sets whose frames and samples are numbered."""

import numpy as np

from mmdiff_jax.data import clips
from mmdiff_jax.data.manifest import Manifest, Video
from mmdiff_jax.data.tfrecord import TFRecordWriter


def numbered_frame(spec, clip, number):
  """Pixel (0, 0) holds clip and frame; column 1 tells left from right."""
  image = np.full((spec.height, spec.width, 3), 50, np.uint8)
  image[:, 0] = (clip, number, 0)
  image[:, 1] = 255
  return image


def write_dataset(
  folder, spec, lengths, *, shards=1, frame_format="raw", given=None
):
  """Writes a data set of videos of so many frames each.

  `given` lists what is given of each video.
  """
  folder.mkdir(parents=True)
  names = [f"video_{i:03d}.mp4" for i in range(len(lengths))]
  groups = np.array_split(np.arange(len(lengths)), shards)
  table = []
  for shard, group in enumerate(groups):
    name = f"clips-{shard:05d}-of-{shards:05d}.tfrecord"
    with TFRecordWriter(folder / name) as writer:
      for clip in group:
        for record in records(
          spec, int(clip), names, lengths, frame_format, given
        ):
          writer.write(record)
    table.append((name, len(group)))
  Manifest(
    spec=spec,
    frame_format=frame_format,
    jpeg_quality=None,
    videos=tuple(map(Video, names, lengths)),
    shards=tuple(table),
  ).save(folder)
  return folder


def records(spec, clip, names, lengths, frame_format, given):
  for start, frames in clips.segments(lengths[clip], spec.frames):
    begin, end = clips.audio_span(spec, start, frames)
    images = [numbered_frame(spec, clip, start + i) for i in range(frames)]
    yield clips.encode_segment(
      spec,
      source=names[clip],
      start=start,
      frames=[clips.encode_frame(i, frame_format, 95) for i in images],
      frame_format=frame_format,
      audio=np.arange(begin, end)[:, None] / 32768,
      inputs=given[clip] if given else None,
    )
