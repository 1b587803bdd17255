"""The log of a run: its lines, and what TensorBoard shows."""

import io
import resource
import wave

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto import event_pb2
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from mmdiff_jax.data.tfrecord import read_records
from mmdiff_jax.training import metrics
from mmdiff_jax.training.shown import Shown


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
