"""The training loop as a whole: resuming, signals, sharding, errors.

What does not depend on the network is tried with a toy.
"""

import functools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from mmdiff_jax import checkpoint
from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.tfrecord import read_records
from mmdiff_jax.devices import memory
from mmdiff_jax.disk import locks
from mmdiff_jax.training import divergence, loop, metrics
from mmdiff_jax.training.signals import StoppedError
from tests.command_line import call
from tests.prepared_fixtures import write_dataset
from tests.toy import make_toy_config

ROOT = pathlib.Path(__file__).parents[1]


def log_of(workdir):
  """The log without what depends on the speed of the machine."""
  return [
    {
      k: v
      for k, v in record.items()
      if "per_second" not in k
      and k != "input_wait_share"
      and not k.startswith(("time_", "run_seconds"))
    }
    for record in metrics.read_jsonl(workdir / "metrics.jsonl")
  ]


def assert_same_state(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def toy_config():
  return make_toy_config()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  """Four steps of the toy in one go."""
  workdir = tmp_path_factory.mktemp("uninterrupted")
  return loop.train(make_toy_config(), workdir), workdir


def test_a_run_that_does_everything_moves_nothing_unasked(tmp_path):
  """The loop is under a transfer guard, which raises."""
  config = make_toy_config()
  config.data.holdout_fraction = 0.5
  config.train.update(
    warmup_steps=2,
    anneal="cosine",
    gradient_clip=1.0,
    on_nonfinite="skip",
    log_every=1,
    eval_every=2,
    preview_every=2,
    preview_samples=1,
    preview_steps=2,
  )
  loop.train(config, tmp_path)
  rates = [r["learning_rate"] for r in log_of(tmp_path) if "loss" in r]
  peak = config.train.learning_rate
  np.testing.assert_allclose(rates, [peak / 2, peak, peak, peak / 2], rtol=1e-6)
  assert any("heldout_loss" in record for record in log_of(tmp_path))
  assert (tmp_path / "previews/00000004/sample_00.mp4").is_file()


def test_two_restored_and_two_more_steps_are_four(
  uninterrupted, toy_config, tmp_path
):
  toy_config.train.num_steps = 2
  loop.train(toy_config, tmp_path)
  toy_config.train.num_steps = 4
  state = loop.train(toy_config, tmp_path)
  assert_same_state(state, uninterrupted[0])
  assert log_of(tmp_path) == log_of(uninterrupted[1])


def test_the_joint_network_resumes_bit_for_bit(tiny_config, tmp_path):
  whole = loop.train(tiny_config, tmp_path / "whole")
  tiny_config.train.num_steps = 2
  loop.train(tiny_config, tmp_path / "parts")
  tiny_config.train.num_steps = 4
  assert_same_state(loop.train(tiny_config, tmp_path / "parts"), whole)


def test_sigterm_saves_and_the_rerun_continues_between_two_logs(
  uninterrupted, toy_config, tmp_path, monkeypatch
):
  ticks = []

  def tick(report):
    ticks.append(report)
    if len(ticks) == 3:
      os.kill(os.getpid(), signal.SIGTERM)

  with monkeypatch.context() as patch:
    patch.setattr(loop.Report, "tick", tick)
    with pytest.raises(StoppedError, match="after step 3; the") as stopped:
      loop.train(toy_config, tmp_path)
  assert int(stopped.value.state.step) == 3 and stopped.value.status == 143
  assert checkpoint.find_checkpoint(tmp_path).name == "3"
  state = loop.train(toy_config, tmp_path)
  assert_same_state(state, uninterrupted[0])
  assert log_of(tmp_path) == log_of(uninterrupted[1])


@pytest.mark.parametrize(
  ("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_the_exit_status_tells_that_training_was_stopped(
  tmp_path, monkeypatch, capsys, signum, status
):
  """So that `train && sample` does not go on with an unfinished model."""
  flags = [
    "train",
    f"--config={ROOT / 'tests' / 'faults' / 'toy_config.py'}",
    f"--workdir={tmp_path}",
  ]
  with monkeypatch.context() as patch:
    patch.setattr(
      loop.Report, "tick", lambda report: os.kill(os.getpid(), signum)
    )
    assert call(*flags) == status
  last = capsys.readouterr().err.splitlines()[-1]
  assert last.startswith("Stopped by a signal after step 1; ")
  assert checkpoint.find_checkpoint(tmp_path).name == "1"
  assert call(*flags) == 0
  assert checkpoint.find_checkpoint(tmp_path).name == "4"


def test_data_that_cannot_be_made_are_found_before_compiling(
  tmp_path, capsys, caplog
):
  flags = [
    "train",
    f"--config={ROOT / 'tests' / 'faults' / 'toy_config.py'}",
    f"--workdir={tmp_path}",
    "--config.data.sample_rate=500",
  ]
  with caplog.at_level("INFO", "mmdiff_jax"):
    assert call(*flags) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert "sample_rate of at least 2000 Hz, got 500" in line
  assert "ompil" not in caplog.text and not list(tmp_path.iterdir())


def test_kill_9_changes_nothing(uninterrupted, toy_config, tmp_path):
  script = (
    "import sys; from tests.toy import make_toy_config\n"
    "from mmdiff_jax.training import loop\n"
    "loop.train(make_toy_config(), sys.argv[1])\n"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", script, str(tmp_path)],
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  checkpoints = tmp_path / "checkpoints"
  deadline = time.monotonic() + 120
  # Whatever the first save has written by now, finished or not.
  while not (checkpoints.exists() and list(checkpoints.iterdir())):
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.01)
  process.kill()
  process.wait()
  state = loop.train(toy_config, tmp_path)
  assert_same_state(state, uninterrupted[0])
  assert log_of(tmp_path) == log_of(uninterrupted[1])
  left = {p.name for p in checkpoints.iterdir()}
  assert left == {"2", "4"}


def test_finished_run_is_left_alone(uninterrupted, toy_config):
  state, workdir = uninterrupted
  before = (workdir / "metrics.jsonl").read_text()
  again = loop.train(toy_config, workdir)
  assert_same_state(again, state)
  assert (workdir / "metrics.jsonl").read_text() == before


def test_log_has_what_the_issue_of_a_run_is_found_with(uninterrupted):
  record = metrics.read_jsonl(uninterrupted[1] / "metrics.jsonl")[-1]
  assert {
    "step", "loss", "video_mse", "audio_mse", "grad_norm_video",
    "grad_norm_audio", "grad_norm_shared", "learning_rate",
    "steps_per_second", "clips_per_second", "model_tflops_per_second",
    "executed_tflops_per_second",
    "input_wait_share", "run_seconds", "time_steps", "time_saving",
  } <= record.keys()  # fmt: skip
  assert record["model_tflops_per_second"] > 0
  shares = [value for key, value in record.items() if key.startswith("time_")]
  assert sum(shares) == pytest.approx(1.0)
  events = list((uninterrupted[1] / "tensorboard").iterdir())
  assert len(events) == 1 and events[0].stat().st_size > 100


def test_run_can_start_from_the_parameters_of_another(
  uninterrupted, toy_config, tmp_path
):
  state, workdir = uninterrupted
  toy_config.train.update(
    init_from=str(workdir), num_steps=1, learning_rate=0.0, ema_decay=0.5
  )
  new = loop.train(toy_config, tmp_path)
  jax.tree.map(np.testing.assert_array_equal, new.params, state.ema_params)


def test_a_run_does_not_continue_as_another_model(
  uninterrupted, toy_config, tmp_path, caplog
):
  workdir = shutil.copytree(uninterrupted[1], tmp_path / "run")
  toy_config.train.num_steps = 5
  for section, key, value in (
    ("diffusion", "prediction", "eps"),
    ("model", "features", 16),
  ):
    old = toy_config[section][key]
    toy_config[section][key] = value
    with pytest.raises(ValueError, match=f"{key} was {old} .* is {value} now"):
      loop.train(toy_config, workdir)
    toy_config[section][key] = old
  # What a run that diverges is told to do works, and is noted.
  toy_config.train.gradient_clip = 1.0
  with caplog.at_level("WARNING", "mmdiff_jax"):
    assert int(loop.train(toy_config, workdir).step) == 5
  assert "config.train.gradient_clip was 0.0" in caplog.text
  assert "num_steps" not in caplog.text


def test_a_damaged_checkpoint_is_one_clear_line(
  uninterrupted, toy_config, tmp_path
):
  workdir = shutil.copytree(uninterrupted[1], tmp_path / "run")
  (workdir / "checkpoints" / "7").mkdir()  # Not a checkpoint at all.
  data = max(
    (workdir / "checkpoints" / "4").rglob("d/*"), key=lambda p: p.stat().st_size
  )
  data.write_bytes(data.read_bytes()[:100])
  toy_config.train.num_steps = 8
  with pytest.raises(ValueError, match="4 cannot be read .*delete") as error:
    loop.train(toy_config, workdir)
  assert "\n" not in str(error.value)


def test_a_diverged_run_continues_from_a_good_checkpoint_with_the_cure(
  uninterrupted, toy_config, tmp_path
):
  state, workdir = uninterrupted
  workdir = shutil.copytree(workdir, tmp_path / "run")
  toy_config.train.update(
    num_steps=6, learning_rate=1e30, checkpoint_every=1, log_every=1
  )
  # Step 5 leaves parameters of 1e30, which are saved: step 6 shows it.
  with pytest.raises(
    divergence.NonFiniteLossError,
    match="Step 6: .*mse.* step 5, .* removed.*learning_rate.* from step 4",
  ):
    loop.train(toy_config, workdir)
  kept = {path.name for path in (workdir / "checkpoints").iterdir()}
  assert kept == {"2", "4"}
  toy_config.train.update(learning_rate=1e-3, gradient_clip=1.0, num_steps=5)
  cured = loop.train(toy_config, workdir)
  assert int(cured.step) == 5
  for new, old in zip(
    jax.tree.leaves(cured.params), jax.tree.leaves(state.params), strict=True
  ):
    # A step of Adam from the good parameters, of about the learning rate.
    assert abs(new - old).max() < 0.01


def test_parameters_that_are_not_finite_are_not_saved(uninterrupted, tmp_path):
  state, _ = uninterrupted
  ruined = jax.tree.map(lambda x: x, state.ema_params)
  first = jax.tree.leaves(ruined)[0]
  ruined = jax.tree.map(lambda x: x * np.inf if x is first else x, ruined)
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    divergence.check_state(state, 4, checkpoints)
    with pytest.raises(
      divergence.NonFiniteLossError, match="After step 4: .*ema_params.*anew"
    ):
      divergence.check_state(state.replace(ema_params=ruined), 4, checkpoints)


def test_two_processes_do_not_train_in_one_directory(
  uninterrupted, toy_config, tmp_path
):
  workdir = shutil.copytree(uninterrupted[1], tmp_path / "run")
  before = sorted(path.name for path in workdir.iterdir())
  with (
    locks.locked(workdir),
    pytest.raises(locks.InUseError, match=f"in use by process {os.getpid()} "),
  ):
    loop.train(toy_config, workdir)
  assert sorted(path.name for path in workdir.iterdir()) == before


def test_a_directory_that_is_deleted_ends_the_run(
  uninterrupted, toy_config, tmp_path, monkeypatch
):
  workdir = shutil.copytree(uninterrupted[1], tmp_path / "run")
  toy_config.train.num_steps = 8
  monkeypatch.setattr(
    loop.Report, "tick", lambda report: shutil.rmtree(workdir, True)
  )
  with pytest.raises(FileNotFoundError, match="run was deleted"):
    loop.train(toy_config, workdir)


@pytest.mark.parametrize(
  ("section", "key", "value", "message"),
  [
    ("train", "microbatches", 3, "microbatches=3 must divide"),
    ("train", "anneal", "step", "anneal='step'"),
    ("train", "ema_decay", 1.5, "ema_decay=1.5 must be at least 0 and below 1"),
    ("train", "learning_rate", float("nan"), "learning_rate=nan must be"),
    ("train", "preview_samples", 0, "preview_samples=0 must be at least 1"),
    ("diffusion", "schedule", "cubic", "cubic.*linear"),
    ("diffusion", "timestep_sampler", "even", "even.*uniform"),
    ("diffusion", "loss", "mae", "mae.*mse"),
    ("model", "cross_attention_windows", (3,), "window"),
    ("data", "source", "folder:x", "folder.*tfrecord"),
  ],
)
def test_senseless_settings_are_one_clear_line(
  tiny_config, tmp_path, section, key, value, message
):
  tiny_config[section][key] = value
  with pytest.raises(ValueError, match=message) as error:
    loop.train(tiny_config, tmp_path)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("source", "tfrecord:nowhere", "nowhere is not a prepared data set"),
    ("sample_rate", 1000, "sample_rate 2000 .config: 1000."),
  ],
)
def test_what_is_wrong_with_the_data_is_known_before_anything_is_traced(
  toy_config, tmp_path, monkeypatch, key, value, message
):
  spec = AVSpec.from_config(toy_config.data)
  write_dataset(tmp_path / "set", spec, [spec.frames])
  toy_config.data.source = f"tfrecord:{tmp_path / 'set'}"
  toy_config.data[key] = value
  monkeypatch.setattr(loop, "build_program", None)
  with pytest.raises(ValueError, match=message):
    loop.train(toy_config, tmp_path / "run")


