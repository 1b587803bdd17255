"""Does super-resolution beat bicubic, and does shared noise hold clips still?

  python -m benchmarks.superres --checkpoint RUN --videos VIDEOS

VIDEOS is the folder that the training data was prepared from: the videos that
training held out are used. Two tables are printed.

1. PSNR (dB, of the error over all images; in brackets the mean of each
   image's own), sharpness (gradient energy over the truth's) and the number
   of images that are closer to the truth than bicubic's, of one frame per
   video: from small frames degraded as in training, and from clean ones.
2. Flicker: mean change between consecutive frames, in grey levels, where the
   truth holds still, with one noise image for all frames and with one each.
   The small frames are clean, so that all flicker is the sampler's.
"""

import argparse
import pathlib

import numpy as np

from configs import default
from mmdiff_jax.data import views
from mmdiff_jax.data.clips import is_held_out
from mmdiff_jax.media import image_quality, reading, transforms, writing
from mmdiff_jax.media.files import find_media
from mmdiff_jax.sampling.upscale import Upscaler
from mmdiff_jax.training.sr_preview import side_by_side

# A region of fewer pixels is no basis for a figure of flicker.
MIN_STATIC_PIXELS = 1000


def resize(video: np.ndarray, height: int, width: int) -> np.ndarray:
  return np.stack(
    [transforms.resize_bicubic(frame, height, width) for frame in video]
  )


def reduce(video: np.ndarray, factor: int) -> np.ndarray:
  return resize(video, video.shape[1] // factor, video.shape[2] // factor)


def centre(video: np.ndarray, size: int) -> np.ndarray:
  top, left = ((n - size) // 2 for n in video.shape[1:3])
  return video[:, top : top + size, left : left + size]


def make_upscaler(
  flags: argparse.Namespace, steps: int | None, share_noise: bool = True
) -> Upscaler:
  settings = default.get_config()
  settings.sr.chunk_frames = 4
  settings.sr.share_noise = share_noise
  settings.sr.sample.update(
    sampler=flags.sampler, order=flags.order, steps=steps
  )
  return Upscaler(flags.checkpoint, settings, seed=0)


def held_out_clips(
  folder: str, fraction: float, size: int, fps: float
) -> dict[str, np.ndarray]:
  """Name -> uint8 `[F, H, W, 3]` of the videos that training did not see."""
  videos, _ = find_media(folder)
  return {
    name: reading.read_media(path, size=size, fps=fps).video
    for name, path in videos
    if is_held_out(name, fraction)
  }


def quality_table(
  upscalers: dict[str, Upscaler],
  truth: np.ndarray,
  pictures: pathlib.Path | None,
) -> None:
  """Prints table 1; writes the comparisons where a folder is given."""
  first = next(iter(upscalers.values()))
  clean = reduce(truth, first.factor)
  degrade = views.Degradation.from_config(first.config.sr)
  rng = np.random.default_rng(0)
  degraded = np.stack([degrade(image, rng) for image in clean])
  height, width = truth.shape[1:3]
  print(
    f"\n{'input':10}{'method':16}{'PSNR':>7}{'':8}{'sharpness':>11}{'wins':>9}"
  )
  for name, low in (("degraded", degraded), ("clean", clean)):
    bicubic = resize(low, height, width)
    print_quality(name, "bicubic", bicubic, truth, bicubic)
    for method, upscaler in upscalers.items():
      ours = upscaler(low, 0)
      print_quality(name, method, ours, truth, bicubic)
      for i in range(len(truth) if pictures else 0):
        writing.write_png(
          pictures / f"{name}_{method.replace(' ', '_')}_{i:02d}.png",
          side_by_side(low[i], bicubic[i], ours[i], truth[i]),
        )


def print_quality(
  name: str,
  method: str,
  images: np.ndarray,
  truth: np.ndarray,
  bicubic: np.ndarray,
) -> None:
  def each(x: np.ndarray) -> np.ndarray:
    pairs = zip(x[:, None], truth[:, None], strict=True)
    return np.array([image_quality.psnr(a, b) for a, b in pairs])

  wins = f"{np.sum(each(images) > each(bicubic))}/{len(truth)}"
  print(
    f"{name:10}{method:16}{image_quality.psnr(images, truth):7.2f}"
    f" ({each(images).mean():5.2f})"
    f"{image_quality.sharpness(images, truth):11.2f}"
    f"{'' if method == 'bicubic' else wins:>9}",
    flush=True,
  )


def flicker_table(
  upscalers: dict[str, Upscaler], clips: dict[str, np.ndarray]
) -> None:
  """Prints table 2: a row per clip, and the mean over clips."""
  factor = next(iter(upscalers.values())).factor
  methods = ["truth", "bicubic", *upscalers]
  print(f"\n{'clip':28}{'static':>7}" + "".join(f"{m:>10}" for m in methods))
  rows = []
  for index, (name, truth) in enumerate(clips.items()):
    region = image_quality.static_region(truth)
    low = reduce(truth, factor)
    videos = [truth, resize(low, *truth.shape[1:3])]
    videos += [upscaler(low, index) for upscaler in upscalers.values()]
    rows.append([image_quality.flicker(video, region) for video in videos])
    print(
      f"{name:28}{region.mean():7.0%}"
      + "".join(f"{value:10.2f}" for value in rows[-1]),
      flush=True,
    )
  means = np.mean(rows, axis=0)
  print(f"{'mean':35}" + "".join(f"{value:10.2f}" for value in means))


def main() -> None:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.superres",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--checkpoint", required=True, help="super-resolution run")
  add("--videos", required=True, help="folder of videos")
  add("--size", type=int, default=256, help="pixels of a frame [256]")
  add("--crop", type=int, help="take the centre, so many pixels [all]")
  add("--sampler", help="name of the sampler [its own]")
  add("--order", type=int, help="of DPM-Solver")
  add("--steps", type=int, nargs="*", help="numbers of steps [its own]")
  add("--clips", type=int, default=8, help="videos of table 2, 0 for none [8]")
  add("--frames", type=int, default=8, help="frames of table 2 [8]")
  add("--pictures", type=pathlib.Path, help="folder for comparisons")
  flags = parser.parse_args()

  upscalers = {}
  for steps in flags.steps or [None]:
    upscaler = make_upscaler(flags, steps)
    sample = upscaler.config.sample
    upscalers[f"{sample.sampler} {sample.steps}"] = upscaler
  data = upscaler.config.data
  clips = held_out_clips(
    flags.videos, data.holdout_fraction, flags.size, data.fps
  )
  print(f"{len(clips)} held-out videos: {', '.join(clips)}")
  if flags.crop:
    clips = {k: centre(video, flags.crop) for k, video in clips.items()}
  middle = np.stack([video[len(video) // 2] for video in clips.values()])
  quality_table(upscalers, middle, flags.pictures)

  still = {
    name: video[: flags.frames]
    for name, video in clips.items()
    if image_quality.static_region(video[: flags.frames]).sum()
    >= MIN_STATIC_PIXELS
  }
  chosen = dict(list(still.items())[: flags.clips])
  if not chosen:
    return
  steps = flags.steps[0] if flags.steps else None
  flicker_table(
    {
      "shared": make_upscaler(flags, steps),
      "apart": make_upscaler(flags, steps, share_noise=False),
    },
    chosen,
  )


if __name__ == "__main__":
  main()
