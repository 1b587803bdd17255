"""A metric's entry in the report: its value, its error bar, what to mind."""

import functools
from collections.abc import Callable

import numpy as np

from mmdiff_jax.evaluation.metrics import PAPER_CLIPS, Features, Metric

_GROUPS = 10
# Fewer clips than this are worth a warning.
_FEW = 100


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


def find_warnings(
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
  if metric.gap and error is not None and abs(entry["value"]) < 2 * error:
    out.append("within two standard errors of 0, the level of chance.")
  return out
