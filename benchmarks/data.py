"""How fast are videos prepared, and clips read?

  python -m benchmarks.data                  # on synthetic videos
  python -m benchmarks.data --input VIDEOS   # on a folder of videos

Rates per core divide by the CPU time of all threads and processes, which
other programs on the machine disturb less than the wall clock.
"""

import argparse
import contextlib
import io
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from configs import default
from data_prep import tfds_builder
from data_prep.make_synthetic import write_folder
from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.manifest import Manifest
from mmdiff_jax.data.pipeline import create_loader

BATCH = 32


def cpu_seconds() -> float:
  usages = [
    resource.getrusage(who)
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
  ]
  return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(work: Callable[[], int]) -> tuple[int, float, float]:
  """Returns what `work` counted, its wall and its CPU seconds."""
  wall, cpu = time.perf_counter(), cpu_seconds()
  count = work()
  return count, time.perf_counter() - wall, cpu_seconds() - cpu


def prepare(videos: str, output: pathlib.Path, size: int, workers: int) -> int:
  flags = ["--input", videos, "--output", str(output), "--size", str(size)]
  command = [sys.executable, "-m", "data_prep.videos_to_tfrecord", *flags]
  result = subprocess.run(
    [*command, "--workers", str(workers)], capture_output=True, text=True
  )
  if result.returncode:
    raise SystemExit(result.stderr)
  return len(Manifest.load(output).videos)


def read(source: str, batches: int, tfds_dir: str = "") -> int:
  data = default.get_config().data
  data.update(source=source, tfds_dir=tfds_dir)
  loader = create_loader(data, batch_size=BATCH, seed=0)
  for _ in range(batches):
    next(loader)
  loader.close()
  return batches * BATCH


def read_pairs(source: str, batches: int) -> int:
  config = default.get_config()
  config.data.update(source=source, height=256, width=256)
  loader = create_loader(
    config.data, view="images", sr=config.sr, batch_size=BATCH, seed=0
  )
  for _ in range(batches):
    next(loader)
  loader.close()
  return batches * BATCH


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.data", description=__doc__.split("\n")[0]
  )
  parser.add_argument("--input", help="folder of videos [synthetic ones]")
  parser.add_argument("--workers", type=int, default=2)
  parser.add_argument("--batches", type=int, default=60, help=f"of {BATCH}")
  flags = parser.parse_args(argv)
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    videos = flags.input
    if videos is None:
      videos = str(root / "videos")
      write_folder(videos, range(40), AVSpec(16, 256, 256, 10.0, 16000))
    small, large = root / "small", root / "large"
    rows = {
      f"prepare videos, 64x64 raw, {flags.workers} workers": lambda: prepare(
        videos, small, 64, flags.workers
      ),
      f"prepare videos, 256x256 png, {flags.workers} workers": lambda: prepare(
        videos, large, 256, flags.workers
      ),
      "read clips, TFRecord 64x64": lambda: read(
        f"tfrecord:{small}", flags.batches
      ),
      "make clips, synthetic 64x64": lambda: read(
        "synthetic", max(1, flags.batches // 20)
      ),
      "read pairs, super-resolution 256": lambda: read_pairs(
        f"tfrecord:{large}", max(1, flags.batches // 10)
      ),
    }
    print("| what | number | wall s | CPU s | per s | per s and core |")
    print("|---|---|---|---|---|---|")
    for name, work in rows.items():
      show(name, *measure(work))
    with contextlib.redirect_stdout(io.StringIO()):
      try:
        tfds_builder.build(small, "clips", root)
      except ValueError as error:
        print(error)
        return
    show(
      "read clips, TFDS (ArrayRecord) 64x64",
      *measure(lambda: read("tfds:clips", flags.batches, str(root))),
    )


def show(name: str, count: int, wall: float, cpu: float) -> None:
  print(
    f"| {name} | {count} | {wall:.1f} | {cpu:.1f} | {count / wall:.0f} |"
    f" {count / cpu:.0f} |"
  )


if __name__ == "__main__":
  main()
