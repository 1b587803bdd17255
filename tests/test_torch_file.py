import sys
import types
import zipfile

import numpy as np
import pytest

from mmdiff_jax.convert.torch_file import load_torch_file


class Tensor:
  """What the reader asks of a torch tensor."""

  layout = "torch.strided"
  is_quantized = is_meta = is_nested = False

  def __init__(self, array, **properties):
    self.array = np.asarray(array)
    self.__dict__.update(properties)

  def numel(self):
    return self.array.size

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
  path.write_bytes(b"content " * 100)
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


W, V = Tensor([1.0]), Tensor([2.0])


@pytest.mark.parametrize(
  ("content", "expected"),
  [
    ({"a.w": W}, 1),
    ({"state_dict": {"a.w": W}, "epoch": 3}, 1),
    ({"model": {"a.w": W}, "step": 3}, 1),
    ({"module.a.w": W}, 1),
    ({"state_dict": {"model.a.w": W}, "callbacks": {}}, 1),
    ({"state_dict": {"model.module.a.w": W}}, 1),
    ({"model": {"a.w": W}, "ema": {"a.w": V}}, 2),
    ({"state_dict": {"a.w": W}, "state_dict_ema": {"module.a.w": V}}, 2),
    ({"ema": {"initted": 1, "ema_model.a.w": V, "online_model.a.w": W}}, 2),
    ({"state_dict": {"model.a.w": W, "ema_model.a.w": V}}, 2),
  ],
)
def test_wrappers_are_understood_and_averages_preferred(
  weight_file, fake_torch, content, expected, caplog
):
  fake_torch.content = content
  with caplog.at_level("INFO", "mmdiff_jax"):
    assert load_torch_file(weight_file) == {"a.w": [expected]}
  if "a.w" not in content:
    assert "the weights are those of" in caplog.text
  if expected == 2:
    assert "ema" in caplog.text


@pytest.mark.parametrize(
  ("properties", "words"),
  [
    ({"layout": "torch.sparse_coo"}, "w is sparse"),
    ({"is_nested": True}, "w is nested"),
    ({"is_quantized": True}, "w is quantised"),
    ({"is_meta": True}, "w has no data"),
    ({"numel": lambda: 10**12}, "w has 1,000,000,000,000 elements"),
  ],
)
def test_tensors_that_are_no_plain_arrays_are_one_line(
  weight_file, fake_torch, properties, words
):
  fake_torch.content = {"v": W, "w": Tensor([1.0], **properties)}
  with pytest.raises(ValueError, match=f"weights.pt: {words}") as error:
    load_torch_file(weight_file)
  assert "\n" not in str(error.value)


def test_a_damaged_member_of_an_archive_is_named(tmp_path, fake_torch):
  path = tmp_path / "weights.pt"
  fake_torch.content = {"w": W}
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", "names")
    archive.writestr("archive/data/0", b"0123456789" * 100)
  assert load_torch_file(path) == {"w": [1]}
  content = path.read_bytes()
  damaged = bytearray(content)
  damaged[content.index(b"0123456789") + 500] ^= 1
  path.write_bytes(damaged)
  with pytest.raises(ValueError, match="is damaged: archive/data/0 is not"):
    load_torch_file(path)
  path.write_bytes(content[:-30])
  fake_torch.content = RuntimeError("failed finding central directory")
  with pytest.raises(ValueError, match="not a plain PyTorch weight file"):
    load_torch_file(path)


@pytest.mark.parametrize(
  "content, message",
  [
    (
      RuntimeError("Weights only load failed\nmore"),
      "not a plain PyTorch weight file .RuntimeError.",
    ),
    ([1, 2], "holds a list"),
    ({}, "holds a dict"),
    ({"w": Tensor([1.0]), "epoch": 3}, "not tensors: .'epoch'."),
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
  with pytest.raises(ImportError, match=r"pip install torch"):
    load_torch_file(weight_file)


def test_missing_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="none.pt"):
    load_torch_file(tmp_path / "none.pt")
