"""The networks of the metrics: which weights are there, what they allow."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.convert import convert_checkpoint
from mmdiff_jax.convert.torch_file import load_torch_file
from mmdiff_jax.evaluation import extractors
from mmdiff_jax.evaluation import metrics as metric_table
from mmdiff_jax.evaluation.clip_sets import ClipSet
from mmdiff_jax.evaluation.features import FeatureStore, default_cache_dir
from mmdiff_jax.files import file_sha256
from mmdiff_jax.metric_networks.i3d import MIN_FRAMES

# Audio that VGGish needs at least, in seconds.
_VGGISH_SECONDS = 0.975
RANDOM_STATEMENT = (
  "Figures named *_random come from an I3D with random weights of a fixed "
  "seed, figures named *_mel from log-mel statistics: they compare runs with "
  "each other, not with papers."
)


class Network(NamedTuple):
  """A network's variables, and what the report says of their file."""

  variables: Any
  info: dict[str, Any]


class Weights:
  """The weight files of a folder.

  Attributes:
    folder: where they are looked for.
    files: those that are there, by kind.
  """

  def __init__(self, folder: str | os.PathLike | None = None):
    """Looks for the files; None means `weights` in the user's cache folder."""
    self.folder = default_cache_dir() / "weights"
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
        for kind in metric.features:
          if kind in extractors.WEIGHT_FILES and kind not in self.files:
            raise FileNotFoundError(
              f"{metric.name}: {extractors.missing_weights(kind, self.folder)}"
            )
    else:
      wanted = ["fvd", "kvd", "prdc"]
      if "i3d" not in self.files:
        wanted = ["fvd_random", "kvd_random", "prdc_random"]
      wanted += ["fad", "kad"] if "audioclip" in self.files else []
      if "vggish" in self.files and spec.duration >= _VGGISH_SECONDS:
        wanted += ["fad_vggish", "kad_vggish"]
      chosen = metric_table.resolve([*wanted, "fad_mel", "kad_mel", "av_gap"])
      notes += [
        extractors.missing_weights(kind, self.folder)
        for kind in extractors.WEIGHT_FILES
        if kind not in self.files
      ]
    if any(m.name.endswith(("_random", "_mel")) for m in chosen):
      notes.insert(0, RANDOM_STATEMENT)
    if spec.frames < MIN_FRAMES and any("i3d" in m.features[0] for m in chosen):
      notes.append(
        f"I3D needs {MIN_FRAMES} frames: clips of {spec.frames} were repeated."
      )
    return chosen, notes

  def load(self, features: set[str]) -> dict[str, Network]:
    """The networks that these features need, by kind."""
    out: dict[str, Network] = {}
    for kind in extractors.WEIGHT_FILES:
      if kind not in features:
        continue
      path = self.files[kind]
      if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
          state_dict = dict(arrays)
      else:
        state_dict = load_torch_file(path)
      info = {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
      }
      out[kind] = Network(convert_checkpoint(state_dict, kind), info)
    return out


@dataclasses.dataclass(frozen=True)
class Embedder:
  """Features of sets of clips by name; what they depend on is the same.

  Attributes:
    store: computes and keeps them.
    networks: by kind.
    protocol: "paper" or "clean".
    sample_rate: of the clips' audio.
  """

  store: FeatureStore
  networks: Mapping[str, Network]
  protocol: str
  sample_rate: int

  def __call__(
    self, clips: ClipSet, names: list[str], label: str
  ) -> metric_table.Features:
    """`{name: [N, ...]}` of a set; `label` is of the progress bar."""
    wanted = extractors.make_extractors(
      names,
      {kind: network.variables for kind, network in self.networks.items()},
      {kind: network.info["sha256"] for kind, network in self.networks.items()},
      self.protocol,
      self.sample_rate,
    )
    return self.store.extract(clips, wanted, label)
