"""Which small changes of a module do its own tests not notice?

Runs mutmut (`pip install -e .[mutants]`) over the modules of `TARGETS`, each
against its own test files alone, in a copy of the repository under
`build/mutants`. A second run tries again only what has changed. Prints a table
of mutants killed, and the change of each one that survived.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
BUILD = ROOT / "build" / "mutants"


@dataclasses.dataclass(frozen=True)
class Target:
  """A module and what tests it.

  Attributes:
    module: path of the file that is changed.
    tests: test files, without folder and ending.
    functions: patterns of the functions that are changed.
    select: pytest's `-k`, where a file holds tests of other things.
    collected: whether the tests are imported once, for all mutants: if that
      starts none of JAX's threads, which a fork does not survive.
  """

  module: str
  tests: tuple[str, ...]
  functions: tuple[str, ...] = ("*",)
  select: str = ""
  collected: bool = False


# What needs no compiler comes first.
TARGETS = (
  Target("evaluation/entries", ("metrics",), collected=True),
  Target("study/statistics/bootstrap", ("bootstrap",), collected=True),
  Target("evaluation/pairing", ("pairing",), collected=True),
  Target("media/audio_mixer", ("audio_mixer",), collected=True),
  Target("diffusion/timesteps", ("losses",), select="sampler"),
  Target("devices/sharding", ("partition",)),
  Target("data/pipeline", ("pipeline",)),
  Target("models/rs_mma", ("rs_mma",)),
  Target("models/av_unet", ("window_shifts",), ("*_shifts", "*max_shifts")),
  Target("models/checks", ("window_shifts",), ("*check_shifts",)),
  Target("diffusion/losses", ("losses",)),
  Target("training/step", ("training", "randomness")),
  Target("task", ("task", "classifier_free", "randomness")),
)

# Loaded once, before a process is forked for each mutant.
_PRELOADED = (
  "av",
  "flax.linen",
  "grain",
  "hypothesis",
  "jax.numpy",
  "ml_collections",
  "optax",
  "orbax.checkpoint",
  "pandas",
  "scipy.stats",
  "tensorboardX",
)
# The words of a message are not worth a test of their own.
_NOT_CHANGED = r"^\s*raise \w+\("
_SURVIVED = {0: "survived", 5: "no test", 33: "no test"}


def prepare(target: Target) -> pathlib.Path:
  """Returns a copy of the repository that is set up for one module."""
  folder = BUILD / target.module.replace("/", ".")
  listed = subprocess.run(
    ["git", "ls-files", "-co", "--exclude-standard"],
    cwd=ROOT, capture_output=True, text=True, check=True,
  ).stdout.splitlines()  # fmt: skip
  for name in listed:
    source, copy = ROOT / name, folder / name
    if not source.exists():
      continue
    known = copy.stat().st_mtime if copy.exists() else None
    if known != source.stat().st_mtime:
      copy.parent.mkdir(parents=True, exist_ok=True)
      shutil.copy2(source, copy)
  others = {pathlib.Path(name).parts[0] for name in listed} - {"mmdiff_jax"}
  select = ["-k", target.select] if target.select else []
  settings = {
    "source_paths": ["mmdiff_jax"],
    "only_mutate": [f"mmdiff_jax/{target.module}.py"],
    "also_copy": sorted(others),
    "pytest_add_cli_args": ["-n0", "-pno:cacheprovider", *select],
    "pytest_add_cli_args_test_selection": [
      f"tests/test_{name}.py" for name in target.tests
    ],
    "do_not_mutate_patterns": [_NOT_CHANGED],
    "process_isolation": "forkserver",
    "forkserver_warmup": "collect" if target.collected else "import",
    "preload_modules_file": "preloaded.txt",
    "timeout_constant": 20.0,
  }
  lines = ["[mutmut]"]
  for key, value in settings.items():
    several = isinstance(value, list)
    lines.append(
      f"{key} ="
      + ("".join(f"\n  {x}" for x in value) if several else f" {value}")
    )
  (folder / "setup.cfg").write_text("\n".join(lines) + "\n")
  (folder / "preloaded.txt").write_text("\n".join(_PRELOADED) + "\n")
  return folder


def mutmut(folder: pathlib.Path, *args: str) -> str:
  """Runs mutmut in a prepared folder; returns what it prints."""
  environment = os.environ | {
    # Nearly all programs of a mutant are those of the original.
    "JAX_COMPILATION_CACHE_DIR": str(BUILD / "xla"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  result = subprocess.run(
    [sys.executable, "-m", "mutmut", *args],
    cwd=folder, env=environment, capture_output=True, text=True,
  )  # fmt: skip
  if result.returncode:
    raise SystemExit(
      f"error: mutmut {args[0]} failed in {folder}:\n"
      + (result.stdout + result.stderr)[-3000:]
    )
  return result.stdout


def results(folder: pathlib.Path, target: Target) -> dict[str, int | None]:
  """Exit statuses of the tests by mutant, None where it was not tried."""
  path = folder / "mutants" / f"mmdiff_jax/{target.module}.py.meta"
  return json.loads(path.read_text())["exit_code_by_key"]


def names(target: Target, digits: str) -> list[str]:
  """Patterns of the mutants to try; none means all."""
  if target.functions == ("*",) and not digits:
    return []
  ends = [f"*{digit}" for digit in digits] or ["*"]
  return [f"*{f}__mutmut_{end}" for f in target.functions for end in ends]


def main() -> None:
  """Prints a row per module, then the survivors."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument(
    "modules", nargs="*", metavar="MODULE", help="such as task; all if omitted"
  )
  parser.add_argument("--workers", default=2, type=int, help="at a time")
  parser.add_argument(
    "--digits", default="", metavar="DIGITS",
    help="try only mutants whose number ends in one of these digits: a sample",
  )  # fmt: skip
  args = parser.parse_args()
  known = {target.module: target for target in TARGETS}
  unknown = sorted(set(args.modules) - known.keys())
  if unknown or not set(args.digits) <= set("0123456789"):
    parser.error(
      f"unknown module {unknown[0]}; there are: {', '.join(known)}"
      if unknown
      else f"--digits={args.digits} must be digits"
    )
  print("| module | mutants | killed | survived | not tried | seconds |")
  print("| --- | --- | --- | --- | --- | --- |", flush=True)
  shown = []
  for target in TARGETS:
    if args.modules and target.module not in args.modules:
      continue
    begin, folder = time.monotonic(), prepare(target)
    mutmut(
      folder, "run", f"--max-children={args.workers}",
      *names(target, args.digits),
    )  # fmt: skip
    found = results(folder, target)
    survivors = [name for name, status in found.items() if status in _SURVIVED]
    tried = sum(status is not None for status in found.values())
    print(
      f"| {target.module} | {len(found)} | {tried - len(survivors)} | "
      f"{len(survivors)} | {len(found) - tried} | "
      f"{time.monotonic() - begin:.0f} |",
      flush=True,
    )
    shown += [mutmut(folder, "show", name) for name in survivors]
  for diff in shown:
    print(f"\n{diff.strip()}")


if __name__ == "__main__":
  main()
