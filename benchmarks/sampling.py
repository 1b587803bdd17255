"""What do the solvers cost beyond their network calls?

Prints, per solver, the network calls (NFE), seconds per clip and the time of
the whole jitted sampler over NFE times that of one jitted forward pass. The
two are timed in turns and the fastest of each counts, so that a busy machine
disturbs both alike. By default a small stand-in takes the network's place,
which is the harder test: the cheaper the network, the more overhead shows.

  python -m benchmarks.sampling
  python -m benchmarks.sampling --config=landscape --batch=1 --solvers=ddim
"""

import argparse
import importlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.samplers import (
  condition_on_audio,
  initial_noise,
  make_sampler,
  sampler_options,
)
from mmdiff_jax.task import Task, make_task

Tree = Any

SOLVERS = {
  "ddpm": {"name": "ddpm"},
  "ddim": {"name": "ddim"},
  "ddim eta=1": {"name": "ddim", "eta": 1.0},
  "dpm_solver singlestep 3": {"name": "dpm_solver"},
  "dpm_solver multistep 3": {"name": "dpm_solver", "method": "multistep"},
  "dpm_solver++ singlestep 2": {"name": "dpm_solver++", "order": 2},
  "dpm_solver++ multistep 2": {
    "name": "dpm_solver++",
    "method": "multistep",
    "order": 2,
  },
  "dpm_solver++ multistep 2, thresholded": {
    "name": "dpm_solver++",
    "method": "multistep",
    "order": 2,
    "dynamic_thresholding": True,
  },
  "dpm_solver++ sde 2": {"name": "dpm_solver++", "method": "sde"},
  "dpm_solver adaptive 3": {"name": "dpm_solver", "method": "adaptive"},
  "dpm_solver++ adaptive 2": {
    "name": "dpm_solver++",
    "method": "adaptive",
    "order": 2,
  },
}
CONDITIONS = {
  "ddim, replacement": {},
  "ddim, gradient": {"method": "gradient", "scale": 1e-3},
  "ddim, resampling": {"method": "resampling", "resample_repeats": 2},
}


def make_stand_in(width: int, layers: int) -> Callable[..., Tree]:
  """A perceptron on 4x4 patches of the frames, coupled to the waveform."""
  rng = np.random.default_rng(0)
  widths = [48] + [width] * layers + [48]
  weights = [
    jnp.asarray(rng.standard_normal((a, b)) / np.sqrt(a), jnp.float32)
    for a, b in zip(widths, widths[1:], strict=False)
  ]

  def denoise_fn(x, t, rng):
    del rng
    video, audio = x["video"], x["audio"]
    b, f, h, w, c = video.shape
    patches = video.reshape(b * f, h // 4, 4, w // 4, 4, c)
    y = patches.swapaxes(2, 3).reshape(-1, 16 * c)
    for i, weight in enumerate(weights):
      y = (y if i == 0 else jax.nn.silu(y)) @ weight
    y = y.reshape(b * f, h // 4, w // 4, 4, 4, c).swapaxes(2, 3)
    mean = jnp.mean(y) * jnp.cos(t / 1000)[:, None, None]
    return {"video": y.reshape(video.shape), "audio": 0.9 * audio + mean}

  return denoise_fn


def make_network(task: Task) -> Callable[..., Tree]:
  """The network of a configuration with initial parameters."""
  return task.denoise_fn(jax.jit(task.init)(jax.random.key(0)))


def seconds(run: Callable[[], Any], repeats: int = 1) -> float:
  start = time.perf_counter()
  for _ in range(repeats):
    jax.block_until_ready(run())
  return time.perf_counter() - start


def measure(
  sampler: Callable[..., Any],
  denoise_fn: Callable[..., Tree],
  process: Any,
  x_init: Tree,
  condition: Any,
  rounds: int,
) -> tuple[int, float, float]:
  """NFE, seconds of the sampler, and seconds of one forward pass."""
  rng = jax.random.key(1)
  batch = jax.tree.leaves(x_init)[0].shape[0]
  forward = jax.jit(lambda x: denoise_fn(x, jnp.full(batch, 500), rng))
  run = jax.jit(lambda x, c: sampler(denoise_fn, process, x, rng, c))
  _, nfe = jax.block_until_ready(run(x_init, condition))
  nfe = int(nfe)
  jax.block_until_ready(forward(x_init))
  ours, network = [], []
  for _ in range(rounds):
    network.append(seconds(lambda: forward(x_init), nfe) / nfe)
    ours.append(seconds(lambda: run(x_init, condition)))
  return nfe, min(ours), min(network)


def parse_args() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--config", help="configs/NAME.py instead of a stand-in")
  parser.add_argument("--batch", type=int, default=2)
  parser.add_argument("--steps", type=int, default=20)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--frames", type=int, default=8)
  parser.add_argument("--size", type=int, default=64)
  parser.add_argument("--width", type=int, default=1024)
  parser.add_argument("--layers", type=int, default=4)
  parser.add_argument(
    "--solvers", default="", help="only rows that contain this text"
  )
  return parser.parse_args()


def main() -> None:
  args = parse_args()
  name = f"configs.{args.config or 'default'}"
  task = make_task(importlib.import_module(name).get_config())
  if args.config:
    denoise_fn, spec = make_network(task), task.spec
  else:
    denoise_fn = make_stand_in(args.width, args.layers)
    spec = AVSpec(args.frames, args.size, args.size)
  shapes = {"video": spec.video_shape, "audio": spec.audio_shape}
  x_init = initial_noise(jax.random.key(0), shapes, args.batch)
  print(
    f"{jax.devices()[0].device_kind}, batch {args.batch}, "
    f"{args.config or 'stand-in'}, video {spec.video_shape}"
  )
  print(
    f"{'solver':40}{'NFE':>6}{'s/clip':>10}{'forward s':>12}{'overhead':>10}"
  )
  rows = [(name, options, None) for name, options in SOLVERS.items()]
  rows += [
    (name, {"name": "ddim"}, condition_on_audio(x_init["audio"], **options))
    for name, options in CONDITIONS.items()
  ]
  for name, options, condition in rows:
    if args.solvers not in name:
      continue
    if "steps" in sampler_options(options["name"], options.get("method")):
      options = options | {"steps": args.steps}
    nfe, ours, forward = measure(
      make_sampler(**options),
      denoise_fn,
      task.process,
      x_init,
      condition,
      args.rounds,
    )
    print(
      f"{name:40}{nfe:6d}{ours / args.batch:10.3f}{forward:12.4f}"
      f"{ours / (nfe * forward):10.3f}",
      flush=True,
    )


if __name__ == "__main__":
  main()
