"""Metrics of a set of generated clips against real ones, as a report.

`report.json` holds every figure with what makes it reproducible; `report.html`
beside it shows them with plots and players.
"""

import functools
import importlib.metadata
import os
import pathlib
import platform
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.sources import Name
from mmdiff_jax.evaluation import extractors
from mmdiff_jax.evaluation import memorisation as memorisation_check
from mmdiff_jax.evaluation import metrics as metric_table
from mmdiff_jax.evaluation.clip_sets import ClipSet, open_clips
from mmdiff_jax.evaluation.features import FeatureStore, default_cache_dir
from mmdiff_jax.evaluation.report import page, sheet
from mmdiff_jax.evaluation.weights import Embedder, Weights
from mmdiff_jax.metric_networks.audioclip import PROTOCOLS

_PACKAGES = ("mmdiff-jax", "jax", "jaxlib", "flax", "numpy", "scipy", "av")


def evaluate(
  *,
  real: Name,
  fake: Name,
  output: str | os.PathLike | None = None,
  protocol: str = "clean",
  metrics: Sequence[str] = (),
  memorisation: bool = False,
  weights_dir: str | os.PathLike | None = None,
  seed: int = 0,
  num_clips: int = metric_table.PAPER_CLIPS,
  spec: AVSpec | None = None,
  split: str | None = None,
  holdout_fraction: float = 0.0,
  tfds_dir: str = "",
  synthetic_clips: int = 4096,
  batch_size: int = 8,
  cache_dir: str | os.PathLike | None = "",
  progress: bool = True,
) -> dict[str, Any]:
  """Compares generated clips with real ones.

  Args:
    real: the real clips: a source as training takes it, or a dict of arrays;
      see `data.sources.open_source`.
    fake: the generated clips, likewise.
    output: where report.json goes; report.html is written beside it, and with
      `memorisation` the sheets of closest pairs. None writes nothing.
    protocol: "paper" or "clean"; they differ in the scale of the audio that
      AudioCLIP gets.
    metrics: names of `metrics.METRICS` or groups; none means all that the
      weights at hand allow.
    memorisation: also look for training clips that samples copy, among the
      real videos that training did not hold out.
    weights_dir: folder of the published weights; None means `weights` in the
      user's cache folder.
    seed: of the choice of clips, the shuffles and the error bars.
    num_clips: clips of each side, chosen at random where there are more.
    spec: geometry at which both sides are read; None means the paper's.
    split: which of the real videos to compare with: "train", "heldout" or
      "all"; None means those held out, or all where none are.
    holdout_fraction: share of the real videos that training held out.
    tfds_dir: see `data.sources.SourceOptions`.
    synthetic_clips: see `data.sources.SourceOptions`.
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
  _check_arguments(protocol, output, split, holdout_fraction)
  spec = spec or AVSpec()
  weights = Weights(weights_dir)
  chosen, notes = weights.choose_metrics(metrics, spec)

  open_side = functools.partial(
    open_clips,
    spec=spec,
    holdout_fraction=holdout_fraction,
    tfds_dir=tfds_dir,
    synthetic_clips=synthetic_clips,
  )
  held_out = holdout_fraction > 0
  split = split or ("heldout" if held_out else "all")
  sides = {"real": open_side(real, split=split), "fake": open_side(fake)}
  for clips in sides.values():
    clips.select(num_clips, seed)
  needed = list(dict.fromkeys(f for m in chosen for f in m.features))
  video = "i3d" if "i3d" in weights.files else "i3d_random"
  networks = weights.load({*needed, *([video] if memorisation else [])})
  if cache_dir == "":
    cache_dir = default_cache_dir()
  store = FeatureStore(cache_dir, batch_size, progress)
  embed = Embedder(store, networks, protocol, spec.sample_rate)
  features = {side: embed(sides[side], needed, side) for side in sides}
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
    "holdout_fraction": holdout_fraction,
    "real": _describe(sides["real"]),
    "fake": _describe(sides["fake"]),
    "weights": {kind: network.info for kind, network in networks.items()},
    "random_network_seed": extractors.RANDOM_SEED,
    "versions": _versions(),
    "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
  }
  copies = None
  if memorisation:
    training = open_side(real, split="train" if held_out else "all")
    copies = Copies(
      _find_copies(training, sides["fake"], embed, video, seed), training
    )
    content["memorisation"] = memorisation_check.summary(copies.spaces, video)
  if jax.process_index() == 0:
    _write(content, output, sides, features, copies)
  return content


class Copies(NamedTuple):
  """Closest training clips of the samples, and where they were looked for."""

  spaces: dict[str, memorisation_check.Space]
  training: ClipSet


def _check_arguments(
  protocol: str,
  output: str | os.PathLike | None,
  split: str | None,
  holdout_fraction: float,
) -> None:
  """Raises ValueError for what makes no sense, before anything is read."""
  if protocol not in PROTOCOLS:
    raise ValueError(
      f"Unknown protocol {protocol!r}; allowed: {', '.join(PROTOCOLS)}."
    )
  if output is not None and pathlib.Path(output).suffix != ".json":
    raise ValueError(f"output must be a .json file, got {output}.")
  if split == "heldout" and holdout_fraction == 0:
    raise ValueError(
      "--split=heldout: nothing was held out of training at "
      "data.holdout_fraction=0; set the fraction that training had."
    )


def _write(
  content: dict[str, Any],
  output: str | os.PathLike | None,
  sides: dict[str, ClipSet],
  features: dict[str, metric_table.Features],
  copies: Copies | None,
) -> None:
  """Prints the figures, and writes the pages if there is an output."""
  print(page.as_text(content))
  if output is None:
    return
  page.write(output, content, sides, features)
  if copies is not None:
    sheet.write(output, copies.spaces, sides["fake"], copies.training)


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
  training: ClipSet, fake: ClipSet, embed: Embedder, video: str, seed: int
) -> dict[str, memorisation_check.Space]:
  """Compares the samples with all clips of the training videos."""
  names = ["thumbnails", "mel_picture", video]
  _, sources = np.unique(
    [clip.source for clip in training.ids], return_inverse=True
  )
  return memorisation_check.compare_clips(
    embed(fake, [*names, f"{video}_mirrored"], "samples"),
    embed(training, names, "training"),
    sources,
    video,
    seed,
  )


def _describe(clips: ClipSet) -> dict[str, Any]:
  """Which clips were used."""
  return {
    "source": clips.name,
    "split": clips.split,
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
