"""How fast are the metrics' networks, and do arrays and files agree?

  python -m benchmarks.evaluation speed [--batch=8] [--repeats=3]
  python -m benchmarks.evaluation files FOLDER

`speed` times I3D, AudioCLIP and VGGish on clips of the paper's size with
random weights, in CPU seconds, and says which share of the rate of a matrix
product on the same processor I3D reaches. `files` reads every second clip of a
folder as the real ones, the others as the generated ones, evaluates the latter
once as arrays and once written as mp4 and read back, and prints both figures of
every metric that needs no weights.
"""

import argparse
import functools
import math
import pathlib
import tempfile
import time
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.evaluation.clip_sets import open_clips
from mmdiff_jax.evaluation.evaluate import evaluate
from mmdiff_jax.media import reading
from mmdiff_jax.metric_networks import audioclip, i3d, vggish
from mmdiff_jax.metric_networks.random_weights import random_variables

SPEC = AVSpec()


def cpu_seconds(run: Callable, repeats: int) -> float:
  """Processor seconds of the quickest of some runs, after a warm-up."""
  jax.block_until_ready(run())
  seconds = []
  for _ in range(repeats):
    start = time.process_time()
    jax.block_until_ready(run())
    seconds.append(time.process_time() - start)
  return min(seconds)


def matmul_rate(repeats: int) -> float:
  """Operations per processor second of a product of large matrices."""
  draw = np.random.default_rng(0)
  a = jnp.array(draw.standard_normal((4096, 1024), np.float32))
  b = jnp.array(draw.standard_normal((1024, 1024), np.float32))
  product = jax.jit(functools.partial(jnp.matmul, precision="highest"))
  return 2 * a.size * b.shape[1] / cpu_seconds(lambda: product(a, b), repeats)


def i3d_operations() -> float:
  """Of I3D's convolutions by their definition, a clip; the rest is small."""
  made: list[float] = []

  def count(next_call, args, kwargs, context):
    out = next_call(*args, **kwargs)
    if isinstance(context.module, i3d.Conv3D):
      taps = math.prod(context.module.kernel) * args[0].shape[-1]
      made.append(2 * taps * out.size)
    return out

  video = jnp.zeros((1, SPEC.frames, i3d.RESOLUTION, i3d.RESOLUTION, 3))
  with nn.intercept_methods(count):
    jax.eval_shape(i3d.I3D().init, jax.random.key(0), video)
  return sum(made)


def speed(batch: int, repeats: int) -> None:
  rng = np.random.default_rng(0)
  video = rng.integers(0, 256, (batch, *SPEC.video_shape), np.uint8)
  wave = rng.uniform(-0.5, 0.5, (batch, 70560)).astype(np.float32)
  short = wave[:, : SPEC.audio_length]
  variables = jax.device_put(i3d.init_variables(0))
  rate = matmul_rate(repeats)
  seconds = cpu_seconds(lambda: i3d.logits(variables, video), repeats) / batch
  rate = (rate + matmul_rate(repeats)) / 2
  print("| network | CPU-s per clip |")
  print("|---|---|")
  print(f"| I3D | {seconds:.2f} |")
  share = i3d_operations() / seconds / rate
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
    seconds = cpu_seconds(
      lambda n=network, v=variables, x=data: n.embed(v, x), repeats
    )
    print(f"| {name} | {seconds / batch:.2f} |")
  print(
    f"\nI3D: {share:.2f} of the rate of a product of matrices, "
    f"{rate / 1e9:.0f} GFLOP per CPU-s."
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
      reading.write_mp4(
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
