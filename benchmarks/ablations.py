"""What does RS-MMA buy? Variants of one model, trained on the same budget.

  python -m benchmarks.ablations --workdir=DIR [--steps=2000] [--count=64]
    [--batch_size=N] [--init_from=DIR] [--variants="NAME;..."]

Trains every variant of configs/shapes.py for the same number of steps (a
rerun continues), samples it jointly and given the video, and prints the
figures of synchrony (docs/synthetic.md). "no coupling" has no
cross-modal attention at all: two models of one stream each, which share
nothing but the time step. With --init_from all start from one checkpoint of the
full model (whose parameters do not depend on windows and shifts), at a tenth
of the learning rate and without warm-up; "no coupling" cannot.
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from benchmarks import shapes as shapes_rows
from benchmarks import sync as sync_rows
from configs import shapes
from mmdiff_jax.training.loop import train

VARIANTS: dict[str, dict[str, Any]] = {
  "windows 1,4,8": {},
  "windows 1,4,8, random shift": {"cross_attention_shift": True},
  "windows 1,1,1": {"cross_attention_windows": (1, 1, 1)},
  "windows 4,4,4": {"cross_attention_windows": (4, 4, 4)},
  "no coupling": {
    "cross_attention_resolutions": (),
    "cross_attention_windows": (),
    "middle_cross_attention": False,
  },
}


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.ablations", description=__doc__.split("\n\n")[0]
  )
  add = parser.add_argument
  add("--workdir", type=pathlib.Path, required=True)
  add("--steps", type=int, default=2000)
  add("--batch_size", type=int, help="of training; default: the config's")
  add("--init_from", default="", help="checkpoint that all start from")
  add("--count", type=int, default=64, help="samples per figure")
  add("--split", choices=("eval", "tune"), default="eval")
  add("--variants", help=f"separated by ;, among: {'; '.join(VARIANTS)}")
  flags = parser.parse_args(argv)
  names = flags.variants.split(";") if flags.variants else list(VARIANTS)
  if flags.init_from and not flags.variants:
    names.remove("no coupling")
  unknown = sorted(set(names) - set(VARIANTS))
  if unknown:
    parser.error(f"--variants: unknown {unknown[0]!r}")
  for name in names:
    config = shapes.get_config()
    config.model.update(VARIANTS[name])
    config.train.num_steps = flags.steps
    config.train.preview_every = 0
    if flags.init_from:
      config.train.init_from = flags.init_from
      config.train.learning_rate /= 10
      config.train.warmup_steps = 0
    if flags.batch_size:
      config.train.batch_size = flags.batch_size
    train(config, flags.workdir / _folder(name))
  sync_rows.print_header()
  for name in names:
    for setting in shapes_rows.MAIN_ROWS:
      report = shapes_rows.figures(
        flags.workdir / _folder(name), setting, flags.count, flags.split
      )
      print(sync_rows.row(f"{name}: {setting}", report), flush=True)


def _folder(name: str) -> str:
  return name.replace(", ", "_").replace(" ", "_").replace(",", "-")


if __name__ == "__main__":
  main()
