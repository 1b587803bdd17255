"""Where the published weights of the metrics' networks go.

Submodules of our networks carry the published names, so that the targets
follow from the shapes of our variables.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from mmdiff_jax.convert.targets import (
  Conversion,
  Target,
  kernel,
  tree_shapes,
  vector,
)
from mmdiff_jax.metric_networks import audioclip, i3d, panns, vggish

_COUNTER = r".*num_batches_tracked"
_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "mean": "running_mean",
  "var": "running_var",
}


def _conversion(
  abstract: dict[str, Any],
  publish: Callable[[str], str],
  dropped: Mapping[str, str],
) -> Conversion:
  """Derives each variable's published key from its path in our tree."""
  shapes = tree_shapes(abstract)
  targets = {}
  for path in shapes:
    _, *modules, leaf = path.split("/")
    key = publish(".".join([*modules, _LEAVES.get(leaf, leaf)]))
    targets[key] = Target(path, kernel if leaf == "kernel" else vector)
  return Conversion(targets, shapes, dropped)


def _publish_i3d(key: str) -> str:
  return re.sub(r"^logits\.", "logits.conv3d.", key)


def _publish_audioclip(key: str) -> str:
  key = key.replace("fbsp.window", "window")
  return "audio." + re.sub(r"(layer\d|downsample)_(\d)", r"\1.\2", key)


def _publish_vggish(key: str) -> str:
  return re.sub(r"^(features|embeddings)_(\d+)", r"\1.\2", key)


def make_conversion(
  kind: str, model_config: Mapping[str, Any] | None = None
) -> Conversion:
  """Targets of the published weights of I3D, AudioCLIP, VGGish or PANNs.

  Args:
    kind: "i3d", "audioclip", "vggish" or "panns".
    model_config: must be None or empty, these networks have one form.

  Returns:
    The conversion.

  Raises:
    ValueError: if a model configuration is given.
  """
  if model_config:
    raise ValueError(f"kind={kind!r} takes no model_config: it has one form.")
  if kind == "i3d":
    return _conversion(
      i3d.abstract_variables(),
      _publish_i3d,
      {_COUNTER: "counters of training batches"},
    )
  if kind == "audioclip":
    return _conversion(
      audioclip.abstract_variables(),
      _publish_audioclip,
      {
        _COUNTER: "counters of training batches",
        r"audio\.fbsp\.bias": "empty: the layer was built without a bias",
        r"(visual|transformer|token_embedding|ln_final)\..*"
        r"|positional_embedding|text_projection|logit_scale.*": (
          "AudioCLIP's image and text towers"
        ),
      },
    )
  if kind == "panns":
    return _conversion(
      panns.abstract_variables(),
      lambda key: key,
      {
        _COUNTER: "counters of training batches",
        r"spectrogram_extractor\..*": "the Fourier transform, as convolutions",
        r"fc_audioset\..*": "the classifier",
      },
    )
  return _conversion(
    vggish.abstract_variables(),
    _publish_vggish,
    {r"pproc\..*": "PCA post-processing, which FAD does not use"},
  )
