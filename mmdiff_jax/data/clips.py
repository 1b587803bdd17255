"""Prepared clips: how videos are cut into records, and what a record holds.

A video of N frames has N-F+1 clips of F frames. It is stored as segments:
segment k starts at frame kF and holds up to 2F-1 frames, hence the clips that
start at frames kF .. kF+F-1. Every clip is in exactly one record, and nothing
is stored more than twice.

Besides the two streams a record carries the inputs of its video, by name:
feature `given/<name>` holds the values, an empty or longer `given_shape/<name>`
their shape. `text/captions` holds its captions; `given/text` has the vector of
each.
"""

import io
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.codec import Feature, decode_example, encode_example
from mmdiff_jax.media.writing import from_pcm16, to_pcm16

FRAME_FORMATS = ("raw", "png", "jpeg")
# zlib level of PNG frames: higher ones are much slower and little smaller.
_PNG_LEVEL = 3
INPUT_PREFIXES = _INPUT, _INPUT_SHAPE = "given/", "given_shape/"
CAPTIONS = "text/captions"


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

  It covers every clip, each of which is `spec.audio_length` long although
  frames may not begin on whole samples.
  """
  last = start + frames - spec.frames
  return (
    spec.frames_to_samples(start),
    spec.frames_to_samples(last) + spec.audio_length,
  )


def encode_frame(
  image: np.ndarray, frame_format: str, quality: int | None = None
) -> bytes:
  """Encodes uint8 `[H, W, 3]` as one of FRAME_FORMATS.

  Args:
    image: the frame.
    frame_format: "raw" (the bytes), "png" (lossless) or "jpeg".
    quality: quality of "jpeg", 1-100; the others have none.
  """
  if frame_format == "raw":
    return np.ascontiguousarray(image).tobytes()
  from PIL import Image

  buffer = io.BytesIO()
  options: dict[str, Any]
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


def as_inputs(name: str, value: Any) -> np.ndarray:
  """Inputs that go with a clip, in the types that batches have.

  Args:
    name: of the input, a Python identifier.
    value: integers or floats of any shape.

  Returns:
    int32 or float32.

  Raises:
    ValueError: if it is something else, or does not fit the type.
  """
  if not name.isidentifier():
    raise ValueError(f"input {name!r} must be a name of letters and digits.")
  array = np.asarray(value)
  if array.dtype.kind == "f":
    return array.astype(np.float32)
  if array.dtype.kind not in "iub":
    raise ValueError(
      f"input {name!r} is {array.dtype}; allowed are integers and floats."
    )
  converted = array.astype(np.int32)
  if not np.array_equal(converted, array):
    raise ValueError(f"input {name!r} holds integers beyond 32 bits.")
  return converted


def encode_segment(
  spec: AVSpec,
  *,
  source: str,
  start: int,
  frames: Sequence[bytes],
  frame_format: str,
  audio: np.ndarray,
  inputs: Mapping[str, Any] | None = None,
  captions: Sequence[str] = (),
) -> bytes:
  """Serialises a segment as a tf.train.Example.

  Args:
    spec: geometry of a clip.
    source: name of the video.
    start: number of the segment's first frame in the video.
    frames: encoded frames.
    frame_format: one of FRAME_FORMATS.
    audio: float `[n, 1]`, the samples of `audio_span`.
    inputs: of a network that go with the video; see `as_inputs`.
    captions: that describe the video.
  """
  features: dict[str, Feature] = {
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
  for name, value in (inputs or {}).items():
    array = as_inputs(name, value)
    features[_INPUT + name] = array.reshape(-1)
    features[_INPUT_SHAPE + name] = np.array(array.shape, np.int64)
  if captions:
    features[CAPTIONS] = [source_bytes(caption) for caption in captions]
  return encode_example(features)


class Segment:
  """A record, decoded as far as it is asked for."""

  def __init__(self, data: bytes, spec: AVSpec):
    """Parses a record; `spec` is the geometry of the data set's clips.

    Raises:
      ValueError: if it is not a record of such a data set.
    """
    features = decode_example(data)
    try:
      self.source = bytes(features["clip/source"][0]).decode(
        "utf-8", "surrogateescape"
      )
      self.start = int(features["clip/start"][0])
      self.num_clips = int(features["clip/windows"][0])
      self._frames = features["video/frames"]
      self._format = str(features["video/format"][0], "utf-8")
      self._pcm = np.frombuffer(features["audio/pcm16"][0], "<i2")
    except (KeyError, IndexError) as error:
      raise ValueError(f"the record has no feature {error}") from error
    self._features, self._spec = features, spec
    begin, end = audio_span(spec, self.start, len(self._frames))
    if (
      len(self._frames) != self.num_clips + spec.frames - 1
      or len(self._pcm) != end - begin
      or not self._states(spec)
    ):
      raise ValueError("the record does not fit dataset.json's spec")

  def _states(self, spec: AVSpec) -> bool:
    """Whether the geometry that the record states of itself is `spec`."""
    wanted: dict[str, float] = {
      "clip/window_frames": spec.frames,
      "video/height": spec.height,
      "video/width": spec.width,
      "video/fps": float(np.float32(spec.fps)),
      "audio/sample_rate": spec.sample_rate,
    }
    return all(
      list(self._features[name]) == [value]
      for name, value in wanted.items()
      if name in self._features
    )

  def check_place(self, source: str, start: int, frames: int) -> None:
    """Raises ValueError unless this is that segment of that video."""
    if (self.source, self.start, self.num_frames) != (source, start, frames):
      raise ValueError(
        f"the record is {self.source!r} from frame {self.start} "
        f"({self.num_frames} frames), dataset.json says {source!r} from frame "
        f"{start} ({frames} frames)"
      )

  @property
  def num_frames(self) -> int:
    """Frames of the segment."""
    return len(self._frames)

  def frame(self, index: int) -> np.ndarray:
    """Frame `index` of the segment, uint8 `[H, W, 3]`.

    Raises:
      ValueError: if it is damaged.
    """
    height, width = self._spec.height, self._spec.width
    try:
      image = decode_frame(self._frames[index], self._format, height, width)
    except Exception as error:
      # Pillow raises nearly any, and a bomb's is none of the usual ones.
      raise ValueError(
        f"frame {self.start + index} of {self.source} cannot be decoded "
        f"({type(error).__name__}); prepare the videos again."
      ) from error
    if image.shape != (height, width, 3):
      raise ValueError(
        f"frame {self.start + index} of {self.source} is not of "
        f"{height}x{width} pixels; prepare the videos again."
      )
    return image

  def video(self, offset: int) -> np.ndarray:
    """Frames of the clip that starts `offset` frames in, `[F, H, W, 3]`."""
    frames = range(offset, offset + self._spec.frames)
    return np.stack([self.frame(index) for index in frames])

  def audio(self, offset: int) -> np.ndarray:
    """Audio of the clip's time span, float32 `[L, 1]`."""
    spec = self._spec
    begin = spec.frames_to_samples(self.start + offset)
    begin -= spec.frames_to_samples(self.start)
    return from_pcm16(self._pcm[begin : begin + spec.audio_length, None])

  def inputs(self) -> dict[str, np.ndarray]:
    """What else is known of the video, by name: int32 and float32 arrays."""
    names = [
      key.removeprefix(_INPUT)
      for key in self._features
      if key.startswith(_INPUT)
    ]
    # TFDS stores what a video lacks as no number of no shape.
    return {
      name: self._inputs(name)
      for name in names
      if len(self._features[_INPUT + name])
      or len(self._features[_INPUT_SHAPE + name])
    }

  def captions(self) -> tuple[str, ...]:
    """Texts that describe the video."""
    return tuple(
      bytes(caption).decode("utf-8", "surrogateescape")
      for caption in self._features.get(CAPTIONS, ())
    )

  def _inputs(self, name: str) -> np.ndarray:
    shape = np.asarray(self._features[_INPUT_SHAPE + name], np.int64)
    values = np.asarray(self._features[_INPUT + name])
    return as_inputs(name, values.reshape(shape))


def source_bytes(source: str) -> bytes:
  """A file name as bytes, whatever its characters."""
  return source.encode("utf-8", "surrogateescape")


def is_held_out(source: str, fraction: float) -> bool:
  """Whether a video belongs to the held-out share; by the hash of its name."""
  return zlib.crc32(source_bytes(source)) < fraction * 2**32
