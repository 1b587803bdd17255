"""What all evaluations do first: settings, weights, the sets of clips."""

import dataclasses
import importlib.metadata
import logging
import os
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.sources import Name
from mmdiff_jax.disk.files import as_path, check_file
from mmdiff_jax.disk.leftovers import remove_leftovers
from mmdiff_jax.evaluation import extractors
from mmdiff_jax.evaluation import metrics as metric_table
from mmdiff_jax.evaluation.cache import default_cache_dir
from mmdiff_jax.evaluation.clip_sets import ClipSet, open_clips
from mmdiff_jax.evaluation.features import FeatureStore
from mmdiff_jax.evaluation.geometry import find_geometry
from mmdiff_jax.evaluation.usable import leave_out_bad
from mmdiff_jax.evaluation.weights import Embedder, Weights
from mmdiff_jax.media.files import read_listing
from mmdiff_jax.metric_networks.audioclip import PROTOCOLS

_log = logging.getLogger(__name__)

_PACKAGES = ("mmdiff-jax", "jax", "jaxlib", "flax", "numpy", "scipy", "av")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
  """How clips are read and compared.

  Attributes:
    protocol: "paper" or "clean"; they differ in the scale of the audio that
      AudioCLIP gets, and in the epsilon of I3D's BatchNorm.
    metrics: names of `metrics.METRICS` or groups; none means all that the
      weights at hand allow.
    weights_dir: folder of the published weights; None means `weights` in the
      user's cache folder.
    seed: of the choice of clips, the shuffles and the error bars.
    num_clips: clips of each side, chosen at random where there are more.
    spec: geometry at which all sides are read; None means that they say it
      themselves, see `geometry.find_geometry`.
    asked: fields of `AVSpec`, and "fit", to read them at instead of what they
      say.
    split: which of the real videos to compare with: "train", "heldout" or
      "all"; None means those held out, or all where none are.
    holdout_fraction: share of the real videos that training held out.
    tfds_dir: see `data.sources.SourceOptions`.
    synthetic_clips: see `data.sources.SourceOptions`.
    max_bad: largest share of a side's clips that may be left out because they
      cannot be used.
    batch_size: clips that a network sees at once (on all devices together);
      None chooses it by the devices' memory.
    cache_dir: where features are kept; "" means the user's cache folder, None
      keeps nothing.
    progress: whether to show progress bars.
  """

  protocol: str = "clean"
  metrics: Sequence[str] = ()
  weights_dir: str | os.PathLike | None = None
  seed: int = 0
  num_clips: int = metric_table.PAPER_CLIPS
  spec: AVSpec | None = None
  asked: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  split: str | None = None
  holdout_fraction: float = 0.0
  tfds_dir: str = ""
  synthetic_clips: int = 4096
  max_bad: float = 0.05
  batch_size: int | None = None
  cache_dir: str | os.PathLike | None = ""
  progress: bool = True

  def __post_init__(self):
    if self.protocol not in PROTOCOLS:
      raise ValueError(
        f"Unknown protocol {self.protocol!r}; allowed: {', '.join(PROTOCOLS)}."
      )
    if self.split == "heldout" and self.holdout_fraction == 0:
      raise ValueError(
        "--split=heldout: nothing was held out of training at "
        "data.holdout_fraction=0; set the fraction that training had."
      )
    if not 0 <= self.max_bad <= 1:
      raise ValueError(
        f"max_bad must be a share in [0, 1], got {self.max_bad}."
      )


