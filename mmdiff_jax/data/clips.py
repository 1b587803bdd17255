"""Prepared clips: how videos are cut into records, and what a record holds.

A video of N frames has N-F+1 windows of F frames. It is stored as segments:
segment k starts at frame kF and holds up to 2F-1 frames, hence the windows
that start at frames kF .. kF+F-1. Every window is in exactly one record, and
nothing is stored more than twice.

`dataset.json` beside the shards describes the whole data set; the records
follow from it: those of its clips in order, of each clip its segments.
"""

import dataclasses
import io
import json
import os
import pathlib
import zlib
from collections.abc import Sequence

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.codec import decode_example, encode_example
from mmdiff_jax.data.media_writer import from_pcm16, to_pcm16
from mmdiff_jax.files import replacing

FORMAT = "mmdiff_jax clips"
VERSION = 1
FRAME_FORMATS = ("raw", "png", "jpeg")
MANIFEST = "dataset.json"
# zlib level of PNG frames: higher ones are much slower and little smaller.
_PNG_LEVEL = 3


def segment_length(clip_frames: int) -> int:
  """Largest number of frames of a segment."""
  return 2 * clip_frames - 1


def segments(num_frames: int, clip_frames: int) -> list[tuple[int, int]]:
  """(first frame, number of frames) of each segment of a video."""
  longest = segment_length(clip_frames)
  return [
    (start, min(longest, num_frames - start))
    for start in range(0, num_frames - clip_frames + 1, clip_frames)
  ]


def audio_span(spec: AVSpec, start: int, frames: int) -> tuple[int, int]:
  """First sample, and sample after the last, of a segment's audio.

  It covers every window, each of which is `spec.audio_length` long although
  frames may not begin on whole samples.
  """
  last = start + frames - spec.frames
  return (
    spec.frames_to_samples(start),
    spec.frames_to_samples(last) + spec.audio_length,
  )


def encode_frame(image: np.ndarray, frame_format: str, quality: int) -> bytes:
  """Encodes uint8 `[H, W, 3]` as one of FRAME_FORMATS.

  Args:
    image: the frame.
    frame_format: "raw" (the bytes), "png" (lossless) or "jpeg".
    quality: quality of "jpeg", 1-100.
  """
  if frame_format == "raw":
    return np.ascontiguousarray(image).tobytes()
  from PIL import Image

  buffer = io.BytesIO()
  if frame_format == "png":
    options = {"compress_level": _PNG_LEVEL}
  else:
    # Full chroma resolution: the frames are small.
    options = {"quality": quality, "subsampling": 0}
  Image.fromarray(image).save(buffer, format=frame_format, **options)
  return buffer.getvalue()


def decode_frame(
  data: bytes | memoryview, frame_format: str, height: int, width: int
) -> np.ndarray:
  """Inverse of `encode_frame`; uint8 `[height, width, 3]`."""
  if frame_format == "raw":
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)
  from PIL import Image

  return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def encode_segment(
  spec: AVSpec,
  *,
  source: str,
  start: int,
  frames: Sequence[bytes],
  frame_format: str,
  audio: np.ndarray,
) -> bytes:
  """Serialises a segment as a tf.train.Example.

  Args:
    spec: geometry of a window.
    source: name of the video.
    start: number of the segment's first frame in the video.
    frames: encoded frames.
    frame_format: one of FRAME_FORMATS.
    audio: float `[n, 1]`, the samples of `audio_span`.
  """
  return encode_example(
    {
      "clip/source": [source_bytes(source)],
      "clip/start": np.array([start]),
      "clip/windows": np.array([len(frames) - spec.frames + 1]),
      "clip/window_frames": np.array([spec.frames]),
      "video/frames": list(frames),
      "video/format": [frame_format.encode()],
      "video/height": np.array([spec.height]),
      "video/width": np.array([spec.width]),
      "video/fps": np.array([spec.fps], np.float32),
      "audio/pcm16": [to_pcm16(audio).tobytes()],
      "audio/sample_rate": np.array([spec.sample_rate]),
    }
  )


class Segment:
  """A record, decoded as far as it is asked for."""

  def __init__(self, data: bytes, spec: AVSpec):
    """Parses a record; `spec` is the geometry of the data set's windows.

    Raises:
      ValueError: if it is no record of such a data set.
    """
    features = decode_example(data)
    try:
      self.source = bytes(features["clip/source"][0]).decode(
        "utf-8", "surrogateescape"
      )
      self.start = int(features["clip/start"][0])
      self.windows = int(features["clip/windows"][0])
      self._frames = features["video/frames"]
      self._format = str(features["video/format"][0], "utf-8")
      self._pcm = np.frombuffer(features["audio/pcm16"][0], "<i2")
    except (KeyError, IndexError) as error:
      raise ValueError(f"the record has no feature {error}") from error
    self._spec = spec
    begin, end = audio_span(spec, self.start, len(self._frames))
    if (
      len(self._frames) != self.windows + spec.frames - 1
      or len(self._pcm) != end - begin
    ):
      raise ValueError("the record does not fit dataset.json's spec")

  @property
  def num_frames(self) -> int:
    """Frames of the segment."""
    return len(self._frames)

  def frame(self, index: int) -> np.ndarray:
    """Frame `index` of the segment, uint8 `[H, W, 3]`."""
    return decode_frame(
      self._frames[index], self._format, self._spec.height, self._spec.width
    )

  def video(self, offset: int) -> np.ndarray:
    """Frames of the window that starts `offset` frames in, `[F, H, W, 3]`."""
    frames = range(offset, offset + self._spec.frames)
    return np.stack([self.frame(index) for index in frames])

  def audio(self, offset: int) -> np.ndarray:
    """Audio of the window's time span, float32 `[L, 1]`."""
    spec = self._spec
    begin = spec.frames_to_samples(self.start + offset)
    begin -= spec.frames_to_samples(self.start)
    return from_pcm16(self._pcm[begin : begin + spec.audio_length, None])