def test_a_changed_model_is_known_before_anything_is_traced(
  uninterrupted, toy_config, monkeypatch
):
  toy_config.model.features = 64
  monkeypatch.setattr(loop, "build_program", None)
  with pytest.raises(ValueError, match="model.features was 128"):
    loop.train(toy_config, uninterrupted[1])


def test_a_step_that_does_not_fit_is_not_started(
  toy_config, tmp_path, monkeypatch
):
  monkeypatch.setattr(memory, "available_host_bytes", lambda: 1000)
  with pytest.raises(memory.DoesNotFitError, match="step needs .*size .now 2"):
    loop.train(toy_config, tmp_path / "run")
  assert not (tmp_path / "run" / "metrics.jsonl").exists()
  toy_config.train.num_steps = 1
  assert loop.train(toy_config, tmp_path / "run", force=True).step == 1


def test_previews_are_in_tensorboard(toy_config, tmp_path):
  toy_config.train.update(
    num_steps=1, preview_every=1, preview_samples=2, preview_steps=2
  )
  loop.train(toy_config, tmp_path)
  (events,) = (tmp_path / "tensorboard").iterdir()
  kinds = {
    (value.tag, value.WhichOneof("value"))
    for record in read_records(events)
    for value in event_pb2.Event.FromString(record).summary.value
  }
  for i in range(2):
    assert (f"preview/sample_{i:02d}", "image") in kinds
    assert (f"sound/sample_{i:02d}", "audio") in kinds
  tags = [tag for tag, _ in kinds]
  assert len(tags) == len(set(tags))  # TensorBoard shows one kind of each.
  assert any(tag == "_hparams_/session_start_info" for tag, _ in kinds)


