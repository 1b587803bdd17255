"""How fast are the networks, measured against the device's own matmul?

  python -m benchmarks.unet [--model=av_unet|sr_unet] [--size=release|small]
    [--batch=1] [--dtype=float32|bfloat16] [--remat=NAME]
    [--kernels=cpu|plain|auto] [--parts=forward,train,rs_mma]

Prints a table. "share" is the rate of the network's floating-point operations
over that of a matmul of the same type on the same device, timed just before
and after; "CPU share" is the same in CPU-seconds, which other programs on the
machine disturb less. A train step (forward, backward, AdamW, EMA, donated
state) counts as three forward passes, whatever is rematerialised.
"""

import argparse
import dataclasses
import functools
import os
import platform
import resource
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmdiff_jax import models
from mmdiff_jax.models import layers, ops, rs_mma
from mmdiff_jax.models.remat import MEMORY_FIRST
from mmdiff_jax.models.remat import NAMES as REMAT
from mmdiff_jax.training.flops import count_flops

GIB = 2**30
SMALL = {
  "av_unet": {
    "model_channels": 32,
    "num_res_blocks": 1,
    "num_head_channels": 32,
  },
  "sr_unet": {
    "model_channels": 32,
    "channel_mult": (1, 2, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
  },
}
SHAPES = {
  ("av_unet", "release"): ((16, 64, 64, 3), (25600, 1)),
  ("av_unet", "small"): ((8, 32, 32, 3), (6400, 1)),
  ("sr_unet", "release"): ((256, 256, 3), (64, 64, 3)),
  ("sr_unet", "small"): ((64, 64, 3), (16, 16, 3)),
}


@dataclasses.dataclass(frozen=True)
class Seconds:
  """Time of one call: by the clock, and of all CPU cores together."""

  wall: float
  cpu: float


def measure(call: Callable[[], Any], least: float = 1.0) -> Seconds:
  """Mean time of a call, over at least one call and `least` seconds."""
  jax.block_until_ready(call())
  count, wall, cpu = 0, time.perf_counter(), time.process_time()
  while count < 1 or time.perf_counter() - wall < least:
    jax.block_until_ready(call())
    count += 1
  return Seconds(
    (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count
  )


@functools.cache
def matmul_operands(dtype: str) -> tuple[jax.Array, jax.Array, float]:
  """Operands of the yardstick and its GFLOP."""
  m, k, n = (4096, 1024, 1024)
  if jax.default_backend() != "cpu":
    m = k = n = 8192
  a, b = jnp.ones((m, k), dtype), jnp.ones((k, n), dtype)
  return a, b, 2e-9 * m * k * n


def matmul_rate(dtype: str) -> tuple[float, float]:
  """GFLOP per second, and per CPU-second, of the yardstick."""
  a, b, gflop = matmul_operands(dtype)
  seconds = measure(lambda: _matmul(a, b))
  return gflop / seconds.wall, gflop / seconds.cpu


@jax.jit
def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
  return a @ b


def counted_gflop(function: Callable, *args: Any) -> float:
  """GFLOP of the matrix products and convolutions of a function."""
  return 1e-9 * count_flops(jax.make_jaxpr(function)(*args).jaxpr)


def peak_gib() -> float:
  """Most memory used so far: of the device, or resident on a CPU."""
  stats = jax.devices()[0].memory_stats()
  if stats and "peak_bytes_in_use" in stats:
    return stats["peak_bytes_in_use"] / GIB
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


class Table:
  """Rows as they are measured."""

  def __init__(self, dtype: str):
    self.dtype = dtype
    print(
      f"{'':28}{'GFLOP':>9}{'compile s':>11}{'(CPU s)':>9}{'wall s':>9}"
      f"{'CPU s':>9}{'GFLOP/s':>9}{'share':>7}{'CPU share':>10}{'temp GiB':>10}"
      f"{'peak GiB':>10}",
      flush=True,
    )

  def row(
    self,
    name: str,
    gflop: float,
    compiled: Any,
    compile_time: Seconds,
    call: Callable[[], Any],
  ) -> None:
    """Times a call between two of the yardstick, and prints a line."""
    before = matmul_rate(self.dtype)
    seconds = measure(call)
    after = matmul_rate(self.dtype)
    wall, cpu = ((a + b) / 2 for a, b in zip(before, after, strict=True))
    rate = gflop / seconds.wall
    cpu_share = f"{gflop / seconds.cpu / cpu:10.2f}"
    if jax.default_backend() != "cpu":
      cpu_share = f"{'':10}"
    temporary = compiled.memory_analysis().temp_size_in_bytes / GIB
    print(
      f"{name:28}{gflop:9.1f}{compile_time.wall:11.1f}"
      f"{compile_time.cpu:9.1f}{seconds.wall:9.4f}"
      f"{seconds.cpu:9.4f}{rate:9.1f}{rate / wall:7.2f}{cpu_share}"
      f"{temporary:10.2f}{peak_gib():10.2f}",
      flush=True,
    )


def compile_timed(function: Any, *args: Any) -> tuple[Any, Seconds]:
  """Traces and compiles; returns the program and the time it took."""
  options = MEMORY_FIRST.get(jax.default_backend(), {})
  wall, cpu = time.perf_counter(), time.process_time()
  compiled = function.lower(*args).compile(compiler_options=options)
  return compiled, Seconds(
    time.perf_counter() - wall, time.process_time() - cpu
  )


def make_params(config: dict[str, Any]) -> Any:
  """Parameters of plausible sizes, drawn on the host: nothing is compiled."""
  rng = np.random.default_rng(0)

  def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    scale = np.prod(leaf.shape[:-1]) ** -0.5
    return jnp.asarray(scale * rng.random(leaf.shape, np.float32))

  return jax.tree.map(draw, models.abstract_variables(config)["params"])


def make_inputs(
  name: str, shapes: tuple, batch: int
) -> tuple[tuple[jax.Array, ...], Callable]:
  """Network inputs, and the function that orders them for `apply`."""
  keys = jax.random.split(jax.random.key(0), len(shapes))
  arrays = [
    jax.random.normal(key, (batch, *shape))
    for key, shape in zip(keys, shapes, strict=True)
  ]
  t = jnp.full((batch,), 500, jnp.int32)
  if name == "sr_unet":
    return (arrays[0], t, arrays[1]), lambda out: (out,)
  return (*arrays, t), lambda out: out


def bench_forward(table: Table, model: Any, params: Any, inputs: tuple) -> None:
  """The network's forward pass, as a sampler calls it."""

  def forward(params, *inputs):
    rngs = {"window": jax.random.key(0)}
    return model.apply({"params": params}, *inputs, rngs=rngs)

  compiled, seconds = compile_timed(jax.jit(forward), params, *inputs)
  gflop = counted_gflop(forward, params, *inputs)
  table.row(
    "forward", gflop, compiled, seconds, lambda: compiled(params, *inputs)
  )


def bench_train(
  table: Table, model: Any, params: Any, inputs: tuple, outputs: Callable
) -> None:
  """Forward, backward, AdamW and EMA, with donated state."""
  optimizer = optax.adamw(1e-4, weight_decay=0.0)

  def loss(params, key, *inputs):
    dropout, window = jax.random.split(key)
    rngs = {"dropout": dropout, "window": window}
    out = model.apply({"params": params}, *inputs, train=True, rngs=rngs)
    return sum(jnp.mean(jnp.square(x)) for x in outputs(out))

  @functools.partial(jax.jit, donate_argnums=0)
  def step(state, key, *inputs):
    params, ema, opt_state = state
    value, grads = jax.value_and_grad(loss)(params, key, *inputs)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    ema = optax.incremental_update(params, ema, 1e-4)
    return (params, ema, opt_state), value

  key = jax.random.key(1)
  state = (params, jax.tree.map(jnp.copy, params), optimizer.init(params))
  gflop = 3 * counted_gflop(loss, params, key, *inputs)
  del params
  compiled, seconds = compile_timed(step, state, key, *inputs)

  def call():
    nonlocal state
    state, value = compiled(state, key, *inputs)
    return value

  table.row("train step", gflop, compiled, seconds, call)


def bench_rs_mma(table: Table, model: Any, shapes: tuple, batch: int) -> None:
  """Each kind of RS-MMA block by itself."""
  (frames, height, width, _), (length, _) = shapes
  seen = set()
  for layer in model.plan().layers:
    window = model.window(layer, frames) if layer.kind == "attention" else 0
    if not window or (layer.ds, window) in seen:
      continue
    seen.add((layer.ds, window))
    block = rs_mma.RSMMA(
      window,
      model.num_head_channels or layer.channels // model.num_heads,
      attention=model.attention,
      **layers.inherited(model),
    )
    ds, channels = layer.ds, layer.channels
    inputs = (
      jnp.ones((batch, frames, height // ds, width // ds, channels)),
      jnp.ones((batch, length // ds**2, channels)),
    )
    inputs = tuple(x.astype(model.dtype) for x in inputs)
    variables = block.init(jax.random.key(0), *inputs)
    arguments = (variables, *inputs, jnp.int32(0))
    compiled, seconds = compile_timed(jax.jit(block.apply), *arguments)
    gflop = counted_gflop(block.apply, *arguments)
    table.row(
      f"RS-MMA ds={ds} w={window}",
      gflop,
      compiled,
      seconds,
      functools.partial(compiled, *arguments),
    )


def parse_arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--model", choices=("av_unet", "sr_unet"))
  parser.add_argument("--size", choices=("release", "small"))
  parser.add_argument("--batch", type=int)
  parser.add_argument("--dtype", choices=("float32", "bfloat16"))
  parser.add_argument("--remat", choices=REMAT)
  parser.add_argument("--attention", choices=("auto", "xla", "cudnn"))
  parser.add_argument("--kernels", choices=ops.KERNELS)
  parser.add_argument("--parts")
  parser.set_defaults(
    model="av_unet",
    size="release",
    batch=1,
    dtype="float32",
    remat="none",
    attention="auto",
    # As training resolves "auto".
    kernels="cpu" if jax.default_backend() == "cpu" else "plain",
    parts="forward,train,rs_mma",
  )
  arguments = parser.parse_args()
  arguments.parts = arguments.parts.split(",")
  unknown = set(arguments.parts) - {"forward", "train", "rs_mma"}
  if unknown:
    parser.error(f"--parts: unknown {', '.join(sorted(unknown))}")
  return arguments


def main() -> None:
  arguments = parse_arguments()
  name, batch = arguments.model, arguments.batch
  config = {
    "name": name,
    "dtype": arguments.dtype,
    "remat": arguments.remat,
    "attention": arguments.attention,
    "kernels": arguments.kernels,
    "dropout": 0.1 if name == "av_unet" else 0.0,
  }
  if arguments.size == "small":
    config |= SMALL[name]
  shapes = SHAPES[name, arguments.size]
  model = models.create_model(config)
  model.check_shapes(*shapes)
  params = make_params(config)
  count = sum(x.size for x in jax.tree.leaves(params))
  print(
    f"{platform.node()}, {jax.devices()[0].device_kind}, "
    f"{os.cpu_count()} CPU cores, JAX {jax.__version__}, "
    f"{time.strftime('%Y-%m-%d %H:%M')}\n"
    f"{name} {arguments.size}, {count:,} parameters, batch {batch}, "
    f"{arguments.dtype}, remat {arguments.remat}, kernels {arguments.kernels}"
  )
  rate, cpu_rate = matmul_rate(arguments.dtype)
  print(f"matmul: {rate:.1f} GFLOP/s, {cpu_rate:.1f} GFLOP per CPU-second")

  inputs, outputs = make_inputs(name, shapes, batch)
  table = Table(arguments.dtype)
  if "rs_mma" in arguments.parts and name == "av_unet":
    bench_rs_mma(table, model, shapes, batch)
  if "forward" in arguments.parts:
    bench_forward(table, model, params, inputs)
  if "train" in arguments.parts:
    bench_train(table, model, params, inputs, outputs)


if __name__ == "__main__":
  main()
