"""Compiles one program, in a process that may be ended as soon as it is known.

`python -m mmdiff_jax.aot.child FOLDER`, of which `aot.compile` is the parent
and which holds `job.json`. XLA writes its reports into that folder before it
generates code, which for a large program takes longer than all before.
"""

import json
import math
import os
import pathlib
import sys
import threading
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax import checkpoint
from mmdiff_jax.aot.hardware import open_devices
from mmdiff_jax.aot.report import COMPILED
from mmdiff_jax.devices import sharding
from mmdiff_jax.devices.memory import program_bytes
from mmdiff_jax.devices.mesh import check_batch_size, make_mesh
from mmdiff_jax.disk.files import write_json
from mmdiff_jax.sampling.sample_fn import make_sample_fn
from mmdiff_jax.task import Task, make_task
from mmdiff_jax.training import settings
from mmdiff_jax.training.flops import count_flops, model_flops
from mmdiff_jax.training.program import build_program


def trace_step(
  task: Task, config: ConfigDict, mesh: Mesh
) -> tuple[Any, dict[str, Any]]:
  """Traces the train step.

  Returns:
    What was traced, and what it is given by kind.
  """
  settings.check_batch(config.train, mesh)
  program = build_program(task, config, mesh)
  state = program.abstract_state
  return program.traced_step, {
    "parameters": state.params,
    "their average": state.ema_params,
    "optimiser": (state.opt_state, state.timestep_state),
    "batch": task.abstract_batch(
      config.train.batch_size, sharding.batch_sharded(mesh)
    ),
  }


def trace_sampler(
  task: Task, config: ConfigDict, mesh: Mesh
) -> tuple[Any, dict[str, Any]]:
  """Traces what `sample` runs for one batch.

  Returns:
    What was traced, and what it is given by kind.
  """
  split, size = sharding.batch_sharded(mesh), config.sample.batch_size
  check_batch_size(mesh, size, "config.sample.batch_size")
  params = jax.eval_shape(task.init, jax.random.key(0))
  params = sharding.with_shardings(params, sharding.fsdp_sharded(mesh, params))
  inputs = {
    name: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype, sharding=split)
    for name, leaf in task.inputs.items()
    if name not in task.network.null
  }
  traced = make_sample_fn(task, config.sample, mesh).trace(
    params,
    jax.eval_shape(lambda: jax.random.key(0)),
    jax.ShapeDtypeStruct((size,), jnp.int32, sharding=split),
    inputs=inputs,
  )
  return traced, {"parameters": params, "inputs": inputs}


def device_bytes(tree: Any) -> int:
  """Bytes of a tree of sharded shapes on one device."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def run(folder: pathlib.Path) -> None:
  """Traces, says how much work it is, compiles."""
  job = json.loads((folder / "job.json").read_text())
  config = checkpoint.config_from_json(job["config"])
  trace = {"train": trace_step, "sample": trace_sampler}[job["what"]]
  try:
    devices = open_devices(job["topology"], job["slices"])
    # A cache would keep XLA from writing its reports.
    jax.config.update("jax_enable_compilation_cache", False)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, devices)
    task = make_task(config, mesh)
    traced, given = trace(task, config, mesh)
  except (ValueError, ImportError) as error:
    write_json(folder / "refused.json", {"error": str(error)})
    return
  held = {kind: device_bytes(tree) for kind, tree in given.items()}
  params = given["parameters"]
  if job["what"] == "train":
    needed = model_flops(task, config, params)
  else:
    plain, _ = trace(task.plainly(), config, mesh)
    needed = count_flops(plain.jaxpr.jaxpr)
  traits = {
    "devices": len(devices),
    "mesh": dict(mesh.shape),
    "parameters": sum(x.size for x in jax.tree.leaves(params)),
    "flops": count_flops(traced.jaxpr.jaxpr),
    "model_flops": needed,
    "held": held,
  }
  write_json(folder / "traced.json", traits)
  if job["hbm"] is not None and sum(held.values()) > job["hbm"]:
    # Nothing that XLA does with the rest can help.
    write_json(folder / "failed.json", {"error": "", "memory": None})
    return
  options = {
    "xla_dump_to": str(folder),
    "xla_dump_hlo_as_text": True,
    **task.compiler_options,
  }
  if devices[0].platform == "gpu":
    # Without a GPU to try tiles on, XLA finds none for some products.
    options["xla_gpu_enable_triton_gemm"] = False
  try:
    compiled = traced.lower().compile(compiler_options=options)
  except Exception as error:
    write_json(folder / "failed.json", {"error": str(error)})
    return
  if devices[0].platform == "tpu":
    # Only what code was generated for states cycles.
    (folder / COMPILED).write_text(compiled.as_text())
  write_json(folder / "compiled.json", {"memory": program_bytes(compiled)})


def end_with_parent() -> None:
  """Ends this process when the one that started it is gone."""

  def wait() -> None:
    # It ends when the other side of the pipe does. Not by `sys.stdin`: its lock
    # would be held while the interpreter shuts down.
    while os.read(0, 1):
      pass
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
  end_with_parent()
  in_folder = pathlib.Path(sys.argv[1])
  try:
    run(in_folder)
  except Exception as error:
    reason = f"{type(error).__name__}: {error}"
    write_json(in_folder / "broken.json", {"error": reason})
    raise
