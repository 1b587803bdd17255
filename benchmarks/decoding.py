"""How fast is a long film read, against FFmpeg's own program?

  python -m benchmarks.decoding                 # 1 minute, 10 times over
  python -m benchmarks.decoding --input FILM    # a film of yours

Sources of 1080p are made by `ffmpeg`, which must be installed: with B-frames,
as encoders on computers write them, and without, as cameras do. Both programs
run within the same minutes; CPU-seconds of all threads count.
"""

import argparse
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

from benchmarks.data import measure
from mmdiff_jax.media import reading
from mmdiff_jax.media.container import ReadOptions

FPS, SIZE, RATE = 10, 64, 16000


def make_film(path: pathlib.Path, minutes: int, b_frames: int) -> None:
  """Makes a minute of 1080p at 30 fps and 5 Mbit/s, then repeats it."""
  minute = path.with_name(f"minute-{path.name}")
  picture = "testsrc2=s=1920x1080:r=30:d=60,noise=alls=6:allf=t"
  ffmpeg(
    *("-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", "sine=d=60:r=48000"),
    *("-c:v", "libx264", "-preset", "veryfast", "-b:v", "5M"),
    *("-bf", str(b_frames), "-c:a", "aac", "-ac", "2", str(minute)),
  )
  repeat = ("-stream_loop", str(minutes - 1))
  ffmpeg(*repeat, "-i", str(minute), "-c", "copy", str(path))
  minute.unlink()


def ffmpeg(*arguments: str) -> None:
  subprocess.run(["ffmpeg", "-v", "error", "-y", *arguments], check=True)


def ffmpeg_reads(film: pathlib.Path, sound: bool) -> int:
  """FFmpeg's program: pictures alone, or with the sound as we want it."""
  heard = ("-ac", "1", "-ar", str(RATE), "-f", "s16le", "/dev/null")
  ffmpeg(
    *("-i", str(film), "-vf", f"fps={FPS},scale={SIZE}:{SIZE}"),
    *("-an", "-pix_fmt", "rgb24", "-f", "rawvideo", "/dev/null"),
    *(("-vn", *heard) if sound else ()),
  )
  return 1


def we_read(film: pathlib.Path, threads: int) -> int:
  """Pictures and sound, as preparation reads them."""
  options = ReadOptions(threads=threads)
  track = reading.read_track(film, RATE, options=options)
  reader = reading.FrameReader(film, FPS, SIZE, track, options)
  count = sum(1 for _ in reader)
  if track is not None:
    track.cut(reader.origin, 0, round(count * RATE / FPS))
  return 1


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.decoding", description=__doc__.split("\n")[0]
  )
  parser.add_argument("--input", type=pathlib.Path, help="a film [made ones]")
  parser.add_argument("--minutes", type=int, default=10, help="of made films")
  flags = parser.parse_args(argv)
  if shutil.which("ffmpeg") is None:
    raise SystemExit("needs the program ffmpeg")
  print("| film | program | wall s | CPU s | of ffmpeg's CPU s |")
  print("|---|---|---|---|---|")
  with tempfile.TemporaryDirectory() as folder:
    films = {"given": flags.input}
    if flags.input is None:
      films = {}
      for name, b_frames in {"B-frames": 3, "no B-frames": 0}.items():
        films[name] = pathlib.Path(folder) / f"{b_frames}.mp4"
        make_film(films[name], flags.minutes, b_frames)
    for name, film in films.items():
      compare(name, film)


def compare(name: str, film: pathlib.Path) -> None:
  rows = {
    "ffmpeg, pictures": lambda: ffmpeg_reads(film, sound=False),
    "ffmpeg, pictures and sound": lambda: ffmpeg_reads(film, sound=True),
    "preparation, 1 thread": lambda: we_read(film, 1),
    "preparation, 2 threads": lambda: we_read(film, 2),
  }
  base = None
  for program, work in rows.items():
    _, wall, cpu = measure(work)
    base = base or cpu
    print(
      f"| {name} | {program} | {wall:.1f} | {cpu:.1f} | {cpu / base:.2f} |",
      flush=True,
    )


if __name__ == "__main__":
  main()
