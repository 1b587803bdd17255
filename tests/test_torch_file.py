import sys
import types

import numpy as np
import pytest

from mmdiff_jax.convert.torch_file import load_torch_file


class Tensor:
  """What the reader asks of a torch tensor."""

  def __init__(self, array):
    self.array = np.asarray(array)

  def detach(self):
    return self

  def cpu(self):
    return self

  def is_floating_point(self):
    return self.array.dtype.kind == "f"

  def float(self):
    return Tensor(self.array.astype(np.float32))

  def numpy(self):
    return self.array


@pytest.fixture
def weight_file(tmp_path):
  path = tmp_path / "weights.pt"
  path.write_bytes(b"content")
  return path


@pytest.fixture
def fake_torch(monkeypatch):
  """Stands in for PyTorch, and insists on the safe way of loading."""
  module = types.ModuleType("torch")
  module.content = None

  def load(path, map_location, weights_only):
    assert weights_only is True and map_location == "cpu"
    if isinstance(module.content, Exception):
      raise module.content
    return module.content

  module.load = load
  monkeypatch.setitem(sys.modules, "torch", module)
  return module


def test_tensors_become_numpy_and_half_precision_single(
  weight_file, fake_torch
):
  fake_torch.content = {
    "a.weight": Tensor(np.ones((2, 3), np.float16)),
    "count": Tensor(np.array(7)),
  }
  out = load_torch_file(weight_file)
  assert out["a.weight"].dtype == np.float32
  assert out["count"] == 7


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_nested_state_dict_is_found(weight_file, fake_torch, key):
  fake_torch.content = {key: {"w": Tensor([1.0])}, "epoch": 3}
  assert list(load_torch_file(weight_file)) == ["w"]


@pytest.mark.parametrize(
  "content, message",
  [
    (
      RuntimeError("Weights only load failed\nmore"),
      "not a plain PyTorch weight file .RuntimeError.",
    ),
    ([1, 2], "holds a list"),
    ({}, "holds a dict"),
    ({"w": Tensor([1.0]), "epoch": 3}, "no tensors: .'epoch'."),
  ],
)
def test_what_is_no_state_dict_is_refused(
  weight_file, fake_torch, content, message
):
  fake_torch.content = content
  with pytest.raises(ValueError, match=message) as error:
    load_torch_file(weight_file)
  assert "\n" not in str(error.value)


def test_missing_torch_names_the_extra(weight_file, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(ImportError, match=r"mmdiff-jax\[torch\]"):
    load_torch_file(weight_file)


def test_missing_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="none.pt"):
    load_torch_file(tmp_path / "none.pt")
