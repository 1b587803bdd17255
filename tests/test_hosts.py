"""Training on several hosts: two processes, of one device or two.

With a toy network: hosts that compile for minutes lose patience with each
other on a busy machine.
"""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from mmdiff_jax import checkpoint
from mmdiff_jax.training import metrics

ROOT = pathlib.Path(__file__).parents[1]
NUM_HOSTS = 2

_HOST = """
import sys
address, host, workdir, num_steps = sys.argv[1:]
import jax
if address:
  jax.distributed.initialize(address, 2, int(host))
from mmdiff_jax.training import loop
from tests.toy import make_toy_config
config = make_toy_config()
config.mesh.fsdp = 2
config.train.batch_size = 4
config.train.preview_every = 2
config.train.preview_samples = config.train.preview_steps = 2
config.train.checkpoint_every = 1000
config.train.num_steps = int(num_steps)
print(int(loop.train(config, workdir).step))
"""


def start(address, host, workdir, num_steps, devices):
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(ROOT),
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
  }
  arguments = [address, str(host), str(workdir), str(num_steps)]
  return subprocess.Popen(
    [sys.executable, "-c", _HOST, *arguments],
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    text=True,
  )


def start_hosts(workdir, num_steps, devices=2):
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    address = f"localhost:{probe.getsockname()[1]}"
  return [
    start(address, host, workdir, num_steps, devices)
    for host in range(NUM_HOSTS)
  ]


def last_steps(processes):
  """Waits; the step that each process says to have reached."""
  outputs = [process.communicate(timeout=240)[0] for process in processes]
  assert [process.returncode for process in processes] == [0] * len(processes)
  return [int(output.splitlines()[-1]) for output in outputs]


@pytest.fixture(scope="module")
def two_hosts(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("two_hosts")
  assert last_steps(start_hosts(workdir, 2)) == [2, 2]
  return workdir


def test_two_hosts_train_as_one_and_one_continues(two_hosts, tmp_path):
  assert last_steps([start("", 0, tmp_path, 4, devices=4)]) == [4]
  assert last_steps([start("", 0, two_hosts, 4, devices=4)]) == [4]
  continued = metrics.read_jsonl(two_hosts / "metrics.jsonl")
  alone = metrics.read_jsonl(tmp_path / "metrics.jsonl")
  assert [record["step"] for record in continued] == [2, 4]
  for ours, theirs in zip(continued, alone, strict=True):
    for name in ("loss", "video_mse", "audio_mse"):
      np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-4)
  for step in (2, 4):
    folder = two_hosts / "previews" / f"{step:08d}"
    assert len(list(folder.glob("*.mp4"))) == 2


def test_hosts_of_one_device_each_save_and_one_host_continues(
  two_hosts, tmp_path
):
  """A GPU to a process, as SLURM starts them; saved at a logging step."""
  assert last_steps(start_hosts(tmp_path, 2, devices=1)) == [2, 2]
  ours, theirs = (
    metrics.read_jsonl(folder / "metrics.jsonl")[0]
    for folder in (tmp_path, two_hosts)
  )
  np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=2e-4)
  assert last_steps([start("", 0, tmp_path, 4, devices=2)]) == [4]


def test_sigterm_to_one_host_stops_all_at_one_step(tmp_path):
  hosts = start_hosts(tmp_path, 100_000)
  deadline = time.monotonic() + 200
  while not metrics.read_jsonl(tmp_path / "metrics.jsonl"):
    assert time.monotonic() < deadline and hosts[0].poll() is None
    time.sleep(0.2)
  hosts[1].send_signal(signal.SIGTERM)
  first, second = last_steps(hosts)
  assert 2 <= first == second < 100_000
  assert checkpoint.find_checkpoint(tmp_path).name == str(first)
