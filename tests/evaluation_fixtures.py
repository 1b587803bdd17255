"""Sets of clips to evaluate, and their figures."""

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.evaluation.evaluate import evaluate
from mmdiff_jax.world.clips import make_clip, split_seed

SPEC = AVSpec()


def make_arrays(split, count):
  clips = [make_clip(split_seed(split, i), SPEC) for i in range(count)]
  return {
    "video": np.stack([clip.video for clip in clips]),
    "audio": np.stack([clip.audio for clip in clips]),
  }


def run(real, fake, **options):
  options = {"cache_dir": None, "progress": False} | options
  return evaluate(real=real, fake=fake, **options)


def light(report):
  return {name: entry["value"] for name, entry in report["metrics"].items()}