DEVICES = """
import sys
import jax, numpy as np, optax
from tests import conftest, toy
from mmdiff_jax.task import make_task
from mmdiff_jax.training import loop
config = (
  toy.make_toy_config() if sys.argv[4] == "toy" else conftest.make_tiny_config()
)
config.train.batch_size = 8
config.mesh.data, config.mesh.fsdp = int(sys.argv[2]), int(sys.argv[3])
start = make_task(config).init(
  jax.random.split(jax.random.key(config.seed))[0])
state = loop.train(config, sys.argv[1])
moments = optax.tree_utils.tree_get(state.opt_state, "mu")
flat = lambda tree: np.concatenate(
  [np.ravel(jax.device_get(x)) for x in jax.tree.leaves(tree)])
split = sum(not x.sharding.is_fully_replicated
            for x in jax.tree.leaves(state.params))
np.savez(sys.argv[1] + "/result.npz", devices=jax.device_count(), split=split,
         start=flat(start), params=flat(state.params), moments=flat(moments))
"""


def run_on_devices(workdir, network, count, data, fsdp):
  arguments = [str(workdir), str(data), str(fsdp), network]
  result = subprocess.run(
    [sys.executable, "-c", DEVICES, *arguments],
    cwd=ROOT,
    env=os.environ
    | {
      "PYTHONPATH": str(ROOT),
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
    },
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr[-3000:]
  values = np.load(workdir / "result.npz")
  assert values["devices"] == count
  assert (values["split"] > 0) == (fsdp > 1)
  return values


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
  """The folder of a network's run on one device."""

  @functools.cache
  def run(network):
    workdir = tmp_path_factory.mktemp(network)
    run_on_devices(workdir, network, 1, 1, 1)
    return workdir

  return run


@pytest.mark.parametrize(
  ("network", "data", "fsdp"),
  [("toy", 8, 1), ("toy", 1, 8), ("toy", 4, 2), ("av_unet", 4, 2)],
)
def test_eight_devices_train_as_one(one_device, tmp_path, network, data, fsdp):
  alone = one_device(network)
  eight = run_on_devices(tmp_path, network, 8, data, fsdp)
  one = np.load(alone / "result.npz")
  for ours, theirs in zip(log_of(tmp_path), log_of(alone), strict=True):
    for name, value in theirs.items():
      np.testing.assert_allclose(ours[name], value, rtol=2e-4, err_msg=name)

  def apart(name):
    return np.linalg.norm(eight[name] - one[name])

  assert apart("moments") < 1e-3 * np.linalg.norm(one["moments"])
  # Adam turns the rounding of gradients that are zero (of biases ahead of a
  # norm) into whole steps: what counts is the distance travelled by all.
  assert apart("params") < 0.05 * np.linalg.norm(one["params"] - one["start"])
