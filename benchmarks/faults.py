"""What do kills and damage cost? Tried, right, lost.

  python -m benchmarks.faults                      # a minute
  python -m benchmarks.faults --kills=100 --flips=200

Kills: a process is ended with SIGKILL, at a random moment or ahead of the
n-th rename or removal; the same work is then run again, and its result is
compared with that of a run that nothing disturbed. Flips: one random bit of one
random file; what reads it must refuse it, or read what was written. "Lost" is
whatever came out wrong without an error.
"""

import argparse
import filecmp
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from configs import default
from data_prep import make_synthetic, videos_to_tfrecord
from data_prep.clip_task import ClipOptions
from mmdiff_jax import checkpoint
from mmdiff_jax.av import AVSpec
from mmdiff_jax.convert import exporter
from mmdiff_jax.data.sources import ClipList
from mmdiff_jax.data.sources.prepared import open_tfrecord
from mmdiff_jax.verify import verify

SPEC = AVSpec(4, 16, 16, 10.0, 8000)
STEPS = 6
# What the jobs take, roughly.
SECONDS = {"prepare": 0.3, "save": 3.0, "export": 0.6}
# Runs a job of this module and kills itself ahead of the n-th call of an
# operation, or at a moment.
VICTIM = """
import os, signal, sys, threading, time
from benchmarks import faults
job, name, count, folder = sys.argv[1:]
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
left = float(count)
if name == "moment":
  threading.Timer(left, kill).start()
else:
  original = getattr(os, name)
  def counted(*arguments, **options):
    global left
    left -= 1
    if left < 0:
      kill()
    return original(*arguments, **options)
  setattr(os, name, counted)
getattr(faults, job)(faults.pathlib.Path(folder))
os._exit(0)
"""


def prepare(folder: pathlib.Path) -> None:
  """Prepares the videos beside `folder`, whatever data set is there."""
  videos_to_tfrecord.prepare(
    folder.parent / "videos",
    folder,
    ClipOptions(SPEC, "raw", None, "mean", "skip"),
    shards=2,
    overwrite=True,
  )


def _state(step: int) -> dict:
  values = jnp.arange(5000, dtype=jnp.float32) * (step + 1) / 7
  return {"params": {"w": values}, "ema_params": {"w": -values}}


