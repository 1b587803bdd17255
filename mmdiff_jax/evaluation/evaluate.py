"""Metrics of a set of generated clips against real ones, as a report.

`report.json` holds every figure with what makes it reproducible; `report.html`
beside it shows them with plots and players.
"""

import importlib.metadata
import logging
import os
import pathlib
import platform
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.convert import convert_checkpoint
from mmdiff_jax.convert.torch_file import load_torch_file
from mmdiff_jax.evaluation import extractors
from mmdiff_jax.evaluation import memorisation as memorisation_check
from mmdiff_jax.evaluation import metrics as metric_table
from mmdiff_jax.evaluation.clip_sets import ClipSet, file_sha256, open_clips
from mmdiff_jax.evaluation.features import FeatureStore, default_cache_dir
from mmdiff_jax.evaluation.report import page, sheet
from mmdiff_jax.metric_networks.audioclip import PROTOCOLS
from mmdiff_jax.metric_networks.i3d import MIN_FRAMES

_log = logging.getLogger(__name__)

# Audio that VGGish needs at least, in seconds.
_VGGISH_SECONDS = 0.975
_PACKAGES = ("mmdiff-jax", "jax", "jaxlib", "flax", "numpy", "scipy", "av")
RANDOM_STATEMENT = (
  "Figures named *_random come from an I3D with random weights of a fixed "
  "seed, figures named *_mel from log-mel statistics: they compare runs with "
  "each other, not with papers."
)

Source = str | os.PathLike | dict[str, np.ndarray]


def evaluate(
  *,
  real: Source,
  fake: Source,
  output: str | os.PathLike | None = None,
  protocol: str = "clean",
  metrics: Sequence[str] = (),
  memorisation: bool = False,
  weights_dir: str | os.PathLike | None = None,
  seed: int = 0,
  num_clips: int = metric_table.PAPER_CLIPS,
  spec: AVSpec | None = None,
  batch_size: int = 8,
  cache_dir: str | os.PathLike | None = "",
  progress: bool = True,
) -> dict[str, Any]:
  """Compares generated clips with real ones.

  Args:
    real: the real (training) clips: a folder of videos, a folder of prepared
      shards, an .npz file, or a dict of arrays; see `clips.open_clips`.
    fake: the generated clips, likewise.
    output: where report.json goes; report.html is written beside it, and with
      `memorisation` the sheets of closest pairs. None writes nothing.
    protocol: "paper" or "clean"; they differ in the scale of the audio that
      AudioCLIP gets.
    metrics: names of `metrics.METRICS` or groups; none means all that the
      weights at hand allow.
    memorisation: also look for training clips that samples copy.
    weights_dir: folder of the published weights; None means `weights` in the
      user's cache folder.
    seed: of the choice of clips, the shuffles and the error bars.
    num_clips: clips of each side, chosen at random where there are more.
    spec: geometry at which both sides are read; None means the paper's.
    batch_size: clips that a network sees at once (on all devices together).
    cache_dir: where features are kept; "" means the user's cache folder, None
      keeps nothing.
    progress: whether to show progress bars.

  Returns:
    The content of report.json.

  Raises:
    ValueError: on sets, names or weights that do not allow what is asked.
    FileNotFoundError: if a metric's weights are not there.
  """
  if protocol not in PROTOCOLS:
    raise ValueError(
      f"Unknown protocol {protocol!r}; allowed: {', '.join(PROTOCOLS)}."
    )
  if output is not None and pathlib.Path(output).suffix != ".json":
    raise ValueError(f"output must be a .json file, got {output}.")
  spec = spec or AVSpec()
  folder = default_cache_dir() / "weights"
  if weights_dir is not None:
    folder = pathlib.Path(weights_dir).expanduser()
  if cache_dir == "":
    cache_dir = default_cache_dir()
  found = extractors.find_weights(folder)
  chosen, notes = _choose_metrics(metrics, found, folder, spec)

  sides = {"real": open_clips(real, spec), "fake": open_clips(fake, spec)}
  for clips in sides.values():
    clips.select(num_clips, seed)
  needed = list(dict.fromkeys(f for m in chosen for f in m.features))
  video = "i3d" if "i3d" in found else "i3d_random"
  weights = _load_weights({*needed, *([video] if memorisation else [])}, found)
  store = FeatureStore(cache_dir, batch_size, progress)

  def extract(clips: ClipSet, names: list[str], label: str) -> dict:
    wanted = extractors.make_extractors(
      names,
      {kind: tree for kind, (tree, _) in weights.items()},
      {kind: info["sha256"] for kind, (_, info) in weights.items()},
      protocol,
      spec.sample_rate,
    )
    return store.extract(clips, wanted, label)

  features = {side: extract(sides[side], needed, side) for side in sides}
  entries, warnings = _measure(
    chosen, features, spec, seed, protocol, strict=bool(metrics)
  )
  content = {
    "protocol": protocol,
    "seed": seed,
    "spec": vars(spec) | {"duration": spec.duration},
    "metrics": entries,
    "warnings": warnings,
    "notes": notes,
    "real": _describe(sides["real"]),
    "fake": _describe(sides["fake"]),
    "weights": {kind: info for kind, (_, info) in weights.items()},
    "random_network_seed": extractors.RANDOM_SEED,
    "versions": _versions(),
    "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
  }
  copies = None
  if memorisation:
    training = open_clips(real, spec)
    copies = _find_copies(training, sides["fake"], extract, video, seed)
    content["memorisation"] = memorisation_check.summary(copies, video)
  if jax.process_index() == 0:
    print(page.as_text(content))
    if output is not None:
      page.write(output, content, sides, features)
    if output is not None and memorisation:
      sheet.write(output, copies, sides["fake"], training)
  return content


