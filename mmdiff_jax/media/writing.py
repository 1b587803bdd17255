"""Writes clips as mp4, wav, PNG frames and animated gif grids.

Every file is written beside its place and then renamed, so that an
interrupted run leaves no half-written file under the final name.
"""

import functools
import itertools
import logging
import math
import os
import wave
from fractions import Fraction

import numpy as np

from mmdiff_jax.disk.files import as_path, replacing

_log = logging.getLogger(__name__)

# Shorter delays are taken for 1/10 s by browsers (hundredths of a second).
_GIF_SHORTEST = 2
# Sampling rates that AAC defines (Hz).
AAC_RATES = (
  7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000,
  88200, 96000,
)  # fmt: skip
# Options of libx264 under which a clip is always the same file: its macroblock
# tree takes what lies about in memory for some sizes, such as 32x32.
SAME_BYTES = {"x264-params": "mbtree=0"}


def write_mp4(
  path: str | os.PathLike,
  video: np.ndarray,
  audio: np.ndarray | None = None,
  *,
  fps: float,
  sample_rate: int | None = None,
  crf: int = 14,
) -> None:
  """Writes an mp4 that browsers play: H.264 yuv420p, AAC, index in front.

  H.264 in yuv420p needs even sizes: an odd height or width is padded by
  repeating the last row or column. AAC knows the rates `AAC_RATES` only: audio
  of another rate is resampled up to the next of them (a wav keeps its rate).

  Args:
    path: the file to write.
    video: uint8 `[F, H, W, 3]`.
    audio: float `[L, 1]` or `[L, 2]` in [-1, 1] (clipped), or None.
    fps: frames per second.
    sample_rate: audio samples per second; needed with audio.
    crf: x264's constant quality, 0 (lossless) to 51.

  Raises:
    ValueError: if an argument has another type, shape or range.
  """
  import av

  video = _check_video(video, fps)
  sound = None if audio is None else _check_audio(audio, sample_rate)
  video = _pad_to_even(video)
  rate = Fraction(fps).limit_denominator(100_000)
  with (
    replacing(path) as temporary,
    av.open(
      temporary, "w", format="mp4", options={"movflags": "+faststart"}
    ) as container,
  ):
    stream = container.add_stream("libx264", rate=rate)
    stream.height, stream.width = video.shape[1:3]
    stream.pix_fmt = "yuv420p"
    stream.options = {"crf": str(crf), **SAME_BYTES}
    # swscale converts with BT.601; without the tag players guess by height.
    context = stream.codec_context
    context.colorspace, context.color_range = 6, 1
    context.color_primaries, context.color_trc = 6, 6
    if sound is not None:
      wave_out, audio_rate = sound
      audio_stream = _add_aac(container, audio_rate, wave_out.shape[1])
    for index, image in enumerate(video):
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      frame.pts, frame.time_base = index, 1 / rate
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
    if sound is not None:
      _encode_audio(container, audio_stream, wave_out, audio_rate)


def write_wav(
  path: str | os.PathLike, audio: np.ndarray, sample_rate: int
) -> None:
  """Writes a 16-bit PCM wav.

  Args:
    path: the file to write.
    audio: float `[L, C]` in [-1, 1]; values beyond are clipped.
    sample_rate: samples per second (Hz).

  Raises:
    ValueError: if the audio has another shape or is not finite.
  """
  audio, _ = _check_audio(audio, sample_rate)
  with replacing(path) as temporary, wave.open(temporary, "wb") as file:
    file.setnchannels(audio.shape[1])
    file.setsampwidth(2)
    file.setframerate(sample_rate)
    file.writeframes(to_pcm16(audio).tobytes())


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
  """Writes uint8 `[H, W, 3]` as a PNG file."""
  from PIL import Image

  with replacing(path) as temporary:
    Image.fromarray(image).save(temporary, format="png")


def write_png_frames(directory: str | os.PathLike, video: np.ndarray) -> None:
  """Writes the frames of uint8 `[F, H, W, 3]` as `0000.png`, `0001.png` ..."""
  for index, image in enumerate(_check_video(video, 1.0)):
    write_png(as_path(directory) / f"{index:04d}.png", image)


def write_gif_grid(
  path: str | os.PathLike,
  videos: np.ndarray,
  *,
  fps: float,
  columns: int | None = None,
) -> None:
  """Writes clips side by side as one endless animated gif.

  Args:
    path: the file to write.
    videos: uint8 `[N, F, H, W, 3]`.
    fps: frames per second. A gif counts in 1/100 s, so that delays differ by
      as much; it shows at most 50 pictures per second, so that of faster
      clips every second one (or third ...) is written, and a warning logged.
    columns: clips per row; by default the grid is nearly square.

  Raises:
    ValueError: if the videos have another type or shape.
  """
  from PIL import Image

  videos = np.asarray(videos)
  if videos.ndim != 5 or videos.shape[0] == 0:
    raise ValueError(f"videos must be [N, F, H, W, 3], got {videos.shape}.")
  for video in videos:
    _check_video(video, fps)
  step = math.ceil(round(fps * _GIF_SHORTEST / 100, 6))
  if step > 1:
    _warn_of_gif(fps, step)
  tiled = _tile(videos[:, ::step], columns)
  frames = [Image.fromarray(frame) for frame in tiled]
  with replacing(path) as temporary:
    frames[0].save(
      temporary,
      format="gif",
      save_all=True,
      append_images=frames[1:],
      duration=_gif_delays(len(frames), fps / step),
      loop=0,
    )


