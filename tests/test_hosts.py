"""Training on several hosts: real processes, of one device or two.

With a toy network: hosts that compile for minutes lose patience with each
other on a busy machine.
"""

import io
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from mmdiff_jax import checkpoint
from mmdiff_jax.devices import hosts
from mmdiff_jax.training import metrics

ROOT = pathlib.Path(__file__).parents[1]

# Prints a checksum of every record that is trained on.
_HOST = """
import sys, zlib
address, num_hosts, host, workdir, num_steps = sys.argv[1:]
import jax
if address:
  jax.distributed.initialize(address, int(num_hosts), int(host))
from mmdiff_jax.devices import sharding
from mmdiff_jax.training import loop
from tests.toy import make_toy_config
config = make_toy_config()
config.mesh.fsdp = 2
config.train.batch_size = 4
config.train.log_every = 1
config.train.preview_every = 2
config.train.preview_samples = config.train.preview_steps = 2
config.train.checkpoint_every = 1000
config.train.num_steps = int(num_steps)
put = sharding.put_batch
def put_and_tell(mesh, batch):
  print("rows", *(zlib.crc32(row.tobytes()) for row in batch["video"]))
  return put(mesh, batch)
sharding.put_batch = put_and_tell
print(int(loop.train(config, workdir).step))
"""

# The configuration of a run that does not end.
_ENDLESS = """
from tests.toy import make_toy_config

def get_config():
  config = make_toy_config()
  config.train.batch_size = 4
  config.train.preview_every = 0
  config.train.log_every = config.train.checkpoint_every = 5
  config.train.num_steps = 10**6
  return config
"""


def free_address():
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    return f"localhost:{probe.getsockname()[1]}"


def start(arguments, devices, **streams):
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(ROOT),
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
  }
  return subprocess.Popen(
    [sys.executable, *map(str, arguments)],
    cwd=ROOT,
    env=environment,
    text=True,
    **streams,
  )


def train(workdir, num_steps, num_hosts, devices):
  """Trains on hosts of so many devices; checksums of each step's records."""
  address = free_address() if num_hosts > 1 else ""
  processes = [
    start(
      ["-c", _HOST, address, num_hosts, host, workdir, num_steps],
      devices,
      stdout=subprocess.PIPE,
    )
    for host in range(num_hosts)
  ]
  outputs = [process.communicate(timeout=240)[0] for process in processes]
  assert [process.returncode for process in processes] == [0] * num_hosts
  assert {output.splitlines()[-1] for output in outputs} == {str(num_steps)}
  shares = [re.findall(r"^rows (.*)$", output, re.M) for output in outputs]
  return [" ".join(step).split() for step in zip(*shares, strict=True)]


def test_every_layout_continues_every_other_as_if_alone(tmp_path):
  """One device to a process is a GPU to a process, as SLURM starts them."""
  alone = train(tmp_path / "alone", 8, 1, 4)
  rows = []
  for steps, layout in ((2, (2, 1)), (4, (1, 2)), (6, (2, 2)), (8, (2, 1))):
    rows += train(tmp_path / "run", steps, *layout)
  assert rows == alone
  ours, theirs = (
    metrics.read_jsonl(tmp_path / name / "metrics.jsonl")
    for name in ("run", "alone")
  )
  assert [record["step"] for record in ours] == list(range(1, 9))
  for one, other in zip(ours, theirs, strict=True):
    for name in ("loss", "video_mse", "audio_mse"):
      np.testing.assert_allclose(one[name], other[name], rtol=1e-5)
  for step in (2, 4, 6, 8):
    folder = tmp_path / "run" / "previews" / f"{step:08d}"
    assert len(list(folder.glob("*.mp4"))) == 2


@pytest.fixture
def two_hosts(tmp_path):
  """Starts a command on two hosts, and waits until it has trained."""
  config = tmp_path / "endless.py"
  config.write_text(_ENDLESS)
  running = []

  def begin():
    workdir, address = tmp_path / "run", free_address()
    before = len(metrics.read_jsonl(workdir / "metrics.jsonl"))
    common = ["main.py", "train", f"--config={config}", f"--workdir={workdir}"]
    common += ["--distributed", f"--coordinator={address}", "--num_hosts=2"]
    processes = [
      start([*common, f"--host={host}"], 1, stderr=subprocess.PIPE)
      for host in range(2)
    ]
    running.extend(processes)
    deadline = time.monotonic() + 240
    while len(metrics.read_jsonl(workdir / "metrics.jsonl")) < before + 2:
      assert time.monotonic() < deadline and processes[0].poll() is None
      time.sleep(0.2)
    return workdir, processes

  yield begin
  for process in running:
    process.kill()


def test_a_signal_stops_all_hosts_and_a_lost_one_ends_the_others(two_hosts):
  workdir, (first, second) = two_hosts()
  second.send_signal(signal.SIGTERM)
  told = [process.communicate(timeout=120)[1] for process in (first, second)]
  assert [first.returncode, second.returncode] == [143, 143]
  steps = {re.search(r"Stopped .* after step (\d+)", text)[1] for text in told}
  assert steps == {checkpoint.find_checkpoint(workdir).name}
  _, (first, second) = two_hosts()
  second.kill()
  told = first.communicate(timeout=120)[1]
  assert first.returncode == hosts.LOST_HOST
  last = told.splitlines()[-1]
  # Either a collective breaks, or the missing signs of life are noticed.
  assert re.match(r"error: (host 1|another host) is lost", last)
  assert "The same command on all hosts continues" in last
  assert not re.search(r"^[EFW]\d{4} |stack trace|^\s+@", told, re.M)


def test_native_words_on_a_lost_host_are_held_back_and_no_others():
  before = b"Step 1\nE1126 unrelated.cc:1] kept\n 3%|"
  words = b"E1126 03:59:42.8 7 coordination_service.cc:15] [6] lost:\n1\ndump"
  reading, writing = os.pipe()
  os.write(writing, before + words)
  os.close(writing)
  sink = io.BytesIO()
  with os.fdopen(reading, "rb", 0) as source:
    assert hosts.pass_on(source, sink) == words
  assert sink.getvalue() == before + b"\n"


@pytest.mark.parametrize(
  ("text", "status", "words"),
  [
    ("Gloo all-reduce failed: Connection closed by peer", 75, "is lost"),
    ("Out of memory", 1, "error: Out of memory"),
  ],
)
def test_a_broken_collective_is_a_lost_host(
  text, status, words, monkeypatch, capsys
):
  monkeypatch.setattr(os, "_exit", sys.exit)
  with pytest.raises(SystemExit) as ended:
    hosts.leave(RuntimeError(text))
  assert ended.value.code == status
  assert words in capsys.readouterr().err


def test_the_line_names_the_host_where_it_is_known():
  words = b"(stopped sending heartbeats):\n1\nThe tasks"
  assert hosts.lost_line(words).startswith("error: host 1 is lost")
  assert hosts.lost_line(b"Socket closed").startswith("error: another host")
