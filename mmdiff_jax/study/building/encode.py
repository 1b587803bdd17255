"""Clips that differ in what is seen and heard, and in nothing else.

All have one size, frame rate, length, loudness and encoding. Groups of
pictures have a fixed length and no B-frames, so that the index at the front
of every file has the same number of entries; zeros at the end of the media
data make the files, and all their boxes, equally large.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
from scipy import signal

from mmdiff_jax.disk.files import replacing
from mmdiff_jax.media import reading
from mmdiff_jax.media.writing import SAME_BYTES
from mmdiff_jax.study.building import loudness
from mmdiff_jax.study.settings import ClipSettings

_CRF = "16"
_AUDIO_BITS = 128_000
# Digital silence makes AAC frames of one size, and with them a shorter index.
_DITHER = 1e-5
_PAGE = 4096
# The time that all files bear: when one was built would tell its place.
_MODIFIED = 946_684_800


@dataclasses.dataclass(frozen=True)
class Geometry:
  """What all clips of a study share.

  Attributes:
    height: of the picture in pixels, even.
    width: likewise.
    fps: frames per second.
    frames: number of frames.
    sample_rate: rate that all sound passes through (Hz): its treble.
    loudness: LUFS.
  """

  height: int
  width: int
  fps: float
  frames: int
  sample_rate: int
  loudness: float

  @property
  def seconds(self) -> float:
    """Length of every clip."""
    return self.frames / self.fps


def common_geometry(
  paths: Iterable[str | os.PathLike], wanted: ClipSettings
) -> Geometry:
  """The richest geometry that every file can be brought down to.

  Raises:
    ValueError: if a file is shorter than the wanted seconds or has no sound.
  """
  sizes, rates, lengths, sounds = [], [], [], []
  for path in paths:
    (height, width), fps, seconds, rate = _probe(path)
    if wanted.seconds and seconds < wanted.seconds - 0.5 / fps:
      raise ValueError(
        f"{path} lasts {seconds:.2f} s, clip.seconds is {wanted.seconds}; "
        "set less, or null for the length of the shortest clip."
      )
    sizes.append((height, width))
    rates.append(fps)
    lengths.append(seconds)
    sounds.append(rate)
  height, width = min(s[0] for s in sizes), min(s[1] for s in sizes)
  if wanted.size:
    height = width = wanted.size
  fps = wanted.fps or min(rates)
  frames = int((wanted.seconds or min(lengths)) * fps + 0.1)
  return Geometry(
    height=max(2, height // 2 * 2),
    width=max(2, width // 2 * 2),
    fps=fps,
    frames=frames,
    sample_rate=wanted.sample_rate or min(sounds),
    loudness=wanted.loudness,
  )


def _probe(path) -> tuple[tuple[int, int], float, float, int]:
  """Size, frame rate, seconds and sample rate of a file."""
  track = reading.read_track(path)
  if track is None:
    raise ValueError(f"{path} has no sound; a study needs clips with sound.")
  reader = reading.FrameReader(path, track=track)
  frames = sum(1 for _ in reader)
  seconds = frames / reader.fps
  return reader.native_size, reader.fps, seconds, track.sample_rate


def read_clip(
  path: str | os.PathLike, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray]:
  """Reads a file at the study's geometry.

  The picture is cut to the shared aspect, not framed by bars, which would
  tell the sides apart.

  Returns:
    uint8 `[F, H, W, 3]`, and float32 `[L]` at 48 kHz at the study's loudness.
  """
  clip = reading.read_media(
    path, fps=geometry.fps, sample_rate=geometry.sample_rate
  )
  assert clip.audio is not None
  video = np.stack(
    [_fit(f, geometry.height, geometry.width) for f in clip.video]
  )
  # A frame may be missing by rounding: the last one stands.
  missing = geometry.frames - len(video)
  if missing > 0:
    video = np.concatenate([video, np.repeat(video[-1:], missing, 0)])
  divisor = np.gcd(loudness.RATE, geometry.sample_rate)
  audio = signal.resample_poly(
    clip.audio[:, 0],
    loudness.RATE // divisor,
    geometry.sample_rate // divisor,
  )
  length = round(geometry.seconds * loudness.RATE)
  audio = np.pad(audio, (0, max(0, length - len(audio))))[:length]
  sound = loudness.normalise(audio, geometry.loudness)
  return video[: geometry.frames], sound.astype(np.float32)


def _fit(image: np.ndarray, height: int, width: int) -> np.ndarray:
  from PIL import Image

  rows, columns = image.shape[:2]
  scale = min(rows / height, columns / width)
  tall, wide = scale * height, scale * width
  top, left = (rows - tall) / 2, (columns - wide) / 2
  return np.asarray(
    Image.fromarray(image).resize(
      (width, height),
      Image.Resampling.BICUBIC,
      box=(left, top, left + wide, top + tall),
    )
  )


def write_clip(
  path: str | os.PathLike,
  video: np.ndarray,
  audio: np.ndarray,
  geometry: Geometry,
) -> None:
  """Writes H.264 and AAC without metadata; see the module's first lines."""
  import av
  from av.codec.context import Flags

  rate = Fraction(geometry.fps).limit_denominator(100_000)
  options = {"movflags": "+faststart", "fflags": "+bitexact"}
  with (
    replacing(path) as temporary,
    av.open(temporary, "w", format="mp4", options=options) as container,
  ):
    picture = container.add_stream("libx264", rate=rate)
    picture.height, picture.width = video.shape[1:3]
    picture.pix_fmt = "yuv420p"
    picture.options = {
      "crf": _CRF,
      "bf": "0",
      "g": str(max(1, round(geometry.fps))),
      "sc_threshold": "0",
      **SAME_BYTES,
    }
    context = picture.codec_context
    context.colorspace, context.color_range = 6, 1
    context.color_primaries, context.color_trc = 6, 6
    sound = container.add_stream("aac", rate=loudness.RATE, layout="mono")
    sound.bit_rate = _AUDIO_BITS
    for stream in (picture, sound):
      stream.codec_context.flags |= Flags.bitexact
    for index, image in enumerate(video):
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      frame.pts, frame.time_base = index, 1 / rate
      container.mux(picture.encode(frame))
    container.mux(picture.encode(None))
    dither = np.random.default_rng(0).uniform(-_DITHER, _DITHER, len(audio))
    samples = (audio + dither).astype(np.float32)[None]
    block = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    block.sample_rate, block.pts = loudness.RATE, 0
    block.time_base = Fraction(1, loudness.RATE)
    container.mux(sound.encode(block))
    container.mux(sound.encode(None))


def make_equally_large(paths: Iterable[pathlib.Path]) -> int:
  """Pads mp4 files to one size and dates them alike; returns the size.

  Their last box must be the media data, which grow by zeros that no frame
  refers to.
  """
  paths = list(paths)
  largest = max(path.stat().st_size for path in paths)
  size = -(-largest // _PAGE) * _PAGE
  for path in paths:
    with open(path, "r+b") as file:
      place = box = 0
      while place + box < path.stat().st_size:
        place += box
        file.seek(place)
        box = int.from_bytes(file.read(4), "big")
        name = file.read(4)
      assert name == b"mdat" and box > 8, f"{path} ends with {name!r}"
      file.seek(place)
      file.write((size - place).to_bytes(4, "big"))
      file.truncate(size)
    os.utime(path, (_MODIFIED, _MODIFIED))
  return size
