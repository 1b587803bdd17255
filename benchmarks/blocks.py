"""What does one block of the release network take on hardware that is absent?

  python -m benchmarks.blocks [--topology=v5e:1x1] [--block=mm|rs_mma] [--ds=2]
    [--clips=8] [--attention=auto] [--depth=2] [--kernels] [--early]

Compiles the forward and the backward pass of a block, without
rematerialisation, and prints its memory, its memory traffic by layer and, for
TPUs, XLA's estimated cycles by layer, which leave out kernels that are not
XLA's (--early does not wait for them). --kernels compiles these alone and
prints how long their code takes: the bundles of the final schedule, as often
as each loop runs, at the chip's clock, next to what their bytes take. Nothing
is run, and every figure is an estimate (docs/scale.md).
"""

import argparse
import collections
import functools
import multiprocessing
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mmdiff_jax.aot import bundles, hlo
from mmdiff_jax.aot.hardware import check_topology, open_devices
from mmdiff_jax.aot.report import reported_memory
from mmdiff_jax.aot.traffic import moved
from mmdiff_jax.devices import sharding
from mmdiff_jax.devices.chips import GIB, Chip
from mmdiff_jax.devices.mesh import make_mesh
from mmdiff_jax.models import av_blocks, rs_mma
from mmdiff_jax.models.attention import On
from mmdiff_jax.models.tpu import cross_attention, self_attention

# Of the release network: width, and pixels and samples at ds=1.
WIDTH, FRAMES, PIXELS, SAMPLES = 128, 16, 64, 25600
LEVELS = {1: 1, 2: 2, 4: 3, 8: 4}
WINDOWS = {2: 1, 4: 4, 8: 8}
HEAD = 64


