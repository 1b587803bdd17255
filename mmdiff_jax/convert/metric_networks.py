"""Published weights of the metrics' networks (PyTorch keys) -> our trees."""

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mmdiff_jax.evaluation import audioclip, i3d, vggish

StateDict = dict[str, np.ndarray]

# Published name of a leaf -> (our collection, our name) by its rank: one
# BatchNorm weight is a vector, every convolution or Linear weight is not.
_VECTOR_LEAVES = {
  "weight": ("params", "scale"),
  "bias": ("params", "bias"),
  "running_mean": ("batch_stats", "mean"),
  "running_var": ("batch_stats", "var"),
}


def _transpose(weight: np.ndarray) -> np.ndarray:
  """PyTorch's (out, in, spatial...) -> (spatial..., in, out)."""
  return np.moveaxis(weight, (0, 1), (-1, -2))


def _convert(
  state_dict: StateDict, rename: Callable[[str], str], abstract: dict[str, Any]
) -> dict[str, Any]:
  """Places every array, then compares the tree with what the network has."""
  flat = {}
  for key, value in state_dict.items():
    if key.endswith("num_batches_tracked"):
      continue
    module, _, leaf = rename(key).rpartition(".")
    value = np.asarray(value)
    if leaf == "weight" and value.ndim > 1:
      place, value = ("params", "kernel"), _transpose(value)
    else:
      place = _VECTOR_LEAVES.get(leaf, ("params", leaf))
    path = (place[0], *(module.split(".") if module else ()), place[1])
    flat[path] = (key, value.astype(np.float32))
  return _matched_tree(flat, abstract)


def _matched_tree(
  flat: dict[tuple[str, ...], tuple[str, np.ndarray]], abstract: dict[str, Any]
) -> dict[str, Any]:
  """Builds the tree of `abstract` from `flat`, strict on both sides."""
  wanted = {
    tuple(entry.key for entry in path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract)
  }
  problems = [f"no place for {flat[p][0]}" for p in flat if p not in wanted]
  problems += [f"missing {'/'.join(p)}" for p in wanted if p not in flat]
  problems += [
    f"{flat[p][0]} has shape {flat[p][1].shape}, {'/'.join(p)} is {leaf.shape}"
    for p, leaf in wanted.items()
    if p in flat and flat[p][1].shape != leaf.shape
  ]
  if problems:
    shown = "; ".join(problems[:20])
    more = f"; and {len(problems) - 20} more" if len(problems) > 20 else ""
    raise ValueError(f"The checkpoint does not fit the network: {shown}{more}.")
  tree: dict[str, Any] = {}
  for path in wanted:
    node = tree
    for name in path[:-1]:
      node = node.setdefault(name, {})
    node[path[-1]] = flat[path][1]
  return tree


def convert_i3d(state_dict: StateDict) -> dict[str, Any]:
  """Weights of `i3d_pretrained_400.pt` -> variables of `I3D`.

  Raises:
    ValueError: that lists every key or shape that does not fit.
  """
  return _convert(
    state_dict,
    lambda key: key.replace("logits.conv3d.", "logits."),
    i3d.abstract_variables(),
  )


# What AudioCLIP-Full-Training.pt holds beside its audio network: CLIP's image
# and text towers and the temperatures.
_AUDIOCLIP_OTHERS = (
  "visual.",
  "transformer.",
  "token_embedding.",
  "positional_embedding",
  "ln_final.",
  "text_projection",
  "logit_scale",
)


def convert_audioclip(state_dict: StateDict) -> dict[str, Any]:
  """Weights of `AudioCLIP-Full-Training.pt` -> variables of `AudioCLIP`.

  Takes the whole checkpoint (image and text towers are left aside by name),
  or the audio network's keys with or without their leading "audio.".

  Raises:
    ValueError: that lists every key or shape that does not fit.
  """
  audio = {
    key.removeprefix("audio."): value
    for key, value in state_dict.items()
    if not key.startswith(_AUDIOCLIP_OTHERS)
  }
  # An empty tensor: the published FBSP layer was built without a bias.
  if np.size(audio.get("fbsp.bias", 1)) == 0:
    del audio["fbsp.bias"]

  def rename(key: str) -> str:
    key = re.sub(r"^window$", "fbsp.window", key)
    key = re.sub(r"^(layer\d)\.(\d)\.", r"\1_\2.", key)
    return re.sub(r"downsample\.(\d)", r"downsample_\1", key)

  return _convert(audio, rename, audioclip.abstract_variables())


def convert_vggish(state_dict: StateDict) -> dict[str, Any]:
  """Weights of the PyTorch port of VGGish -> variables of `VGGish`.

  Raises:
    ValueError: that lists every key or shape that does not fit.
  """
  # Some copies of the file carry the PCA post-processor; it is not used.
  weights = {
    key: value
    for key, value in state_dict.items()
    if not key.startswith("pproc.")
  }

  def rename(key: str) -> str:
    return re.sub(r"^(features|embeddings)\.(\d+)\.", r"\1_\2.", key)

  return _convert(weights, rename, vggish.abstract_variables())


CONVERTERS: dict[str, Callable[[StateDict], dict[str, Any]]] = {
  "i3d": convert_i3d,
  "audioclip": convert_audioclip,
  "vggish": convert_vggish,
}
