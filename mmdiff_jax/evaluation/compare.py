"""Several sets of generated clips against one real set, in one table."""

import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmdiff_jax.data.sources import Name
from mmdiff_jax.evaluation.entries import distance
from mmdiff_jax.evaluation.evaluate import measure
from mmdiff_jax.evaluation.metrics import Features, Metric
from mmdiff_jax.evaluation.report import comparison
from mmdiff_jax.evaluation.session import (
  EvaluationSettings,
  Session,
  check_output,
  describe_clips,
)

# Resamples of a bootstrap; sizes, and draws of each, of an extrapolation.
_RESAMPLES, _SIZES, _DRAWS = 100, 6, 4
# Fewer clips than this are not cut further.
_LEAST = 12


def name_sides(texts: Sequence[str]) -> dict[str, str]:
  """Sides by name: "NAME=PATH", or a path, whose last part is the name.

  Raises:
    ValueError: if fewer than two are given, or names repeat.
  """
  named = []
  for text in texts:
    name, equals, path = text.partition("=")
    if not equals or "/" in name:
      name, path = os.path.basename(os.path.normpath(text)), text
    named.append((name, path))
  names = [name for name, _ in named]
  if len(named) < 2 or len(set(names)) < len(names):
    raise ValueError(
      f"--compare takes two or more sides of different names, got {names}; "
      "name them: --compare=ours=DIR,theirs=DIR."
    )
  return dict(named)


def compare(
  *,
  real: Name,
  fakes: Mapping[str, Name],
  output: str | os.PathLike | None = None,
  curve: bool = False,
  **settings: Any,
) -> dict[str, Any]:
  """Compares sets of generated clips with real ones and with each other.

  The first set is the one that the others are compared with. Where the clips
  of two sets have the same names, those of one name count as pairs (one seed
  makes them of the same noise), which sharpens the error of the difference.

  Args:
    real: the real clips; see `evaluate`.
    fakes: the generated clips by name.
    output: where the .json file goes; .md, .tex and .html are written beside
      it. None writes nothing.
    curve: the sets are checkpoints of one run, whose steps end their names.
    **settings: fields of `session.EvaluationSettings`.

  Returns:
    The content of the .json file.

  Raises:
    ValueError: as `evaluate`; or if `curve` and a name has no number.
  """
  check_output(output)
  steps = _steps(list(fakes)) if curve else None
  if steps is not None:
    fakes = {name: fakes[name] for name in steps}
  session = Session(EvaluationSettings(**settings), {"real": real, **fakes})
  real_clips = session.open_real(real)
  clips = {name: session.open_fake(fake) for name, fake in fakes.items()}
  reference = session.embed(real_clips, session.needed, "real")
  features = {
    name: session.embed(side, session.needed, name)
    for name, side in clips.items()
  }
  systems: dict[str, dict[str, Any]] = {}
  warnings: list[str] = []
  for name in clips:
    entries, warned = measure(session, reference, features[name])
    systems[name] = {"metrics": entries, **describe_clips(clips[name])}
    warnings += [f"{name}: {text}" for text in warned]
  first, *others = clips
  good = [
    metric
    for metric in session.chosen
    if all(
      s["metrics"][metric.name]["value"] is not None for s in systems.values()
    )
  ]
  for name in others:
    names_agree = systems[name]["clips"] == systems[first]["clips"]
    systems[name]["paired"] = names_agree
    systems[name]["differences"] = {
      metric.name: difference(
        _statistic(metric, session),
        _part(reference, metric),
        _part(features[first], metric),
        _part(features[name], metric),
        names_agree,
        session.settings.seed,
      )
      for metric in good
    }
  for name in clips:
    systems[name]["by_size"] = {
      metric.name: by_size(
        _statistic(metric, session),
        _part(reference, metric),
        _part(features[name], metric),
        session.settings.seed,
      )
      for metric in good
      if metric.gaussian
    }
  content = session.describe() | {
    "real": describe_clips(real_clips),
    "first": first,
    "steps": steps,
    "systems": systems,
    "warnings": warnings,
  }
  if jax.process_index() == 0:
    print(comparison.as_markdown(content))
    if output is not None:
      comparison.write(output, content)
  return content


