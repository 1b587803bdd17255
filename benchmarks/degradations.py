"""Which metric notices which damage? Prints a table in markdown.

  python -m benchmarks.degradations FOLDER [FOLDER ...]
  python -m benchmarks.degradations --synthetic=80

Every second clip of each folder is the reference; the others are damaged in
each way in turn. A figure in bold differs from that of the undamaged clips by
more than two standard errors of the difference (clips left out by tenths, the
same ones on both sides). Columns need the weights that `evaluate` takes.
"""

import argparse

import numpy as np

from benchmarks.damage import DEGRADATIONS
from mmdiff_jax.av import AVSpec
from mmdiff_jax.evaluation import metrics
from mmdiff_jax.evaluation.cache import default_cache_dir
from mmdiff_jax.evaluation.clip_sets import open_clips
from mmdiff_jax.evaluation.entries import jackknife
from mmdiff_jax.evaluation.extractors import Setting
from mmdiff_jax.evaluation.features import FeatureStore
from mmdiff_jax.evaluation.weights import Embedder, Weights
from mmdiff_jax.world.clips import make_clip, split_seed

SPEC = AVSpec()
COLUMNS = (
  "fvd",
  "kvd",
  "coverage",
  "fad_mel",
  "kad_mel",
  "av_align",
  "av_synchrony",
  "av_dependence",
)


def load_folders(folders: list[str]) -> dict[str, np.ndarray]:
  """All clips of all folders as arrays."""
  loaded = []
  for folder in folders:
    clips = open_clips(folder, SPEC)
    loaded += [clips.load(i) for i in range(len(clips))]
  return {
    "video": np.stack([clip["video"] for clip in loaded]),
    "audio": np.stack([clip["audio"] for clip in loaded])[..., None],
  }


def make_synthetic(count: int) -> dict[str, np.ndarray]:
  """Clips of the sounding-shapes world, whose streams belong together."""
  made = [make_clip(split_seed("eval", i), SPEC) for i in range(count)]
  return {
    "video": np.stack([clip.video for clip in made]),
    "audio": np.stack([clip.audio for clip in made]),
  }


def statistic(metric: metrics.Metric, seed: int):
  """The metric as a function of (reference, generated) features."""
  if metric.distance:
    (name,) = metric.features
    return lambda a, b: metric.scale * metric.distance(a[name], b[name])
  return lambda a, b: float(np.mean(metric.pairs(b, a, SPEC.fps, seed)))


def compare(metric, reference, plain, damaged, seed=0) -> tuple[float, bool]:
  """The damaged clips' figure, and whether it differs from the plain one."""
  value = statistic(metric, seed)
  both = {f"plain {k}": plain[k] for k in metric.features}
  both |= {f"damaged {k}": damaged[k] for k in metric.features}
  reference = {k: reference[k] for k in metric.features}

  def part(features, kind):
    return {k: features[f"{kind} {k}"] for k in metric.features}

  def difference(reference, both):
    damaged_value = value(reference, part(both, "damaged"))
    return damaged_value - value(reference, part(both, "plain"))

  error = jackknife(difference, reference, both, seed=seed)
  change = difference(reference, both)
  return value(reference, damaged), abs(change) > max(2 * error, 1e-9)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("folders", nargs="*")
  parser.add_argument("--synthetic", type=int, default=0)
  parser.add_argument("--columns", nargs="*", default=COLUMNS)
  arguments = parser.parse_args()
  if bool(arguments.folders) == bool(arguments.synthetic):
    parser.error("give folders, or --synthetic=COUNT")
  if arguments.synthetic:
    clips = make_synthetic(arguments.synthetic)
  else:
    clips = load_folders(arguments.folders)
  weights = Weights()
  columns, _ = weights.choose_metrics(arguments.columns, SPEC)
  names = list(dict.fromkeys(f for m in columns for f in m.features))
  embed = Embedder(
    FeatureStore(default_cache_dir(), batch_size=8, progress=True),
    weights.load(set(names), "clean"),
    Setting("clean", SPEC),
  )

  def extract(arrays, label):
    return embed(open_clips(arrays, SPEC), names, label)

  reference = extract({k: v[::2] for k, v in clips.items()}, "reference")
  plain_clips = {k: v[1::2] for k, v in clips.items()}
  plain = extract(plain_clips, "undamaged")
  print("| " + " | ".join(["clips", *(m.name for m in columns)]) + " |")
  print("|---" * (len(columns) + 1) + "|")
  cells = [f"{statistic(m, 0)(reference, plain):.3g}" for m in columns]
  print("| " + " | ".join(["undamaged", *cells]) + " |")
  for name, damage in DEGRADATIONS.items():
    damaged = extract(damage(plain_clips, np.random.default_rng(0)), name)
    cells = []
    for metric in columns:
      value, differs = compare(metric, reference, plain, damaged)
      cells.append(f"**{value:.3g}**" if differs else f"{value:.3g}")
    print("| " + " | ".join([name, *cells]) + " |", flush=True)
  print(
    f"\n{len(plain[names[0]])} clips against {len(reference[names[0]])} others."
  )


if __name__ == "__main__":
  main()