def make_block(
  kind: str, ds: int, attention: Any
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """`apply(params, video, audio, extra)` and `init(video, audio)`."""
  how = {"dtype": jnp.bfloat16, "kernels": "plain", "attention": attention}
  key = jax.random.key(0)
  if kind == "rs_mma":
    block: Any = rs_mma.RSMMA(WINDOWS[ds], HEAD, **how)
    return (
      lambda p, video, audio, shift: block.apply(p, video, audio, shift),
      lambda video, audio: block.init(key, video, audio, 0),
    )
  block = av_blocks.MMBlock(
    WIDTH * LEVELS[ds], video_attention=ds > 1, dropout=0.1, **how
  )

  def apply(p, video, audio, seed):
    emb = jnp.ones((video.shape[0], WIDTH), jnp.float32)
    rngs = {"dropout": jax.random.key(seed)}
    return block.apply(p, video, audio, emb, rngs=rngs)

  return apply, lambda video, audio: block.init(
    {"params": key, "dropout": key},
    video,
    audio,
    jnp.ones((video.shape[0], WIDTH)),
  )


def shapes(ds: int, clips: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
  channels = WIDTH * LEVELS[ds]
  video = (clips, FRAMES, PIXELS // ds, PIXELS // ds, channels)
  return video, (clips, SAMPLES // ds**2, channels)


def compile_block(
  args: argparse.Namespace, folder: pathlib.Path
) -> jax.stages.Compiled:
  """Compiles forward and backward pass; XLA's files go to a folder."""
  devices = open_devices(args.topology)
  mesh = make_mesh(devices=devices)
  replicated = sharding.replicated(mesh)
  platform = devices[0].platform
  apply, init = make_block(args.block, args.ds, On(args.attention, platform))

  def leaf(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=replicated)

  streams = [leaf(s, jnp.bfloat16) for s in shapes(args.ds, args.clips)]
  params = jax.tree.map(
    lambda x: leaf(x.shape, x.dtype), jax.eval_shape(init, *streams)
  )

  def step(params, video, audio, grads, extra):
    out, vjp = jax.vjp(lambda *x: apply(*x, extra), params, video, audio)
    return out, vjp(grads)

  options: dict[str, Any] = {
    "xla_dump_to": str(folder),
    "xla_dump_hlo_as_text": True,
  }
  if platform == "gpu":
    options["xla_gpu_enable_triton_gemm"] = False
  lowered = jax.jit(step).lower(
    params, *streams, tuple(streams), leaf((), jnp.int32)
  )
  return lowered.compile(compiler_options=options)


def layer(operation: hlo.Operation, depth: int) -> str:
  """A layer's name, backward passes with their forward ones."""
  name = hlo.layer_of(operation).removesuffix(" (backward)")
  parts = [part for part in name.split("/") if part not in ("MMBlock", "RSMMA")]
  return "/".join(parts[:depth]) or "(no name)"


def print_by_layer(text: str, depth: int, clock: float | None) -> None:
  program = hlo.Program(text)
  sizes: collections.Counter[str] = collections.Counter()
  cycles: collections.Counter[str] = collections.Counter()
  for name, times, operation in program.running():
    place = layer(operation, depth)
    computation = program.computations[name]
    sizes[place] += times * moved(program, computation, operation)
    cycles[place] += times * (hlo.cycles_of(operation) or 0)
  total = sum(cycles.values())
  print(f"{'traffic':40}{sum(sizes.values()) / 1e9:9.2f} GB")
  if clock:
    print(f"{'XLA estimates':40}{1e3 * total / clock:9.2f} ms")
  for place, size in sizes.most_common():
    ms = f"{1e3 * cycles[place] / clock:9.2f} ms" if clock and total else ""
    if size > 1e7 or cycles[place] * 200 > total > 0:
      print(f"  {place:38}{size / 1e9:9.2f} GB{ms}")


def kernel_cases(block: str, ds: int, clips: int) -> dict[str, Any]:
  """The attentions of a block: functions and shapes of their arguments."""
  video, audio = shapes(ds, clips)
  batch, frames, height, width, channels = video
  if block == "mm":
    tokens = (batch * frames, height * width, 3 * channels)
    over_frames = (batch, frames, height * width, 3 * channels)
    one = functools.partial(self_attention.self_attend, heads=4)
    return {"tokens": (one, [tokens]), "frames": (one, [over_frames])}
  pixels = (batch, frames, height * width, channels)
  samples = (batch, frames, audio[1] // frames, channels)

  def windows(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return cross_attention.attend_windows(
      q, k, v, channels // HEAD, WINDOWS[ds], 3
    )

  return {
    "video to audio": (windows, [pixels, samples, samples]),
    "audio to video": (windows, [samples, pixels, pixels]),
  }


def print_kernels(
  args: argparse.Namespace, folder: pathlib.Path, chip: Chip
) -> None:
  """Each kernel's cycles next to what its bytes take."""
  bundles.ask_for_them(folder)
  replicated = sharding.replicated(
    make_mesh(devices=open_devices(args.topology))
  )
  assert chip.clock is not None
  total = 0.0
  for case, (function, sizes) in kernel_cases(
    args.block, args.ds, args.clips
  ).items():
    leaves = [
      jax.ShapeDtypeStruct(size, jnp.bfloat16, sharding=replicated)
      for size in sizes
    ]

    def step(*inputs: jax.Array, function: Any = function) -> Any:
      out, vjp = jax.vjp(function, *inputs)
      return vjp(out)

    text = jax.jit(step).lower(*leaves).compile().as_text()
    program = hlo.Program(text)
    sizes_moved = {
      operation.name: moved(program, program.computations[name], operation)
      for name, _, operation in program.running()
      if operation.kind == "custom-call"
    }
    for kernel in bundles.read(folder, sizes_moved):
      ms = 1e3 * kernel.cycles / chip.clock
      size = sizes_moved.get(kernel.name, 0)
      total += ms
      print(
        f"{case + ': ' + kernel.name:48}{kernel.cycles / kernel.steps:9.0f} "
        f"cycles x {kernel.steps} steps = {ms:.2f} ms; {size / 1e6:.0f} MB "
        f"take {1e3 * size / chip.bandwidth:.2f} ms",
        flush=True,
      )
  print(f"{'kernels, by their schedules':48}{total:9.2f} ms")


def print_early(args: argparse.Namespace, folder: pathlib.Path) -> None:
  """Memory and traffic as XLA knows them before it generates code."""
  child = multiprocessing.get_context("spawn").Process(
    target=compile_block, args=(args, folder)
  )
  child.start()
  while child.is_alive() and reported_memory(folder) is None:
    time.sleep(1)
  time.sleep(1)
  child.kill()
  text = next(folder.glob("*step*after_optimizations.txt")).read_text()
  memory = reported_memory(folder)
  print(
    f"{args.block} ds={args.ds}, {args.clips} clips, {args.topology}, "
    f"attention {args.attention}: memory "
    f"{'unknown' if memory is None else f'{memory / GIB:.2f} GiB'}"
  )
  print_by_layer(text, args.depth, None)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--topology", default="v5e:1x1")
  parser.add_argument("--block", choices=("mm", "rs_mma"), default="mm")
  parser.add_argument("--kernels", action="store_true")
  parser.add_argument("--early", action="store_true")
  parser.add_argument("--ds", type=int, choices=tuple(LEVELS), default=2)
  parser.add_argument("--clips", type=int, default=8)
  parser.add_argument("--attention", default="auto")
  parser.add_argument("--depth", type=int, default=2)
  args = parser.parse_args()
  chip = check_topology(args.topology)
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    if args.kernels:
      if chip is None or chip.clock is None:
        parser.error(f"--kernels: there are none for {args.topology}")
      print_kernels(args, folder, chip)
      return
    if args.early:
      print_early(args, folder)
      return
    compiled = compile_block(args, folder)
    text = next(folder.glob("*step*after_optimizations.txt")).read_text()
    memory = compiled.memory_analysis()
    print(
      f"{args.block} ds={args.ds}, {args.clips} clips, {args.topology}, "
      f"attention {args.attention}: temporaries "
      f"{memory.temp_size_in_bytes / GIB:.2f} GiB"
    )
    print_by_layer(text, args.depth, None)
    if chip is not None and chip.clock:
      print_by_layer(compiled.as_text(), args.depth, chip.clock)


if __name__ == "__main__":
  main()