def _steps(names: list[str]) -> dict[str, int]:
  """Step of each checkpoint by its name, in order."""
  steps = {}
  for name in names:
    found = re.findall(r"\d+", name)
    if not found:
      raise ValueError(
        f"--curve: {name!r} has no step in its name; name the sides "
        "--compare=step1000=DIR,step2000=DIR."
      )
    steps[name] = int(found[-1])
  return dict(sorted(steps.items(), key=lambda item: item[1]))


def _part(features: Features, metric: Metric) -> Features:
  return {name: features[name] for name in metric.features}


def _statistic(
  metric: Metric, session: Session
) -> Callable[[Features, Features], float]:
  """A metric as a function of real and generated features."""
  pairs = metric.pairs
  if pairs is None:
    return functools.partial(distance, metric)
  seed, fps = session.settings.seed, session.spec.fps
  return lambda real, fake: float(np.mean(pairs(fake, real, fps, seed)))


def difference(
  statistic: Callable[[Features, Features], float],
  real: Features,
  first: Features,
  other: Features,
  paired: bool,
  seed: int,
) -> dict[str, Any]:
  """How much larger the other's figure is than the first's.

  Args:
    statistic: of real and generated features.
    real: features of the real clips.
    first: features of the clips to compare with.
    other: features of the others.
    paired: whether row i of both belongs together.
    seed: of the bootstrap.

  Returns:
    `value`, and its standard error `stderr` by a bootstrap over clips: real
    clips are drawn anew too, the same ones for both figures. What repeated
    clips do to either figure cancels in the difference.
  """
  rng = np.random.default_rng(seed)

  def draw(features: Features) -> np.ndarray:
    count = len(next(iter(features.values())))
    return rng.integers(0, count, count)

  def rows(features: Features, chosen: np.ndarray) -> Features:
    return {name: values[chosen] for name, values in features.items()}

  changes = []
  for _ in range(_RESAMPLES):
    reference, own = rows(real, draw(real)), draw(first)
    theirs = own if paired else draw(other)
    try:
      changes.append(
        statistic(reference, rows(other, theirs))
        - statistic(reference, rows(first, own))
      )
    except ValueError:
      continue  # A resample of too few different clips.
  value = statistic(real, other) - statistic(real, first)
  error = float(np.std(changes, ddof=1)) if len(changes) > 1 else None
  return {"value": value, "stderr": error}


def by_size(
  statistic: Callable[[Features, Features], float],
  real: Features,
  fake: Features,
  seed: int,
) -> dict[str, Any] | None:
  """A Frechet distance of fewer generated clips, and of infinitely many.

  Its bias falls as 1/n (Chong and Forsyth, arXiv 1911.07023): a line through
  the means of random parts, against 1/n, meets the axis at `infinity`. The
  bias of the real clips' own number stays.

  Args:
    statistic: of real and generated features.
    real: features of the real clips.
    fake: features of the generated ones.
    seed: of the choice of clips.

  Returns:
    `n`, `value` per size, `infinity`; None with fewer than 12 clips.
  """
  count = len(next(iter(fake.values())))
  if count < _LEAST:
    return None
  rng = np.random.default_rng(seed)
  sizes = np.unique(
    np.round(1 / np.linspace(3 / count, 1 / count, _SIZES)).astype(int)
  )
  values = []
  for size in sizes:
    draws = [
      statistic(
        real, {k: v[rng.permutation(count)[:size]] for k, v in fake.items()}
      )
      for _ in range(_DRAWS if size < count else 1)
    ]
    values.append(float(np.mean(draws)))
  _, infinity = np.polyfit(1 / sizes, values, 1)
  return {"n": sizes.tolist(), "value": values, "infinity": float(infinity)}
