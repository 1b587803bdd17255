"""Optimiser, metrics and train step, on a network of a few parameters."""

import dataclasses
import io
import resource
import wave

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from tensorboardX.proto import event_pb2
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from configs import default
from mmdiff_jax import models
from mmdiff_jax.data.tfrecord import read_records
from mmdiff_jax.devices.mesh import make_mesh
from mmdiff_jax.diffusion import create_timestep_sampler
from mmdiff_jax.task import make_task
from mmdiff_jax.training import divergence, metrics
from mmdiff_jax.training.optimizer import (
  create_optimizer,
  learning_rate_schedule,
)
from mmdiff_jax.training.shown import Shown
from mmdiff_jax.training.state import state_initializer
from mmdiff_jax.training.step import make_train_step


class Toy(nn.Module):
  """Scales each modality by a learned number, and knows t."""

  @nn.compact
  def __call__(self, video, audio, t, train=False):
    scale = {
      name: self.param(f"{name}_scale", nn.initializers.ones, (1,))
      for name in ("video", "audio")
    }
    shared = self.param("shift", nn.initializers.zeros, (1,))
    when = t.astype(jnp.float32) / 1000
    return (
      scale["video"] * video + shared * when[:, None, None, None, None],
      scale["audio"] * audio + shared * when[:, None, None],
    )


def make_batch(size=8):
  rng = np.random.default_rng(0)
  return {
    "video": rng.integers(0, 256, (size, 2, 4, 4, 3)).astype(np.uint8),
    "audio": rng.uniform(-1, 1, (size, 16, 1)).astype(np.float32),
  }


class ToyNetwork(models.Network):
  """Two small streams."""

  module_cls = Toy

  def declare(self, config):
    del config
    return {
      "video": models.Leaf((2, 4, 4, 3), jnp.uint8),
      "audio": models.Leaf((16, 1), jnp.float32),
    }, {}

  def smallest(self):
    return self.declare(None)

  def __call__(self, module, x, t, inputs, train):
    del inputs
    video, audio = module(x["video"], x["audio"], t, train)
    return {"video": video, "audio": audio}


def build(**train):
  config = default.get_config()
  config.train.update(learning_rate=0.1, ema_decay=0.75, **train)
  task = dataclasses.replace(make_task(config), network=ToyNetwork(Toy()))
  x, _ = task.network.declare(config)
  task = dataclasses.replace(task, x=x)
  timesteps = create_timestep_sampler("uniform", task.process)
  optimizer = create_optimizer(config.train)
  init = state_initializer(task.init, optimizer, timesteps.init)
  step = make_train_step(
    task,
    config,
    optimizer,
    timesteps,
    make_mesh(),
    jax.random.key(1),
  )
  return init(jax.random.key(0)), jax.jit(step), make_batch()


def test_microbatches_change_nothing_but_memory():
  results = []
  for microbatches in (1, 4):
    state, step, batch = build(microbatches=microbatches)
    state, out = step(state, batch)
    results.append((state, metrics.compute(out["averages"])))
  (a, metrics_a), (b, metrics_b) = results
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), a, b)
  assert metrics_a.keys() == metrics_b.keys()
  for name, value in metrics_a.items():
    np.testing.assert_allclose(metrics_b[name], value, rtol=1e-4)


def test_step_is_adam_and_ema_by_hand():
  state, step, batch = build()
  new, _ = step(state, batch)
  # The first step of Adam moves every parameter by the learning rate.
  moved = jax.tree.map(lambda a, b: abs(a - b), new.params, state.params)
  jax.tree.map(lambda m: np.testing.assert_allclose(m, 0.1, rtol=1e-4), moved)
  jax.tree.map(
    lambda e, old, p: np.testing.assert_allclose(
      e, 0.75 * old + 0.25 * p, rtol=1e-6
    ),
    new.ema_params,
    state.params,
    new.params,
  )
  assert int(new.step) == 1


def test_randomness_depends_on_the_step_alone():
  state, step, batch = build()
  _, first = step(state, batch)
  _, again = step(state, batch)
  later = state.replace(step=state.step + 1)
  _, other = step(later, batch)
  first, again, other = (
    metrics.compute(out["averages"]) for out in (first, again, other)
  )
  assert first == again
  assert first["loss"] != other["loss"]


