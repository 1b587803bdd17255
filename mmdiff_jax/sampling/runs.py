"""Which checkpoint is sampled with which seed, and into which folder."""

import os
from collections.abc import Sequence

from mmdiff_jax.configuration import check_seed
from mmdiff_jax.disk.files import as_path, is_cloud


def parse_seeds(texts: Sequence[str]) -> list[int]:
  """Reads seeds.

  Raises:
    ValueError: for anything but an integer from 0 to 2**32 - 1.
  """
  return [
    check_seed(int(text) if text.isdecimal() else text, "--seeds")
    for text in texts
  ]


def plan_runs(
  checkpoints: Sequence[str], seeds: Sequence[int], output: str
) -> dict[str, tuple[str, int]]:
  """Output folder -> (checkpoint, seed), all of them distinct.

  One run goes to `output` itself, several to `<name>-seed<seed>` in it.

  Raises:
    ValueError: if two runs would be written to the same folder.
  """
  if len(checkpoints) == len(seeds) == 1:
    return {output: (checkpoints[0], seeds[0])}
  runs: dict[str, tuple[str, int]] = {}
  for checkpoint in checkpoints:
    for seed in seeds:
      run = os.path.join(output, f"{_run_name(checkpoint)}-seed{seed}")
      if run in runs:
        raise ValueError(
          f"--checkpoint={checkpoint} --seeds={seed} would be written to "
          f"{run}, as would --checkpoint={runs[run][0]}; sample it apart, "
          "into another --output."
        )
      runs[run] = checkpoint, seed
  return runs


def _run_name(checkpoint: str) -> str:
  """runs/a, runs/a/checkpoints -> "a"; runs/a/checkpoints/50 -> "a-50"."""
  if not is_cloud(checkpoint):
    checkpoint = os.path.abspath(checkpoint)
  path, step = as_path(checkpoint), ""
  if path.name.isdigit():
    path, step = path.parent, f"-{path.name}"
  if path.name in ("checkpoint", "checkpoints"):
    path = path.parent
  return path.name + step
