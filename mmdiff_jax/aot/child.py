"""Compiles one program, in a process that may be ended as soon as it is known.

`python -m mmdiff_jax.aot.child JOB.json`, of which `aot.compile` is the
parent. XLA writes its reports into the job's folder before it generates code,
which for a large program takes ten times as long as all before.
"""

import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax import checkpoint, sharding
from mmdiff_jax.aot.hardware import open_devices
from mmdiff_jax.files import write_json
from mmdiff_jax.sampling.sample_fn import make_sample_fn
from mmdiff_jax.task import Task, make_task
from mmdiff_jax.training.flops import count_flops
from mmdiff_jax.training.program import build_program


def trace_sampler(task: Task, config: ConfigDict, mesh: Mesh) -> Any:
  """Traces what `sample` runs for one batch."""
  split, size = sharding.batch_sharded(mesh), config.sample.batch_size
  params = jax.eval_shape(task.init, jax.random.key(0))
  params = sharding.with_shardings(params, sharding.fsdp_sharded(mesh, params))
  cond = {
    name: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype, sharding=split)
    for name, leaf in task.cond.items()
    if name not in task.network.null
  }
  return make_sample_fn(task, config.sample, mesh).trace(
    params,
    jax.eval_shape(lambda: jax.random.key(0)),
    jax.ShapeDtypeStruct((size,), jnp.int32, sharding=split),
    cond=cond,
  )


def run(folder: pathlib.Path) -> None:
  """Traces, says how much work it is, compiles."""
  job = json.loads((folder / "job.json").read_text())
  config = checkpoint.config_from_json(job["config"])
  try:
    devices = open_devices(job["topology"], job["slices"])
    # A cache would keep XLA from writing its reports.
    jax.config.update("jax_enable_compilation_cache", False)
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
    task = make_task(config, mesh)
    if job["what"] == "train":
      sharding.check_batch_size(
        mesh,
        config.train.batch_size // config.train.microbatches,
        "config.train.batch_size / config.train.microbatches",
      )
      traced = build_program(task, config, mesh).traced_step
    else:
      sharding.check_batch_size(
        mesh, config.sample.batch_size, "config.sample.batch_size"
      )
      traced = trace_sampler(task, config, mesh)
    params = jax.eval_shape(task.init, jax.random.key(0))
  except (ValueError, ImportError) as error:
    write_json(folder / "refused.json", {"error": str(error)})
    return
  traits = {
    "devices": len(devices),
    "mesh": dict(mesh.shape),
    "parameters": sum(x.size for x in jax.tree.leaves(params)),
    "flops": count_flops(traced.jaxpr.jaxpr),
  }
  write_json(folder / "traced.json", traits)
  options = {"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True}
  try:
    compiled = traced.lower().compile(
      compiler_options=options | task.compiler_options
    )
  except Exception as error:
    write_json(folder / "failed.json", {"error": str(error)})
    return
  memory = compiled.memory_analysis()
  used = (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
    - memory.alias_size_in_bytes
  )
  (folder / "program.txt").write_text(compiled.as_text())
  write_json(
    folder / "compiled.json",
    {
      "memory": used,
      "arguments": memory.argument_size_in_bytes,
      "temporaries": memory.temp_size_in_bytes,
    },
  )


if __name__ == "__main__":
  run(pathlib.Path(sys.argv[1]))
