"""Writes odd media files for the tests, through PyAV and numpy alone."""

from fractions import Fraction

import av
import numpy as np

FLASHES = (0.5, 1.5)


def flash_frames(times, height=48, width=64, flashes=FLASHES, length=0.1):
  """Dark frames, white for `length` seconds from each flash on."""
  frames = np.full((len(times), height, width, 3), 16, np.uint8)
  for flash in flashes:
    lit = (times >= flash - 1e-6) & (times < flash + length - 1e-6)
    frames[lit] = 235
  return frames


def click_track(seconds, rate, clicks=FLASHES):
  """Silence with 20 ms of noise at each click, float32 `[n]`."""
  audio = np.zeros(round(seconds * rate), np.float32)
  noise = np.random.default_rng(0).uniform(-0.8, 0.8, round(0.02 * rate))
  for click in clicks:
    start = round(click * rate)
    audio[start : start + len(noise)] = noise[: len(audio) - start]
  return audio


def write(
  path,
  frames=None,
  *,
  rate=10,
  times=None,
  codec="libx264",
  pix_fmt="yuv420p",
  aspect=None,
  rotation=0,
  audio=None,
  audio_rate=16000,
  audio_codec="aac",
  layout="mono",
  audio_start=0.0,
  container_format=None,
  container_options=None,
  options=None,
):
  """Writes a file; `times` (seconds) override the constant rate."""
  rate = Fraction(rate).limit_denominator(10_000)
  with av.open(
    str(path), "w", format=container_format, options=container_options
  ) as container:
    video = sound = None
    if frames is not None:
      video = container.add_stream(codec, rate=rate)
      video.height, video.width = frames.shape[1:3]
      video.pix_fmt = pix_fmt
      video.options = options or {}
      if times is not None:
        video.codec_context.time_base = Fraction(1, 1000)
      if aspect is not None:
        video.codec_context.sample_aspect_ratio = aspect
      if rotation:
        video.set_display_rotation(rotation)
    if audio is not None:
      sound = container.add_stream(audio_codec, rate=audio_rate, layout=layout)
    if video is not None:
      for index, image in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = index, 1 / rate
        if times is not None:
          frame.pts = round(times[index] * 1000)
          frame.time_base = Fraction(1, 1000)
        container.mux(video.encode(frame))
      container.mux(video.encode(None))
    if sound is not None:
      write_sound(container, sound, audio, audio_rate, layout, audio_start)


def write_sound(container, stream, audio, rate, layout, start):
  audio = np.atleast_2d(np.asarray(audio, np.float32))
  resampler = av.AudioResampler(stream.codec_context.format.name, layout, rate)
  # Packed: PyAV miscounts the planes of eight channels.
  frame = av.AudioFrame.from_ndarray(
    audio.T.reshape(1, -1).copy(), format="flt", layout=layout
  )
  frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
  frame.pts = round(start * rate)
  for part in (frame, None):
    for piece in resampler.resample(part):
      container.mux(stream.encode(piece))
  container.mux(stream.encode(None))


def onsets(audio, rate, threshold=0.1):
  """Times at which a sound begins after 0.1 s of quiet."""
  loud = np.flatnonzero(np.abs(audio).ravel() > threshold) / rate
  return loud[np.diff(loud, prepend=-1.0) > 0.1]


def flash_times(video, fps):
  """Times at which bright frames begin."""
  bright = video.mean(axis=(1, 2, 3)) > 100
  return np.flatnonzero(bright & ~np.roll(bright, 1)) / fps
