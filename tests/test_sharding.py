"""What moves between devices is weights, never activations.

Read from the programs that XLA makes for four virtual devices. Left to
itself, it gathered activations of the whole batch instead of weights.
"""

import json
import os
import pathlib
import subprocess
import sys
import types

import jax
import pytest

from mmdiff_jax.devices.mesh import check_batch_size, join_hosts, make_mesh

ROOT = pathlib.Path(__file__).parents[1]

PROGRAM = """
import json, re, sys
import jax, jax.numpy as jnp
from configs import default
from tests import conftest, sr_fixtures
from mmdiff_jax.devices import sharding
from mmdiff_jax.devices.mesh import make_mesh
from mmdiff_jax.sampling.sample_fn import make_sample_fn
from mmdiff_jax.task import make_task
from mmdiff_jax.training.program import build_program

network, what, fsdp, micro = sys.argv[1:]
config = conftest.make_tiny_config()
if network == "sr_unet":
  config = sr_fixtures.make_tiny_sr_config()
config.model.model_channels = 64
config.mesh.fsdp, config.train.batch_size = int(fsdp), 16
config.train.microbatches = int(micro)
mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
task = make_task(config, mesh)
split = sharding.batch_sharded(mesh)
if what == "train":
  program = build_program(task, config, mesh)
  lowered = program.traced_step.lower()
  params = program.abstract_state.params
else:
  settings = default.get_config().sample
  settings.sampler, settings.steps = "ddim", 2
  params = jax.eval_shape(task.init, jax.random.key(0))
  params = sharding.with_shardings(params, sharding.fsdp_sharded(mesh, params))
  leaf = lambda x: jax.ShapeDtypeStruct((16, *x.shape), x.dtype, sharding=split)
  lowered = make_sample_fn(task, settings, mesh).lower(
    params,
    jax.eval_shape(lambda: jax.random.key(0)),
    jax.ShapeDtypeStruct((16,), jnp.int32, sharding=split),
    inputs={name: leaf(x) for name, x in task.inputs.items()},
  )
moved = {}
sizes = {"pred": 1, "u8": 1, "bf16": 2}
for line in lowered.compile().as_text().splitlines():
  found = re.search(r" = (.*?) (all-gather|all-to-all)(-start)?\\(", line)
  for kind, shape in re.findall(
      r"(pred|bf16|[suf]\\d+)\\[([\\d,]*)\\]", found[1] if found else ""):
    size = sizes.get(kind, 4)
    for n in filter(None, shape.split(",")):
      size *= int(n)
    moved[found[2]] = max(size, moved.get(found[2], 0))
largest = max(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))
print(json.dumps({"moved": moved, "largest": largest}))
"""


@pytest.mark.parametrize(
  ("network", "what", "fsdp", "micro"),
  [
    ("av_unet", "train", 4, 2),
    ("av_unet", "sample", 4, 1),
    ("sr_unet", "train", 2, 1),
    ("sr_unet", "sample", 2, 1),
  ],
)
def test_nothing_larger_than_a_weight_is_gathered(network, what, fsdp, micro):
  result = subprocess.run(
    [sys.executable, "-c", PROGRAM, network, what, str(fsdp), str(micro)],
    cwd=ROOT,
    env=os.environ
    | {
      "PYTHONPATH": str(ROOT),
      "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    },
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr[-3000:]
  report = json.loads(result.stdout.splitlines()[-1])
  assert 0 < report["moved"]["all-gather"] <= report["largest"]
  assert "all-to-all" not in report["moved"]


def test_gpus_that_slurm_would_leave_idle_are_an_error(monkeypatch):
  monkeypatch.delenv("JAX_LOCAL_DEVICE_IDS", raising=False)
  monkeypatch.setenv("SLURM_GPUS_ON_NODE", "8")
  monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "1(x2)")
  with pytest.raises(ValueError, match="--ntasks-per-node=8"):
    join_hosts(None, None, None)


class Device:
  """A device of one of several slices, as JAX describes it."""

  platform, device_kind = "gpu", "H100"

  def __init__(self, number, slice_index):
    self.id, self.slice_index = number, slice_index
    self.process_index = slice_index


def test_slices_are_joined_along_the_data_axis():
  devices = [Device(i, i // 4) for i in range(8)]
  mesh = make_mesh(-1, 2, devices)
  assert dict(mesh.shape) == {"data": 4, "fsdp": 2}
  for row in mesh.devices:
    assert len({device.slice_index for device in row}) == 1
  with pytest.raises(ValueError, match="data=1 must be a multiple of the 2"):
    make_mesh(1, 8, devices)


@pytest.mark.parametrize("axes", [(3, 1), (0, 1), (2, -1)])
def test_mesh_that_does_not_cover_the_devices_is_an_error(axes):
  if jax.device_count() != 1:
    pytest.skip("written for one device")
  with pytest.raises(ValueError, match="does not cover the 1 device"):
    make_mesh(*axes)


@pytest.mark.parametrize(
  ("data", "fsdp", "message"),
  [
    (-1, 32, "fsdp=32 does not cover the 16 .*give one of 1, 2, 4, 8, 16, or"),
    (-1, 0, "fsdp=0 does not cover"),
    (3, -1, "data=3 does not cover"),
    (-1, -1, "data=-1 and fsdp=-1 say nothing; give one of them a number"),
    (2, 4, "data=2 x fsdp=4 does not cover the 16 .*give -1 for one"),
  ],
)
def test_axes_that_do_not_fit_are_refused_with_those_that_do(
  data, fsdp, message
):
  with pytest.raises(ValueError, match=message):
    make_mesh(data, fsdp, devices=list(range(16)))


@pytest.mark.parametrize(
  ("size", "parts", "message"),
  [
    (100, 1, r"=100 must be .* 16 device\(s\) of this run, such as 96 or 112"),
    (8, 1, r"=8 must be a positive multiple .*, such as 16\."),
    (48, 2, r"16 device\(s\) of this run x 2 micro-batches, such as 32 or 64"),
  ],
)
def test_batches_that_devices_do_not_divide_are_refused(size, parts, message):
  devices = types.SimpleNamespace(size=16)
  with pytest.raises(ValueError, match=message):
    check_batch_size(devices, size, "config.train.batch_size", parts)