def test_modality_losses_and_weights_add_up():
  _, step, batch = build(video_loss_weight=2.0, audio_loss_weight=0.5)
  state, _, _ = build()
  values = metrics.compute(step(state, batch)[1]["averages"])
  total = 2.0 * values["video_mse"] + 0.5 * values["audio_mse"]
  np.testing.assert_allclose(values["loss"], total, rtol=1e-5)


def test_quarters_average_the_losses_of_their_steps():
  t = jnp.array([0, 249, 250, 999])
  losses = jnp.array([1.0, 3.0, 5.0, 7.0])
  quarters = metrics.quarter_averages(losses, t, 1000)
  computed = metrics.compute(quarters)
  assert computed == {"loss_q1": 2.0, "loss_q2": 5.0, "loss_q4": 7.0}


def test_gradient_norms_belong_to_their_modality():
  state, step, batch = build()
  batch = batch | {"audio": np.full_like(batch["audio"], np.nan)}
  _, out = step(state, batch)
  bad = {k for k, v in out["nonfinite"].items() if v != metrics.NEVER}
  assert bad == {
    "loss",
    "audio_mse",
    "grad_norm_audio",
    "grad_norm_shared",
    # The sum of both losses is what is differentiated; the video's own
    # gradient stays finite.
  }


def test_a_skipped_update_changes_nothing_but_the_step_number():
  state, step, batch = build(on_nonfinite="skip", gradient_clip=1.0)
  state, _ = step(state, batch)
  bad = batch | {"audio": np.full_like(batch["audio"], np.nan)}
  kept, out = step(state, bad)
  jax.tree.map(
    np.testing.assert_array_equal, kept, state.replace(step=state.step + 1)
  )
  assert not out["finite"]
  # What is dropped counts in no average and ends no run.
  assert metrics.compute(out["averages"]) == {}
  assert set(map(int, out["nonfinite"].values())) == {metrics.NEVER}
  moved, out = step(kept, batch)
  assert out["finite"]
  assert any(
    (a != b).any()
    for a, b in zip(
      jax.tree.leaves(moved.params), jax.tree.leaves(kept.params), strict=True
    )
  )


def test_skipped_updates_are_counted_and_too_many_in_a_row_end_the_run():
  skipped = divergence.Skipped(limit=3)
  for step, finite in enumerate([True, False, False, True, False, False], 1):
    skipped.add(step, jnp.asarray(finite))
  assert skipped.take() == {"skipped_updates": 4.0}
  assert skipped.take() == {"skipped_updates": 0.0}
  skipped.add(7, jnp.asarray(False))
  with pytest.raises(
    divergence.NonFiniteLossError, match="Step 7: the last 3 updates.*max_skip"
  ):
    skipped.take()


def test_merged_metrics_average_over_both():
  a = {
    "averages": {"x": metrics.average(jnp.array([1.0, 2.0]))},
    "nonfinite": {"x": jnp.int32(metrics.NEVER)},
  }
  b = {
    "averages": {"x": metrics.average(jnp.array([6.0]))},
    "nonfinite": {"x": jnp.int32(7)},
  }
  merged = metrics.merge(a, b)
  assert metrics.compute(merged["averages"]) == {"x": 3.0}
  assert int(merged["nonfinite"]["x"]) == 7
  empty = metrics.empty_like(a)
  assert metrics.compute(metrics.merge(empty, a)["averages"]) == {"x": 1.5}


