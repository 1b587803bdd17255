"""The table of the metrics: which features each is made of, by what formula."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from mmdiff_jax.evaluation import pairing
from mmdiff_jax.evaluation.frechet import (
  frechet_distance,
  polynomial_mmd,
  rbf_mmd,
)
from mmdiff_jax.evaluation.prdc import prdc
from mmdiff_jax.metric_networks.synchformer import OFFSETS

Features = dict[str, np.ndarray]

NEIGHBOURS = 5
# Clips of the published figures.
PAPER_CLIPS = 2048
_PUBLISHED = ("fvd", "kvd", "fad")
_PRDC = ("precision", "recall", "density", "coverage")


@dataclasses.dataclass(frozen=True)
class Metric:
  """A number that compares generated with real clips.

  Attributes:
    name: as on the command line and in the report.
    features: names of the features that it reads.
    better: "lower" or "higher".
    about: what it is, in a sentence.
    distance: statistic of two feature sets; None for metrics of pairing.
    pairs: statistic of one set, `(features, reference or None, fps, seed) ->
      per-clip values [N]` or one number; None for distances.
    scale: factor on the statistic.
    gaussian: whether it fits covariances (and so wants N > D).
    gap: whether it is a difference to shuffled pairs, so that 0 is chance.
  """

  name: str
  features: tuple[str, ...]
  better: str
  about: str
  distance: Callable[[np.ndarray, np.ndarray], float] | None = None
  pairs: Callable | None = None
  scale: float = 1.0
  gaussian: bool = False
  gap: bool = False

  @property
  def published(self) -> bool:
    """Whether the paper prints it."""
    return self.name in _PUBLISHED


def _one_of_prdc(name: str, real: np.ndarray, fake: np.ndarray) -> float:
  return prdc(real, fake, NEIGHBOURS)[name]


def _align(features: Features, reference, fps: float, seed: int) -> np.ndarray:
  score, chance = pairing.align_gap(
    features["onsets"] > 0, features["flow_peaks"] > 0, fps, seed
  )
  return score - chance


def _synchrony(features: Features, reference, fps: float, seed: int):
  if reference is not None:
    reference = reference["motion_and_sound"]
  return pairing.synchrony_gap(features["motion_and_sound"], reference, seed)


def _dependence(features: Features, reference, fps: float, seed: int) -> float:
  return pairing.distance_correlation(features["scene"], features["mel"])


def _desync(features: Features, reference, fps: float, seed: int) -> np.ndarray:
  likeliest = features["synchformer"].argmax(axis=-1)
  return np.abs(OFFSETS[likeliest]).mean(axis=-1)


def _video_metrics(feature: str, suffix: str, source: str) -> list[Metric]:
  about = {
    "precision": "share of generated clips inside the real ones' balls",
    "recall": "share of real clips inside the generated ones' balls",
    "density": "real balls that hold a generated clip, over k",
    "coverage": "share of real balls that hold a generated clip",
  }
  return [
    Metric(
      f"fvd{suffix}",
      (feature,),
      better="lower",
      about=f"Frechet distance of {source}",
      distance=frechet_distance,
      gaussian=True,
    ),
    Metric(
      f"kvd{suffix}",
      (feature,),
      better="lower",
      about=f"unbiased MMD^2, kernel (x.y/400 + 1)^3, of {source}",
      distance=polynomial_mmd,
    ),
    *(
      Metric(
        f"{name}{suffix}",
        (feature,),
        better="higher",
        about=f"{about[name]} (k = {NEIGHBOURS}, {source})",
        distance=functools.partial(_one_of_prdc, name),
      )
      for name in _PRDC
    ),
  ]


def _audio_metrics(
  feature: str,
  suffix: str,
  source: str,
  scale: float,
  name: str = "fad",
) -> list[Metric]:
  factor = f" x {scale:,.0f}" if scale != 1 else ""
  return [
    Metric(
      f"{name}{suffix}",
      (feature,),
      better="lower",
      about=f"Frechet distance of {source}{factor}",
      distance=frechet_distance,
      scale=scale,
      gaussian=True,
    ),
    Metric(
      f"kad{suffix}",
      (feature,),
      better="lower",
      about=f"unbiased MMD^2 of {source}, Gaussian kernel as wide as the real "
      "clips' median distance, x 1,000",
      distance=rbf_mmd,
      scale=1000.0,
    ),
  ]


METRICS = {
  metric.name: metric
  for metric in (
    *_video_metrics("i3d", "", "I3D logits"),
    *_video_metrics("i3d_random", "_random", "logits of a random I3D"),
    *_audio_metrics("audioclip", "", "AudioCLIP embeddings", 10_000.0),
    *_audio_metrics("vggish", "_vggish", "VGGish embeddings", 1.0),
    *_audio_metrics("panns", "_panns", "PANNs embeddings", 1.0, name="fd"),
    *_audio_metrics("mel", "_mel", "log-mel statistics", 1.0),
    Metric(
      "av_align",
      ("onsets", "flow_peaks"),
      better="higher",
      about="AV-Align (audio onsets near peaks of optical flow) less that of "
      "shuffled pairs",
      pairs=_align,
      gap=True,
    ),
    Metric(
      "av_synchrony",
      ("motion_and_sound",),
      better="higher",
      about="correlation of motion and loudness within clips less that of "
      "shuffled pairs",
      pairs=_synchrony,
      gap=True,
    ),
    Metric(
      "av_dependence",
      ("scene", "mel"),
      better="higher",
      about="distance correlation, over the set, of what is seen and what is "
      "heard; 0 for shuffled pairs",
      pairs=_dependence,
      gap=True,
    ),
    Metric(
      "desync",
      ("synchformer",),
      better="lower",
      about="seconds by which Synchformer finds sound and picture apart, at "
      "both ends of a clip",
      pairs=_desync,
    ),
  )
}
GROUPS = {
  "prdc": _PRDC,
  "prdc_random": tuple(f"{name}_random" for name in _PRDC),
  "av_gap": ("av_align", "av_synchrony", "av_dependence"),
}


def resolve(names: list[str]) -> list[Metric]:
  """Metrics by name; "prdc", "prdc_random" and "av_gap" stand for several.

  Raises:
    ValueError: on an unknown name.
  """
  flat: list[str] = []
  for name in names:
    if name not in METRICS and name not in GROUPS:
      raise ValueError(
        f"Unknown metric {name!r}; allowed: {', '.join([*METRICS, *GROUPS])}."
      )
    flat += GROUPS.get(name, (name,))
  return [METRICS[name] for name in dict.fromkeys(flat)]
