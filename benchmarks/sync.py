"""How well is the synchrony of sounding shapes measured?

  python -m benchmarks.sync                  # the ruler, on known truth
  python -m benchmarks.sync --samples DIR    # a folder of generated clips

Without samples: clips of the "eval" split, as they are, with shuffled
partners, after noise, after a round trip through mp4, in harder worlds.
"""

import argparse
import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np

from data_prep.make_synthetic import write_folder
from mmdiff_jax.av import AVSpec
from mmdiff_jax.media import reading
from mmdiff_jax.world import sync
from mmdiff_jax.world.clips import make_clip, split_seed

SPECS = (
  AVSpec(16, 16, 16, 10.0, 2000),
  AVSpec(16, 32, 32, 10.0, 4000),
  AVSpec(16, 64, 64, 10.0, 16000),
)
HEADER = ("clips", "F1", "chance", "F1 corr.", "error ms", "attr.", "corr.")


def print_header() -> None:
  """Prints the head of a table of `row`s."""
  print("| clips of | " + " | ".join(HEADER) + " |")
  print("|" + " --- |" * (len(HEADER) + 1), flush=True)


def row(name: str, report: dict) -> str:
  """A table's line of a `sync_report`."""
  error = report["timing_error_ms"]
  cells = [
    str(report["clips"]),
    f"{report['onset_f1']:.3f} ± {report['onset_f1_stderr']:.3f}",
    f"{report['onset_f1_chance']:.3f}",
    f"{report['onset_f1_corrected']:.3f}",
    "-" if error is None else f"{error:.1f}",
    f"{report['attribute_agreement']:.3f}",
    f"{report['attribute_corrected']:.3f}",
  ]
  return f"| {name} | " + " | ".join(cells) + " |"


def through_mp4(seeds: Sequence[int], spec: AVSpec) -> tuple[list, list]:
  with tempfile.TemporaryDirectory() as directory:
    write_folder(directory, seeds, spec)
    files = sorted(pathlib.Path(directory).glob("*.mp4"))
    rate = spec.sample_rate
    clips = [reading.read_media(file, sample_rate=rate) for file in files]
  return [clip.video for clip in clips], [clip.audio for clip in clips]


def ruler(count: int) -> None:
  rng = np.random.default_rng(0)
  seeds = [split_seed("eval", i) for i in range(count)]

  def show(name, videos, audios, spec, **options):
    print(row(name, sync.sync_report(videos, audios, spec, **options)))

  for spec in SPECS:
    size = f"{spec.height}x{spec.width}, {spec.sample_rate / 1000:g} kHz"
    clips = [make_clip(seed, spec) for seed in seeds]
    videos = np.stack([clip.video for clip in clips])
    audios = np.stack([clip.audio for clip in clips])
    truth = [sync.Events.of_truth(clip) for clip in clips]
    seen = [sync.analyse_video(video, spec) for video in videos]
    heard = [sync.analyse_audio(audio, spec) for audio in audios]
    frame = 1 / spec.fps
    print(row(f"{size}: seen vs truth", sync.compare(seen, truth, frame)))
    print(row(f"{size}: heard vs truth", sync.compare(heard, truth, frame)))
    show(f"{size}: seen vs heard", videos, audios, spec)
    partners = [events for k in range(1, 6) for events in heard[k:] + heard[:k]]
    shuffled = sync.compare(5 * seen, partners, frame)
    print(row(f"{size}: shuffled, 5 ways", shuffled))
    for sigma in (0.03, 0.08):
      noisy = videos + rng.normal(0, sigma * 255, videos.shape)
      noisy = np.clip(noisy, 0, 255).astype(np.uint8)
      hiss = audios + rng.normal(0, sigma, audios.shape)
      show(f"{size}: noise of sigma {sigma}", noisy, hiss, spec)
    show(f"{size}: through mp4", *through_mp4(seeds, spec), spec)
  for options in ({"clutter": 5}, {"walls": True}, {"num_shapes": 2}):
    clips = [make_clip(s, SPECS[1], **options) for s in seeds]
    (name, value), *_ = options.items()
    show(
      f"32x32, 4 kHz: {name}={value}",
      [clip.video for clip in clips],
      [clip.audio for clip in clips],
      SPECS[1],
      walls=name == "walls",
    )


def samples(directory: pathlib.Path) -> None:
  """Figures of the mp4 files of a folder; a wav beside one is its sound."""
  videos, audios, spec = [], [], None
  for file in sorted(directory.glob("*.mp4")):
    clip = reading.read_media(file)
    audio, rate = clip.audio, clip.sample_rate
    if file.with_suffix(".wav").is_file():
      audio, rate = reading.read_audio(file.with_suffix(".wav"))
    if audio is None:
      raise ValueError(f"{file} has no sound.")
    spec = AVSpec(*clip.video.shape[:3], clip.fps, rate)
    videos.append(clip.video)
    audios.append(audio)
  if spec is None:
    raise ValueError(f"{directory} has no mp4 file.")
  print(row(directory.name, sync.sync_report(videos, audios, spec)))


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m benchmarks.sync")
  parser.add_argument("--count", type=int, default=500, help="clips per row")
  parser.add_argument(
    "--samples", type=pathlib.Path, nargs="+", help="folders of mp4 files"
  )
  flags = parser.parse_args()
  print_header()
  for directory in flags.samples or ():
    samples(directory)
  if not flags.samples:
    ruler(flags.count)


if __name__ == "__main__":
  main()