def _choose_metrics(
  names: Sequence[str],
  found: dict[str, pathlib.Path],
  folder: pathlib.Path,
  spec: AVSpec,
) -> tuple[list[metric_table.Metric], list[str]]:
  """The metrics to compute, and notes on what is left out or replaced."""
  notes = []
  if names:
    chosen = metric_table.resolve(list(names))
    for metric in chosen:
      for kind in metric.features:
        if kind in extractors.WEIGHT_FILES and kind not in found:
          raise FileNotFoundError(
            f"{metric.name}: {extractors.missing_weights(kind, folder)}"
          )
  else:
    wanted = ["fvd", "kvd", "prdc"]
    if "i3d" not in found:
      wanted = ["fvd_random", "kvd_random", "prdc_random"]
    wanted += ["fad", "kad"] if "audioclip" in found else []
    if "vggish" in found and spec.duration >= _VGGISH_SECONDS:
      wanted += ["fad_vggish", "kad_vggish"]
    chosen = metric_table.resolve([*wanted, "fad_mel", "kad_mel", "av_gap"])
    notes += [
      extractors.missing_weights(kind, folder)
      for kind in extractors.WEIGHT_FILES
      if kind not in found
    ]
  if any(m.name.endswith(("_random", "_mel")) for m in chosen):
    notes.insert(0, RANDOM_STATEMENT)
  if spec.frames < MIN_FRAMES and any("i3d" in m.features[0] for m in chosen):
    notes.append(
      f"I3D needs {MIN_FRAMES} frames: clips of {spec.frames} were repeated."
    )
  return chosen, notes


def _load_weights(
  features: set[str], found: dict[str, pathlib.Path]
) -> dict[str, tuple[Any, dict]]:
  """Variables of the networks that are needed, and what the report says."""
  out = {}
  for kind in extractors.WEIGHT_FILES:
    if kind not in features:
      continue
    path = found[kind]
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
    out[kind] = (convert_checkpoint(state_dict, kind), info)
  return out


def _measure(
  chosen: list[metric_table.Metric],
  features: dict[str, metric_table.Features],
  spec: AVSpec,
  seed: int,
  protocol: str,
  strict: bool,
) -> tuple[dict[str, dict], list[str]]:
  """All entries; without `strict` a metric that cannot be had is a warning."""
  entries, left_out = {}, []
  # Metrics of one kind share their warnings.
  warned: dict[str, list[str]] = {}
  for metric in chosen:
    try:
      entry = metric_table.compute(
        metric, features["real"], features["fake"], spec.fps, seed
      )
    except ValueError as error:
      if strict:
        raise
      left_out.append(f"{metric.name} left out: {error}")
      continue
    entries[metric.name] = entry
    width = features["real"][metric.features[0]].shape[-1]
    for text in metric_table.warnings(metric, entry, width, protocol):
      warned.setdefault(text, []).append(metric.name)
  grouped = [f"{', '.join(names)}: {text}" for text, names in warned.items()]
  return entries, left_out + grouped


def _find_copies(
  training: ClipSet, fake: ClipSet, extract, video: str, seed: int
) -> dict[str, memorisation_check.Space]:
  """Compares the samples with all windows of the training clips."""
  names = ["thumbnails", "mel_picture", video]
  _, sources = np.unique(
    [clip.source for clip in training.ids], return_inverse=True
  )
  return memorisation_check.compare_clips(
    extract(fake, [*names, f"{video}_mirrored"], "samples"),
    extract(training, names, "training"),
    sources,
    video,
    seed,
  )


def _describe(clips: ClipSet) -> dict[str, Any]:
  """Which clips were used."""
  return {
    "source": clips.name,
    "available": clips.available,
    "used": len(clips),
    "clips": [str(clip) for clip in clips.ids],
    "skipped": [list(item) for item in clips.skipped],
  }


def _versions() -> dict[str, str]:
  versions = {"python": platform.python_version()}
  for package in _PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      versions[package] = "not installed as a package"
  versions["device"] = jax.devices()[0].device_kind
  return versions