class Session:
  """Settings made into metrics, networks and sets of clips.

  Attributes:
    settings: as given.
    geometry: of all clips.
    chosen: metrics to compute.
    notes: what the report says of weights.
    needed: names of the features that they read.
    video: name of the I3D feature at hand.
    embed: computes features.
  """

  def __init__(
    self,
    settings: EvaluationSettings,
    sides: Mapping[str, Name],
    memorisation: bool = False,
  ):
    """Looks for weights; loads those of the networks that are needed.

    Args:
      settings: of the evaluation.
      sides: all sets of clips by name, the real one first.
      memorisation: whether copies of training clips will be looked for.
    """
    self.settings = settings
    asked = dict(settings.asked)
    if settings.spec is not None:
      asked = dataclasses.asdict(settings.spec) | asked
    self.geometry = find_geometry(sides, asked, settings.tfds_dir)
    for note in self.geometry.notes:
      _log.info("%s", note)
    weights = Weights(settings.weights_dir)
    self.chosen, self.notes = weights.choose_metrics(
      settings.metrics, self.spec
    )
    self.needed = list(
      dict.fromkeys(f for m in self.chosen for f in m.features)
    )
    self.video = "i3d" if "i3d" in weights.files else "i3d_random"
    self._extra = ["mel_picture", self.video] if memorisation else []
    networks = weights.load({*self.needed, *self._extra}, settings.protocol)
    self._cache_dir = settings.cache_dir
    if self._cache_dir == "":
      self._cache_dir = default_cache_dir()
      if self._cache_dir is None:
        _log.warning(
          "There is no home directory: nothing that is computed is kept. Name "
          "a folder for it by --cache_dir."
        )
    self.embed = Embedder(
      FeatureStore(self._cache_dir, settings.batch_size, settings.progress),
      networks,
      extractors.Setting(settings.protocol, self.spec),
    )

  @property
  def spec(self) -> AVSpec:
    """Shape and rates of all clips."""
    return self.geometry.spec

  def open_real(self, real: Name) -> ClipSet:
    """The real clips to compare with."""
    held_out = self.settings.holdout_fraction > 0
    split = self.settings.split or ("heldout" if held_out else "all")
    return self._open(real, split, thin=True)

  def open_fake(self, fake: Name) -> ClipSet:
    """Generated clips."""
    return self._open(fake, "all", thin=True)

  def open_training(self, real: Name) -> ClipSet:
    """All clips of the videos that training did not hold out."""
    held_out = self.settings.holdout_fraction > 0
    return self._open(real, "train" if held_out else "all", thin=False)

  def _open(self, name: Name, split: str, thin: bool) -> ClipSet:
    settings = self.settings
    if isinstance(name, str | os.PathLike):
      read_listing(name)  # A damaged one is an error here.
    clips = open_clips(
      name,
      self.geometry,
      split=split,
      holdout_fraction=settings.holdout_fraction,
      tfds_dir=settings.tfds_dir,
      synthetic_clips=settings.synthetic_clips,
    )
    if thin:
      clips.select(settings.num_clips, settings.seed)
    audio = any(
      extractors.FEATURES[name].needs_audio
      for name in [*self.needed, *self._extra]
    )
    leave_out_bad(
      clips, audio, settings.max_bad, self._cache_dir, settings.progress
    )
    return clips

  def describe(self) -> dict[str, Any]:
    """What of a report does not depend on the clips."""
    settings = self.settings
    return {
      "protocol": settings.protocol,
      "seed": settings.seed,
      "spec": vars(self.spec) | {"duration": self.spec.duration},
      "fit": self.geometry.fit,
      "resampled": list(self.geometry.notes),
      "notes": self.notes,
      "holdout_fraction": settings.holdout_fraction,
      "weights": {k: n.info for k, n in self.embed.networks.items()},
      "random_network_seed": extractors.RANDOM_SEED,
      "versions": _versions(),
      "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def parse_share(text: str) -> float:
  """A share given as "5%" or "0.05".

  Raises:
    ValueError: if it is neither.
  """
  try:
    if text.endswith("%"):
      return float(text[:-1]) / 100
    return float(text)
  except ValueError:
    raise ValueError(
      f"--max_bad={text}: give a share such as 5% or 0.05."
    ) from None


def check_output(output: str | os.PathLike | None) -> None:
  """Raises if a report cannot be written there, before the work is done.

  Raises:
    ValueError: if it is no .json file.
    OSError: if its folder cannot be written to.
  """
  if output is None:
    return
  path = as_path(output)
  if path.suffix != ".json":
    raise ValueError(f"output must be a .json file, got {output}.")
  check_file(output)
  remove_leftovers(path.parent)


def describe_clips(clips: ClipSet) -> dict[str, Any]:
  """Which clips were used, for the report."""
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