@dataclasses.dataclass(frozen=True)
class Clip:
  """One prepared video: its name, its number of frames, what was repaired."""

  source: str
  frames: int
  repaired: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Manifest:
  """Contents of dataset.json.

  Attributes:
    spec: geometry of a window.
    frame_format: one of FRAME_FORMATS.
    jpeg_quality: quality of "jpeg" frames, else None.
    clips: the videos in the order of their records.
    shards: (file name, number of clips) of each shard, in order.
    skipped: (source, reason) of each video that was left out.
    options: what else the preparation was told.
    fingerprint: hash of inputs and options.
  """

  spec: AVSpec
  frame_format: str
  jpeg_quality: int | None
  clips: tuple[Clip, ...]
  shards: tuple[tuple[str, int], ...]
  skipped: tuple[tuple[str, str], ...] = ()
  options: dict = dataclasses.field(default_factory=dict)
  fingerprint: str = ""

  def record_table(self) -> tuple[np.ndarray, np.ndarray]:
    """Number of windows, and index of the clip, of every record."""
    windows, owners = [], []
    for owner, clip in enumerate(self.clips):
      for _, frames in segments(clip.frames, self.spec.frames):
        windows.append(frames - self.spec.frames + 1)
        owners.append(owner)
    return np.array(windows, np.int64), np.array(owners, np.int64)

  @property
  def num_records(self) -> int:
    """Records in all shards."""
    return len(self.record_table()[0])

  @property
  def num_windows(self) -> int:
    """Windows of `spec.frames` frames at stride 1 in all videos."""
    return sum(clip.frames - self.spec.frames + 1 for clip in self.clips)

  @property
  def hours(self) -> float:
    """Length of all videos."""
    return sum(clip.frames for clip in self.clips) / self.spec.fps / 3600

  def to_json(self) -> str:
    """The text of dataset.json; equal data sets give equal text."""
    frames = self.spec.frames
    shards, first = [], 0
    for name, count in self.shards:
      clips = self.clips[first : first + count]
      first += count
      shards.append(
        {
          "file": name,
          "clips": count,
          "records": sum(len(segments(c.frames, frames)) for c in clips),
          "windows": sum(c.frames - frames + 1 for c in clips),
        }
      )
    content = {
      "format": FORMAT,
      "version": VERSION,
      "spec": dataclasses.asdict(self.spec),
      "frame_format": self.frame_format,
      "jpeg_quality": self.jpeg_quality,
      "options": self.options,
      "counts": {
        "clips": len(self.clips),
        "skipped": len(self.skipped),
        "repaired": sum(bool(clip.repaired) for clip in self.clips),
        "records": self.num_records,
        "windows": self.num_windows,
        "frames": sum(clip.frames for clip in self.clips),
      },
      "hours": round(self.hours, 6),
      "shards": shards,
      "clips": [
        {
          "source": clip.source,
          "frames": clip.frames,
          "windows": clip.frames - frames + 1,
          "repaired": list(clip.repaired),
        }
        for clip in self.clips
      ],
      "skipped": [
        {"source": source, "reason": reason} for source, reason in self.skipped
      ],
      "fingerprint": self.fingerprint,
    }
    return json.dumps(content, indent=1) + "\n"

  @classmethod
  def from_json(cls, text: str, where: str = MANIFEST) -> "Manifest":
    """Inverse of `to_json`; `where` names the text in errors.

    Raises:
      ValueError: if the text describes no data set, or one of another version.
    """
    try:
      content = json.loads(text)
      if content["format"] != FORMAT or content["version"] != VERSION:
        raise ValueError(
          f"{where}: format {content['format']!r} version"
          f" {content['version']}; this program reads {FORMAT!r} version"
          f" {VERSION}. Prepare the videos again."
        )
      return cls(
        spec=AVSpec(**content["spec"]),
        frame_format=content["frame_format"],
        jpeg_quality=content["jpeg_quality"],
        clips=tuple(
          Clip(c["source"], c["frames"], tuple(c["repaired"]))
          for c in content["clips"]
        ),
        shards=tuple((s["file"], s["clips"]) for s in content["shards"]),
        skipped=tuple((s["source"], s["reason"]) for s in content["skipped"]),
        options=content["options"],
        fingerprint=content["fingerprint"],
      )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
      raise ValueError(
        f"{where} is damaged ({type(error).__name__}: {error}); prepare the"
        " videos again."
      ) from error

  @classmethod
  def load(cls, directory: str | os.PathLike) -> "Manifest":
    """Reads dataset.json of a prepared directory.

    Raises:
      ValueError: if there is none, or it is damaged.
    """
    path = pathlib.Path(directory) / MANIFEST
    if not path.is_file():
      raise ValueError(
        f"{path} does not exist: {directory} is no prepared data set. Prepare"
        " one with: python -m data_prep.videos_to_tfrecord --input VIDEOS"
        f" --output {directory}"
      )
    return cls.from_json(path.read_text(), str(path))

  def save(self, directory: str | os.PathLike) -> None:
    """Writes dataset.json."""
    with replacing(pathlib.Path(directory) / MANIFEST) as temporary:
      pathlib.Path(temporary).write_text(self.to_json())


def source_bytes(source: str) -> bytes:
  """A file name as bytes, whatever its characters."""
  return source.encode("utf-8", "surrogateescape")


def is_held_out(source: str, fraction: float) -> bool:
  """Whether a video belongs to the held-out share; by the hash of its name."""
  return zlib.crc32(source_bytes(source)) < fraction * 2**32
