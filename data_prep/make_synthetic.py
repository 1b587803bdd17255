"""Writes a folder of sounding-shapes videos (mp4) and their truth.

  python -m data_prep.make_synthetic shapes --count 100 --split train

The folder goes through the ordinary preparation like any folder of videos;
`truth.json` in it lists the impacts of each file.
"""

import argparse
from collections.abc import Sequence

from data_prep.command_line import FPS, SAMPLE_RATE, bounded, one_line
from mmdiff_jax.av import AVSpec
from mmdiff_jax.data import synthetic


def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line and writes the folder."""
  parser = argparse.ArgumentParser(
    prog="python -m data_prep.make_synthetic",
    description=__doc__.split("\n\n")[0],
  )
  add = parser.add_argument
  add("directory", help="output folder, made if absent")
  add("--count", type=bounded(int, 1), default=100, help="number of videos")
  add("--first", type=int, default=0, help="index of the first one")
  add("--split", default="train", help=f"seeds of: {synthetic.SPLITS}")
  add("--frames", type=int, default=16)
  add("--size", type=int, default=64, help="height and width in pixels")
  add("--fps", type=bounded(float, *FPS), default=10.0)
  add(
    "--sample_rate",
    type=bounded(int, *SAMPLE_RATE),
    default=16000,
    help="audio, Hz",
  )
  add("--num_shapes", type=int, default=1)
  add("--clutter", type=int, default=0, help="grey rectangles behind")
  add("--walls", action="store_true", help="side walls that sound")
  flags = parser.parse_args(argv)
  try:
    path = synthetic.write_folder(
      flags.directory,
      [
        synthetic.split_seed(flags.split, flags.first + i)
        for i in range(flags.count)
      ],
      AVSpec(
        flags.frames, flags.size, flags.size, flags.fps, flags.sample_rate
      ),
      num_shapes=flags.num_shapes,
      clutter=flags.clutter,
      walls=flags.walls,
    )
  except (ValueError, OSError) as error:
    parser.exit(1, f"error: {one_line(error)}\n")
  print(f"Wrote {flags.count} videos and {one_line(path)}.")


if __name__ == "__main__":
  main()