def _gif_delays(count: int, rate: float) -> list[int]:
  """Milliseconds of each picture, in hundredths whose sum is right."""
  ends = [round(100 * index / rate) for index in range(count + 1)]
  return [10 * (b - a) for a, b in itertools.pairwise(ends)]


@functools.cache
def _warn_of_gif(fps: float, step: int) -> None:
  """Says once what a gif cannot do."""
  _log.warning(
    "A gif shows at most %d pictures per second: of %g, one in %d is written.",
    100 // _GIF_SHORTEST,
    fps,
    step,
  )


def to_pcm16(audio: np.ndarray) -> np.ndarray:
  """Maps [-1, 1] to little-endian int16, rounding and clipping."""
  scaled = np.round(np.asarray(audio, np.float32) * 32768.0)
  return np.clip(scaled, -32768, 32767).astype("<i2")


def from_pcm16(samples: np.ndarray) -> np.ndarray:
  """Maps int16 to float32 in [-1, 1)."""
  return samples.astype(np.float32) / 32768.0


def _tile(videos: np.ndarray, columns: int | None) -> np.ndarray:
  """`[N, F, H, W, 3]` -> `[F, rows*H, columns*W, 3]`; empty cells black."""
  count, frames, height, width, _ = videos.shape
  columns = columns or int(np.ceil(np.sqrt(count)))
  rows = -(-count // columns)
  grid = np.zeros((rows * columns, *videos.shape[1:]), np.uint8)
  grid[:count] = videos
  grid = grid.reshape(rows, columns, frames, height, width, 3)
  grid = grid.transpose(2, 0, 3, 1, 4, 5)
  return grid.reshape(frames, rows * height, columns * width, 3)


def _check_video(video: np.ndarray, fps: float) -> np.ndarray:
  video = np.asarray(video)
  if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3:
    raise ValueError(
      "video must be uint8 [F, H, W, 3], got"
      f" {video.dtype} {list(video.shape)}; mmdiff_jax.av.unit_to_uint8"
      " converts from [-1, 1]."
    )
  if 0 in video.shape:
    raise ValueError(f"video is empty: {list(video.shape)}.")
  if not fps > 0:
    raise ValueError(f"fps must be positive, got {fps}.")
  return video


def _check_audio(
  audio: np.ndarray, sample_rate: int | None
) -> tuple[np.ndarray, int]:
  audio = np.asarray(audio, np.float32)
  if audio.ndim != 2 or audio.shape[1] not in (1, 2) or audio.shape[0] == 0:
    raise ValueError(
      "audio must be [L, 1] or [L, 2] with L > 0, got shape"
      f" {list(audio.shape)}."
    )
  if not np.isfinite(audio).all():
    raise ValueError("audio holds values that are not finite.")
  if not sample_rate or sample_rate <= 0:
    raise ValueError(f"sample_rate must be positive, got {sample_rate}.")
  return np.clip(audio, -1.0, 1.0), sample_rate


def _pad_to_even(video: np.ndarray) -> np.ndarray:
  height, width = video.shape[1:3]
  if height % 2 == 0 and width % 2 == 0:
    return np.ascontiguousarray(video)
  pad = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
  return np.pad(video, pad, mode="edge")


def _add_aac(container, sample_rate: int, channels: int):
  """Adds an AAC stream at the lowest AAC rate that keeps all frequencies."""
  rate = next((r for r in AAC_RATES if r >= sample_rate), AAC_RATES[-1])
  layout = "mono" if channels == 1 else "stereo"
  stream = container.add_stream("aac", rate=rate, layout=layout)
  # AAC allows 6 bits per sample and channel.
  stream.bit_rate = min(160_000, 6 * rate) * channels
  return stream


def _encode_audio(container, stream, audio: np.ndarray, rate: int) -> None:
  import av

  layout = stream.codec_context.layout.name
  frame = av.AudioFrame.from_ndarray(
    np.ascontiguousarray(audio.T), format="fltp", layout=layout
  )
  frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
  resampler = av.AudioResampler("fltp", layout, stream.codec_context.rate)
  for part in (frame, None):
    for resampled in resampler.resample(part):
      container.mux(stream.encode(resampled))
  container.mux(stream.encode(None))