@pytest.mark.parametrize(
  ("anneal", "expected"),
  [("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)],
)
def test_learning_rate_warms_up_then_anneals(anneal, expected):
  train = default.get_config().train
  train.update(learning_rate=1.0, warmup_steps=4, num_steps=104, anneal=anneal)
  rate = learning_rate_schedule(train)
  np.testing.assert_allclose(
    [rate(i) for i in range(5)], [0.25, 0.5, 0.75, 1.0, 1.0], rtol=1e-6
  )
  np.testing.assert_allclose(rate(54), expected, rtol=1e-6)


def test_unknown_anneal_is_an_error():
  train = default.get_config().train
  train.anneal = "exponential"
  with pytest.raises(ValueError, match="anneal='exponential'.*cosine"):
    create_optimizer(train)


def test_gradients_are_clipped_to_their_global_norm():
  train = default.get_config().train
  train.update(gradient_clip=1.0, learning_rate=1.0)
  optimizer = create_optimizer(train)
  params = {"w": jnp.zeros(2)}
  _, state = optimizer.update(
    {"w": jnp.array([30.0, 40.0])}, optimizer.init(params), params
  )
  mu = optax.tree_utils.tree_get(state, "mu")["w"]
  np.testing.assert_allclose(mu, 0.1 * np.array([0.6, 0.8]), rtol=1e-6)


def test_log_is_cut_back_to_the_step_that_is_resumed(tmp_path):
  writer = metrics.MetricWriter(tmp_path, first_step=0)
  for step in (1, 2, 3):
    writer.write(step, {"loss": step / 2})
  writer.close()
  # An interruption may leave half a line.
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 4, "lo')
  writer = metrics.MetricWriter(tmp_path, first_step=2)
  writer.write(3, {"loss": 9.0})
  writer.close()
  records = metrics.read_jsonl(tmp_path / "metrics.jsonl")
  assert [(r["step"], r["loss"]) for r in records] == [
    (1, 0.5), (2, 1.0), (3, 9.0)
  ]  # fmt: skip


def events(folder):
  """All values of TensorBoard's files, `(step, value)` by tag."""
  found = {}
  for path in sorted((folder / "tensorboard").iterdir()):
    for record in read_records(path):
      event = event_pb2.Event.FromString(record)
      for value in event.summary.value:
        found.setdefault(value.tag, []).append((event.step, value))
  return found


def test_tensorboard_has_settings_pictures_and_sounds(tmp_path):
  picture = np.zeros((6, 9, 3), np.uint8)
  picture[:, :4] = (250, 10, 90)
  sound = np.sin(np.arange(800) / 9)[:, None] / 2
  writer = metrics.MetricWriter(tmp_path, first_step=0)
  writer.write_settings({"train.steps": 3, "model.mult": (1, 2), "none": None})
  writer.write(5, {"heldout_loss": 0.25})
  writer.show(7, Shown({}, {"preview/a": picture}, {"preview/b": sound}, 2000))
  writer.close()
  found = events(tmp_path)
  ((step, value),) = found["preview/a"]
  image = Image.open(io.BytesIO(value.image.encoded_image_string))
  np.testing.assert_array_equal(np.asarray(image), picture)
  assert step == 7
  ((step, value),) = found["preview/b"]
  with wave.open(io.BytesIO(value.audio.encoded_audio_string)) as file:
    heard = np.frombuffer(file.readframes(800), np.int16) / 32768
    assert file.getframerate() == 2000
  np.testing.assert_allclose(heard, sound[:, 0], atol=1e-4)
  assert [s for s, _ in found["heldout_loss"]] == [5]
  ((_, value),) = found["_hparams_/session_start_info"]
  content = value.metadata.plugin_data.content
  told = HParamsPluginData.FromString(content).session_start_info.hparams
  assert told["train.steps"].number_value == 3
  assert told["model.mult"].string_value == "(1, 2)"
  assert set(told) == {"train.steps", "model.mult"}


@pytest.mark.parametrize("name", ["tensorboard", metrics.LOG])
def test_a_log_that_cannot_be_written_is_named(tmp_path, name):
  writer = metrics.MetricWriter(tmp_path, first_step=0)
  # What is largest finds no room first.
  writer.show(1, Shown({}, {"a": np.zeros((9, 9, 3), np.uint8)}, {}, 2000))
  scalar = "a" * 5000 if name == metrics.LOG else "a"
  writer.flush()
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  files = [p for p in tmp_path.rglob("*") if p.is_file()]
  room = max(p.stat().st_size for p in files)
  try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    with pytest.raises(OSError, match="File too large") as failed:
      for step in range(1000):
        writer.write(step, {scalar: 1.0})
        writer.flush()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert failed.value.filename == str(tmp_path / name)