def _abstract(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def save(folder: pathlib.Path) -> None:
  """Saves checkpoint after checkpoint, going on from the newest."""
  metrics = {"n": jnp.zeros(2)}
  with checkpoint.Checkpoints(folder) as checkpoints:
    step = checkpoints.latest_step or 0
    if step:
      _check_checkpoint(checkpoints, step)
    for number in range(step + 1, STEPS + 1):
      checkpoints.save(
        number,
        _state(number),
        metrics,
        config=default.get_config(),
        loader_state={"next_index": number},
      )


def _check_checkpoint(checkpoints: checkpoint.Checkpoints, step: int) -> None:
  state, _, loader = checkpoints.restore(
    step, _abstract(_state(0)), _abstract({"n": jnp.zeros(2)})
  )
  jax.tree.map(np.testing.assert_array_equal, state, _state(step))
  assert loader == {"next_index": step}


def export(folder: pathlib.Path) -> None:
  """Exports the run beside `folder` into it, where it is not yet."""
  if not folder.exists():
    exporter.export_params(folder.parent / "run", folder)


def _same(a: pathlib.Path, b: pathlib.Path) -> bool:
  names = sorted(path.name for path in a.iterdir())
  if names != sorted(path.name for path in b.iterdir()):
    return False
  return not any(filecmp.cmpfiles(a, b, names, shallow=False)[1:])


def _is_right(job: str, folder: pathlib.Path) -> bool:
  """Whether the work that was run again ended as an undisturbed run does."""
  if job == "prepare":
    return _same(folder, folder.parent / "whole")
  litter = [*folder.rglob("*.tmp"), *folder.rglob("*orbax-checkpoint-tmp*")]
  problems = [line for _, lines in verify(folder) for line in lines]
  if job == "save":
    left = {path.name for path in folder.iterdir()}
    return left == {str(STEPS - 1), str(STEPS)} and not litter + problems
  params = checkpoint.load_params(folder, _abstract(_state(0)["ema_params"]))
  expected = _state(STEPS)["ema_params"]["w"].astype(jnp.float16)
  return not litter + problems and bool((params["w"] == expected).all())


def kills(
  job: str, tries: int, work: pathlib.Path, rng: random.Random
) -> tuple[int, int, int]:
  """Kills a job again and again; returns tried, right, lost."""
  right = tried = 0
  folder = work / f"{job}-killed"
  # Some end before they are killed.
  for _ in range(3 * tries):
    if tried == tries:
      break
    name, count = "moment", rng.uniform(0, SECONDS[job])
    if rng.random() < 0.5:
      name, count = (
        rng.choice(["replace", "unlink", "rename"]),
        rng.randrange(9),
      )
    process = subprocess.run(
      [sys.executable, "-c", VICTIM, job, name, str(count), str(folder)],
      stderr=subprocess.DEVNULL,
      env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    if process.returncode != -signal.SIGKILL:
      shutil.rmtree(folder, ignore_errors=True)
      continue
    tried += 1
    try:
      globals()[job](folder)
      right += _is_right(job, folder)
    except (AssertionError, ValueError, OSError) as error:
      print(f"{job} {name} {count}: {error}")
    if rng.random() < 0.5:  # Else the next kill meets a finished one.
      shutil.rmtree(folder, ignore_errors=True)
  return tried, right, tried - right


def _read_run(folder: pathlib.Path):
  with checkpoint.Checkpoints(folder) as checkpoints:
    _check_checkpoint(checkpoints, STEPS)
  return checkpoint.load_config(folder / str(STEPS)).to_dict()


def _read_export(folder: pathlib.Path):
  abstract = _abstract(_state(0)["ema_params"])
  params = checkpoint.load_params(folder, abstract)
  return np.asarray(params["w"]), checkpoint.load_config(folder).to_dict()


def _read_data_set(folder: pathlib.Path):
  clips = ClipList(open_tfrecord(folder))
  return [(c.origin(), c.video(), c.audio()) for c in clips]


def flips(
  read: Callable, folder: pathlib.Path, tries: int, rng: random.Random
) -> tuple[int, int, int]:
  """Flips one bit at a time; returns tried, right (seen or harmless), lost."""
  expected = read(folder)
  files = [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size]
  right = 0
  for _ in range(tries):
    path = rng.choice(files)
    content = path.read_bytes()
    data, position = bytearray(content), rng.randrange(8 * len(content))
    data[position // 8] ^= 1 << position % 8
    path.write_bytes(data)
    try:
      np.testing.assert_equal(read(folder), expected)
      right += 1
    except AssertionError:
      print(f"read over: bit {position} of {path}")
    except (ValueError, OSError):
      right += 1
    path.write_bytes(content)
  return tries, right, tries - right


def run(
  kill_tries: int, flip_tries: int, seed: int = 0
) -> Iterator[tuple[str, int, int, int]]:
  """Yields (what was done, tried, right, lost)."""
  rng = random.Random(seed)
  with tempfile.TemporaryDirectory() as name:
    work = pathlib.Path(name)
    make_synthetic.write_folder(
      work / "videos", range(3), AVSpec(8, 32, 32, 10.0, 8000)
    )
    prepare(work / "whole")
    save(work / "run" / "checkpoints")
    export(work / "export")
    for job in ("prepare", "save", "export"):
      yield f"{job}, killed", *kills(job, kill_tries, work, rng)
    for what, read, folder in (
      ("checkpoint, flipped", _read_run, work / "run" / "checkpoints"),
      ("export, flipped", _read_export, work / "export"),
      ("data set, flipped", _read_data_set, work / "whole"),
    ):
      yield what, *flips(read, folder, flip_tries, rng)


def main(arguments: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
  parser.add_argument("--kills", type=int, default=4, help="of each job")
  parser.add_argument("--flips", type=int, default=40, help="of each folder")
  parser.add_argument("--seed", type=int, default=0)
  flags = parser.parse_args(arguments)
  print("| fault | tried | right | lost |\n| --- | --- | --- | --- |")
  for row in run(flags.kills, flags.flips, flags.seed):
    print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
  main()
