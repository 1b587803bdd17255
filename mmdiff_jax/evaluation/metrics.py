"""The metrics: which feature each is made of, its value, its error bar."""

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

Features = dict[str, np.ndarray]

NEIGHBOURS = 5
_GROUPS = 10
# Fewer clips than this are worth a warning.
_FEW = 100
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
  """

  name: str
  features: tuple[str, ...]
  better: str
  about: str
  distance: Callable[[np.ndarray, np.ndarray], float] | None = None
  pairs: Callable | None = None
  scale: float = 1.0
  gaussian: bool = False

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
    ),
    Metric(
      "av_synchrony",
      ("motion_and_sound",),
      better="higher",
      about="correlation of motion and loudness within clips less that of "
      "shuffled pairs",
      pairs=_synchrony,
    ),
    Metric(
      "av_dependence",
      ("scene", "mel"),
      better="higher",
      about="distance correlation, over the set, of what is seen and what is "
      "heard; 0 for shuffled pairs",
      pairs=_dependence,
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


def jackknife(
  statistic: Callable[..., float], *sets: Features, seed: int
) -> float:
  """Standard error by leaving out a tenth of a set at a time.

  Delete-a-group jackknife: the bootstrap's repeated clips would shrink
  neighbour distances and covariances, which these statistics are made of.

  Args:
    statistic: of as many feature dicts as there are sets.
    *sets: independent sets; each value has its clips along the first axis.
    seed: of the division into groups.

  Returns:
    The standard error.
  """
  rng = np.random.default_rng(seed)
  variance = 0.0
  for position, features in enumerate(sets):
    count = len(next(iter(features.values())))
    groups = min(_GROUPS, count)
    group = rng.permutation(count) % groups
    values = []
    for g in range(groups):
      kept = {name: x[group != g] for name, x in features.items()}
      values.append(statistic(*sets[:position], kept, *sets[position + 1 :]))
    spread = np.asarray(values) - np.mean(values)
    variance += (groups - 1) / groups * np.sum(spread**2)
  return float(np.sqrt(variance))


def compute(
  metric: Metric, real: Features, fake: Features, fps: float, seed: int
) -> dict:
  """One metric's entry of the report.

  Args:
    metric: which.
    real: features of the real clips.
    fake: features of the generated clips.
    fps: frames per second.
    seed: of shuffles and groups.

  Returns:
    `value` with its standard error `stderr`, and for comparison `real`: for
    distances one random half of the real clips against the other
    (`real_n` clips each), else the same figure of the real clips.

  Raises:
    ValueError: if there are too few clips for it.
  """
  real = {name: real[name] for name in metric.features}
  fake = {name: fake[name] for name in metric.features}
  measure = _compute_distance if metric.distance else _compute_pairs
  return {
    "about": metric.about,
    "better": metric.better,
    "n_real": len(next(iter(real.values()))),
    "n_fake": len(next(iter(fake.values()))),
    **measure(metric, real, fake, fps, seed),
  }


def no_entry(metric: Metric, reason: str) -> dict:
  """Entry of a metric that cannot be computed."""
  return {
    "about": metric.about,
    "better": metric.better,
    "value": None,
    "stderr": None,
    "real": None,
    "reason": reason,
  }


def distance(metric: Metric, real: Features, fake: Features) -> float:
  """The figure of a metric that is a distance."""
  (name,) = metric.features
  assert metric.distance is not None
  # VGGish has several embeddings per clip: they count as samples.
  a, b = (x[name].reshape(-1, x[name].shape[-1]) for x in (real, fake))
  return metric.scale * metric.distance(a, b)


def _compute_distance(
  metric: Metric, real: Features, fake: Features, fps: float, seed: int
) -> dict:
  (name,) = metric.features
  statistic = functools.partial(distance, metric)
  entry = {
    "value": statistic(real, fake),
    "stderr": _tolerant(lambda: jackknife(statistic, real, fake, seed=seed)),
  }
  half = len(real[name]) // 2
  order = np.random.default_rng(seed).permutation(len(real[name]))
  halves = [{name: real[name][order[i * half :][:half]]} for i in (0, 1)]
  entry["real"] = _tolerant(lambda: statistic(*halves))
  entry["real_n"] = half
  return entry


def _tolerant(function: Callable[[], float]) -> float | None:
  """None where a smaller part of the clips is too few for the statistic."""
  try:
    return function()
  except ValueError:
    return None


def _compute_pairs(
  metric: Metric, real: Features, fake: Features, fps: float, seed: int
) -> dict:
  pairs = metric.pairs
  assert pairs is not None

  def summary(features: Features, reference: Features | None) -> tuple:
    values = pairs(features, reference, fps, seed)
    if np.ndim(values) == 0:
      error = _tolerant(
        lambda: jackknife(
          lambda x: pairs(x, reference, fps, seed), features, seed=seed
        )
      )
      return float(values), error
    return float(values.mean()), float(values.std() / np.sqrt(len(values)))

  value, error = summary(fake, real)
  real_value, _ = summary(real, None)
  return {
    "value": value,
    "stderr": error,
    "real": real_value,
    "real_n": len(next(iter(real.values()))),
  }


def warnings(
  metric: Metric, entry: dict, width: int, protocol: str
) -> list[str]:
  """What a reader must know before quoting an entry.

  Args:
    metric: the metric.
    entry: of `compute`.
    width: of its feature.
    protocol: of the evaluation.
  """
  out = []
  n = min(entry["n_real"], entry["n_fake"])
  if metric.gaussian and n <= width:
    out.append(
      f"{n} clips for {width} dimensions; the covariances are singular and "
      "the distance is biased upwards. Compare it at equal n only."
    )
  elif metric.distance and n < _FEW:
    out.append(f"{n} clips are few; see the error bar.")
  if metric.published and protocol == "paper" and n != PAPER_CLIPS:
    out.append(
      f"published figures use {PAPER_CLIPS:,} clips on both sides, this one "
      f"{entry['n_real']} and {entry['n_fake']}."
    )
  error = entry["stderr"]
  if metric.pairs and error is not None and abs(entry["value"]) < 2 * error:
    out.append("within two standard errors of 0, the level of chance.")
  return out
