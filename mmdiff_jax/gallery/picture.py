"""Pictures of media files, and the impacts in them.

python -m mmdiff_jax.gallery.picture clip.mp4 picture.png --onsets
"""

import argparse
import os
from collections.abc import Sequence

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.media import reading, rendering
from mmdiff_jax.world import sync


def find_events(
  video: np.ndarray | None,
  audio: np.ndarray | None,
  fps: float | None,
  sample_rate: int | None,
) -> tuple[np.ndarray, np.ndarray]:
  """Impacts that `world.sync` sees in a clip and hears in it (s).

  A stream that is absent needs no rate, and has no impacts.
  """
  seen = heard = np.zeros(0)
  if video is not None and fps is not None:
    frames, height, width, _ = video.shape
    spec = AVSpec(frames, height, width, fps, sample_rate or 2000)
    seen = sync.analyse_video(video, spec).times
  if audio is not None and sample_rate is not None:
    heard = sync.analyse_audio(audio, AVSpec(sample_rate=sample_rate)).times
  return seen, heard


def write_picture(
  path: str | os.PathLike,
  clips: Sequence[str | os.PathLike],
  onsets: bool = False,
) -> None:
  """Draws media files one below the other into a PNG.

  Args:
    path: the PNG to write.
    clips: video files.
    onsets: mark the impacts that are seen and heard.

  Raises:
    ValueError: if a file cannot be read.
  """
  from PIL import Image

  pictures = []
  for name in clips:
    clip = reading.read_media(name)
    events = None
    if onsets:
      events = find_events(clip.video, clip.audio, clip.fps, clip.sample_rate)
    pictures.append(
      rendering.render_clip(
        clip.video,
        clip.audio,
        clip.sample_rate,
        events=events,
        duration=len(clip.video) / clip.fps,
      )
    )
  height = sum(p.height for p in pictures) + 16 * (len(pictures) - 1)
  page = Image.new("RGB", (rendering.WIDTH, height), rendering.BACKGROUND)
  top = 0
  for picture in pictures:
    page.paste(picture, (0, top))
    top += picture.height + 16
  page.save(path, format="png", optimize=True)


def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line and writes the picture."""
  parser = argparse.ArgumentParser(
    prog="python -m mmdiff_jax.gallery.picture",
    description="Draws clips as frames over waveform over mel spectrogram.",
  )
  parser.add_argument("clips", nargs="+", help="video files")
  parser.add_argument("picture", help="PNG to write")
  parser.add_argument(
    "--onsets", action="store_true", help="mark impacts seen and heard"
  )
  flags = parser.parse_args(argv)
  try:
    write_picture(flags.picture, flags.clips, flags.onsets)
  except ValueError as error:
    parser.error(str(error))


if __name__ == "__main__":
  main()
