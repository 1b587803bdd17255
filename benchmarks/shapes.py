"""How synchronous are a model's sounding shapes, known what, sampled how?

  python -m benchmarks.shapes [--checkpoint=DIR] [--count=64] [--batch=32]
    [--split=eval|tune] [--rows="NAME;..."]

Samples a checkpoint that was trained on the sounding shapes: jointly, audio
known the video, and video known the audio, with several samplers and guidance
scales. What is known are clips of the split that training never sees. Prints
the figures of docs/synthetic.md, between those of truth (1) and of shuffled
pairs (0).
"""

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import sync as sync_rows
from configs import default
from mmdiff_jax.av import AVSpec, uint8_to_unit
from mmdiff_jax.sampling.clip_sampler import ClipSampler, Lengths
from mmdiff_jax.sampling.known_sources import Job, KnownSource
from mmdiff_jax.sampling.model import Model
from mmdiff_jax.world import sync
from mmdiff_jax.world.clips import make_clip, split_seed

SHIPPED = "mmdiff_jax/assets/shapes/checkpoint"


@dataclasses.dataclass(frozen=True)
class Row:
  """A way to sample.

  Attributes:
    known: "" (joint), "audio" or "video".
    sample: keys of `config.sample`; the others are unset.
  """

  known: str
  sample: Mapping[str, Any]


_DDIM = {"sampler": "ddim", "steps": 50}
_SOLVER = {
  "sampler": "dpm_solver++",
  "method": "multistep",
  "order": 2,
  "steps": 20,
}
ROWS = {
  "joint, ddim 50": Row("", _DDIM),
  "joint, ddpm 100": Row("", {"sampler": "ddpm", "steps": 100}),
  "joint, dpm_solver++ 20": Row("", _SOLVER),
}
for _known, _name in (("video", "video->audio"), ("audio", "audio->video")):
  ROWS[f"{_name}, dpm_solver++ 20, clean"] = Row(_known, _SOLVER)
  ROWS[f"{_name}, ddim 25, clean"] = Row(_known, _DDIM | {"steps": 25})
  for _steps, _sampler in ((20, _SOLVER), (50, _DDIM)):
    _replaced = _sampler | {"condition_method": "replacement"}
    _how = f"{_sampler['sampler']} {_steps}, replacement"
    ROWS[f"{_name}, {_how}"] = Row(_known, _replaced)
  for _scale in (2, 20, 200):
    _guided = {
      "sampler": "ddim",
      "steps": 25,
      "condition_method": "gradient",
      "guidance_scale": float(_scale),
    }
    ROWS[f"{_name}, ddim 25, gradient {_scale}"] = Row(_known, _guided)
  _resampled = _DDIM | {
    "condition_method": "resampling",
    "resample_repeats": 5,
    "resample_jump": 10,
  }
  ROWS[f"{_name}, ddim 50, resampling 5x10"] = Row(_known, _resampled)
# The settings in which models are compared with each other: quick ones.
MAIN_ROWS = (
  "joint, dpm_solver++ 20",
  "video->audio, dpm_solver++ 20, clean",
)


def make_jobs(known: str, count: int, split: str, spec: AVSpec) -> list[Job]:
  """One sample per clip of the split; `known` is the clip's known stream."""
  if not known:
    return [Job(f"{i}", i) for i in range(count)]
  jobs = []
  for i in range(count):
    clip = make_clip(split_seed(split, i), spec)
    streams = {"video": uint8_to_unit(clip.video), "audio": clip.audio}
    source = KnownSource(f"{i}", f"{split}/{i}", {known: streams[known]}, ())
    jobs.append(Job(f"{i}", i, source))
  return jobs


def sample(
  path: str | os.PathLike, row: Row, count: int, split: str, batch: int
) -> tuple[list[np.ndarray], list[np.ndarray], AVSpec]:
  """Samples a checkpoint; returns uint8 videos, audios and their geometry."""
  model = Model.load(path)
  settings = default.get_config().sample
  settings.update(row.sample)
  settings.batch_size = batch
  sampler = ClipSampler(
    model.task,
    settings,
    Lengths(model.spec.frames, None),
    model.params,
    model.mesh,
    seed=0,
  )
  jobs = make_jobs(row.known, count, split, model.spec)
  videos, audios = [], []
  for start in range(0, count, batch):
    video, audio = sampler(jobs[start : start + batch])
    videos += list(video)
    audios += list(audio)
  return videos, audios, model.spec


def figures(
  path: str | os.PathLike,
  name: str,
  count: int,
  split: str = "eval",
  batch: int = 32,
) -> dict:
  """`sync_report` of the row `name` of `ROWS`."""
  return sync.sync_report(*sample(path, ROWS[name], count, split, batch))


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.shapes", description=__doc__.split("\n\n")[0]
  )
  add = parser.add_argument
  add("--checkpoint", default=SHIPPED)
  add("--count", type=int, default=64, help="samples per row")
  add("--batch", type=int, default=32)
  add("--split", choices=("eval", "tune"), default="eval")
  add("--rows", help=f"separated by ; among: {'; '.join(ROWS)}")
  flags = parser.parse_args(argv)
  names = flags.rows.split(";") if flags.rows else list(ROWS)
  unknown = sorted(set(names) - set(ROWS))
  if unknown:
    parser.error(f"--rows: unknown {unknown[0]!r}")
  sync_rows.print_header()
  for name in names:
    report = figures(
      flags.checkpoint, name, flags.count, flags.split, flags.batch
    )
    print(sync_rows.row(name, report), flush=True)


if __name__ == "__main__":
  main()
