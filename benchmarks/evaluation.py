"""How fast are the metrics' networks, and do arrays and files agree?

  python -m benchmarks.evaluation speed [--batch=8] [--repeats=3]
  python -m benchmarks.evaluation files FOLDER

`speed` times I3D, AudioCLIP and VGGish on clips of the paper's size with
random weights. `files` reads every second clip of a folder as the real ones,
the others as the generated ones, evaluates the latter once as arrays and once
written as mp4 and read back, and prints both figures of every metric that
needs no weights.
"""

import argparse
import pathlib
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data import media
from mmdiff_jax.evaluation.clip_sets import open_clips
from mmdiff_jax.evaluation.evaluate import evaluate
from mmdiff_jax.metric_networks import audioclip, i3d, vggish
from mmdiff_jax.metric_networks.random_weights import random_variables

SPEC = AVSpec()


def timed(name: str, run: Callable, batch: int, repeats: int) -> None:
  """Prints clips per second, and CPU seconds per clip, after a warm-up."""
  start = time.perf_counter()
  jax.block_until_ready(run())
  first = time.perf_counter() - start
  walls, processor = [], time.process_time()
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(run())
    walls.append(time.perf_counter() - start)
  processor = (time.process_time() - processor) / repeats
  print(
    f"| {name} | {batch / min(walls):.2f} | {processor / batch:.2f} "
    f"| {first - min(walls):.1f} |"
  )


def speed(batch: int, repeats: int) -> None:
  rng = np.random.default_rng(0)
  video = rng.integers(0, 256, (batch, *SPEC.video_shape), np.uint8)
  wave = rng.uniform(-0.5, 0.5, (batch, 70560)).astype(np.float32)
  short = wave[:, : SPEC.audio_length]
  print("| network | clips/s | CPU-s per clip | compilation s |")
  print("|---|---|---|---|")
  variables = jax.device_put(i3d.init_variables(0))
  timed("I3D", lambda: i3d.logits(variables, video), batch, repeats)
  for name, network, data in (
    ("AudioCLIP", audioclip, wave),
    ("VGGish", vggish, short),
  ):
    variables = random_variables(network.abstract_variables(), 0)
    if network is audioclip:
      # Random wavelets would be NaN: they keep their initial values.
      front_end = audioclip.Spectrogram().init(jax.random.key(0), data)
      variables["params"]["fbsp"] = front_end["params"]
    variables = jax.device_put(variables)
    timed(
      name,
      lambda n=network, v=variables, x=data: n.embed(v, x),
      batch,
      repeats,
    )


def files(folder: str) -> None:
  clips = open_clips(folder, SPEC)
  loaded = [clips.load(i) for i in range(len(clips))]

  def arrays(part: list) -> dict[str, np.ndarray]:
    return {
      "video": np.stack([clip["video"] for clip in part]),
      "audio": np.stack([clip["audio"] for clip in part])[..., None],
    }

  real, fake = arrays(loaded[::2]), arrays(loaded[1::2])
  with tempfile.TemporaryDirectory() as directory:
    for i, clip in enumerate(loaded[1::2]):
      media.write_mp4(
        pathlib.Path(directory) / f"{i:06d}.mp4",
        clip["video"],
        clip["audio"][:, None],
        fps=SPEC.fps,
        sample_rate=SPEC.sample_rate,
      )
    reports = [evaluate(real=real, fake=side) for side in (fake, directory)]
  print("| metric | arrays | mp4 files | standard error |")
  print("|---|---|---|---|")
  for name, entry in reports[0]["metrics"].items():
    other = reports[1]["metrics"][name]["value"]
    print(
      f"| {name} | {entry['value']:.4g} | {other:.4g} | {entry['stderr']:.2g} |"
    )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("question", choices=("speed", "files"))
  parser.add_argument("folder", nargs="?")
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--repeats", type=int, default=3)
  arguments = parser.parse_args()
  if arguments.question == "speed":
    speed(arguments.batch, arguments.repeats)
  elif arguments.folder:
    files(arguments.folder)
  else:
    parser.error("files needs a FOLDER")


if __name__ == "__main__":
  main()
