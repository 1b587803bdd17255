"""Every flag once, and the parser of a command's flags."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn


def _whole(low: int | None = None) -> Callable[[str], int]:
  """Returns a `type` for argparse: a whole number of at least `low`."""
  wanted = "a whole number" + ("" if low is None else f" of at least {low}")

  def parse(text: str) -> int:
    try:
      value = int(text)
    except ValueError:
      value = None
    if value is None or (low is not None and value < low):
      raise argparse.ArgumentTypeError(f"give {wanted}, not {text!r}")
    return value

  return parse


def _number(text: str) -> float:
  try:
    return float(text)
  except ValueError:
    raise argparse.ArgumentTypeError(f"give a number, not {text!r}") from None


def _names(text: str) -> list[str]:
  return [name.strip() for name in text.split(",")] if text else []


def _one_of(*allowed: str) -> dict[str, Any]:
  """Returns the arguments of a flag with a few possible values."""

  def parse(text: str) -> str:
    if text not in allowed:
      raise argparse.ArgumentTypeError(
        f"give one of {', '.join(allowed)}, not {text!r}"
      )
    return text

  return {"type": parse, "metavar": "|".join(allowed)}


# What argparse takes for each flag; which command has it: commands.py.
FLAGS: dict[str, dict[str, Any]] = {
  "workdir": {"metavar": "DIR", "help": "directory of a training run"},
  "profile": {
    "metavar": "START:COUNT",
    "help": "steps that JAX's profiler traces into WORKDIR/profile",
  },
  "checkpoint": {
    "metavar": "DIR",
    "action": "append",
    "default": [],
    "help": "checkpoint, or workdir whose newest is taken; `sample` takes "
    "several, each with a flag of its own",
  },
  "sr_checkpoint": {
    "metavar": "DIR",
    "help": "checkpoint of a super-resolution model",
  },
  "output": {"metavar": "PATH", "help": "what is written"},
  "format": {
    **_one_of("checkpoint", "safetensors"),
    "default": "checkpoint",
    "help": "a checkpoint of this program, or a file with the published names "
    "[%(default)s]",
  },
  "num_samples": {
    "type": _whole(1),
    "default": 16,
    "metavar": "N",
    "help": "samples to generate [%(default)s]",
  },
  "seeds": {
    "type": _names,
    "default": [],
    "metavar": "A,B,...",
    "help": "seeds to sample with [config.seed]",
  },
  "formats": {
    "type": _names,
    "default": ["mp4", "wav", "gif"],
    "metavar": "A,B,...",
    "help": "files to write, of mp4, wav, png, gif [mp4,wav,gif]",
  },
  "condition": {
    **_one_of("audio", "video", "continue"),
    "help": "what of --source is given: its audio, its video, or the beginning "
    "of both",
  },
  "source": {"metavar": "PATH", "help": "a file or folder of media"},
  "label": {
    "type": _whole(),
    "metavar": "N",
    "help": "class that the samples belong to",
  },
  "duration": {
    "type": _number,
    "metavar": "SECONDS",
    "help": "length of each sample, beyond one clip's",
  },
  "overlap": {
    "type": _number,
    "metavar": "SECONDS",
    "help": "shared by neighbouring pieces of --duration",
  },
  "real": {
    "metavar": "PATH",
    "help": "real clips: a folder, TFRecords or .npz",
  },
  "fake": {"metavar": "PATH", "help": "generated clips: a folder or .npz"},
  "compare": {
    "type": _names,
    "default": [],
    "metavar": "A=DIR,B=DIR,...",
    "help": "instead of --fake: several folders of generated clips",
  },
  "curve": {
    "action": "store_true",
    "help": "with --compare: the folders are checkpoints of one run",
  },
  "split": {
    **_one_of("train", "heldout", "all"),
    "help": "share of --real by config.data.holdout_fraction [heldout, or all "
    "where nothing is held out]",
  },
  "protocol": {
    **_one_of("paper", "clean"),
    "default": "clean",
    "help": "conventions of the evaluation [%(default)s]",
  },
  "metrics": {
    "type": _names,
    "default": [],
    "metavar": "A,B,...",
    "help": "metrics to compute [all]",
  },
  "weights_dir": {
    "metavar": "DIR",
    "help": "folder of the metric networks' published weights",
  },
  "cache_dir": {
    "default": "",
    "metavar": "DIR",
    "help": "folder that keeps features [the user's cache]",
  },
  "num_clips": {
    "type": _whole(2),
    "default": 2048,
    "metavar": "N",
    "help": "clips of each side to evaluate [%(default)s]",
  },
  "batch_size": {
    "type": _whole(1),
    "metavar": "N",
    "help": "clips that a metric's network sees at once [by the memory]",
  },
  "max_bad": {
    "default": "5%",
    "metavar": "SHARE",
    "help": "share of a side's clips that may be unusable [%(default)s]",
  },
  "memorisation": {
    "action": "store_true",
    "help": "search training clips that samples copy",
  },
  "topology": {
    "metavar": "NAME",
    "help": "hardware to compile for: v5e:4x4, h100:1x8, 4090:1x1, cpu:8, ...",
  },
  "what": {
    **_one_of("train", "sample"),
    "default": "train",
    "help": "program to compile [%(default)s]",
  },
  "slices": {
    "type": _whole(1),
    "default": 1,
    "metavar": "N",
    "help": "slices of TPUs to compile for [%(default)s]",
  },
  "hbm": {
    "type": _number,
    "metavar": "GIB",
    "help": "memory that a device may use (default: what the chip has)",
  },
  "fit": {
    "action": "store_true",
    "help": "find the smallest change that fits, by trying",
  },
  "cycles": {
    "action": "store_true",
    "help": "wait for XLA's own estimate of a TPU's cycles (minutes more)",
  },
  "onsets": {"action": "store_true", "help": "mark detected onsets"},
  "force": {
    "action": "store_true",
    "help": "start a program that seems too large for the memory",
  },
  "distributed": {
    "action": "store_true",
    "help": "join the other hosts first; TPU pods, SLURM and Kubernetes tell "
    "who they are, elsewhere give the three flags below",
  },
  "coordinator": {
    "metavar": "HOST:PORT",
    "help": "with --distributed: address of the first host",
  },
  "num_hosts": {
    "type": _whole(1),
    "metavar": "N",
    "help": "with --distributed: number of hosts",
  },
  "host": {
    "type": _whole(0),
    "metavar": "I",
    "help": "with --distributed: number of this one, from 0",
  },
  "config": {
    "metavar": "FILE",
    "help": "configuration: a file, or the name of one that comes with the "
    "program [default]; --config.KEY=VALUE sets a key of it",
  },
  "traceback": {
    "action": "store_true",
    "help": "show where in the code an error arose",
  },
}


class _Parser(argparse.ArgumentParser):
  """A parser whose errors are exceptions, in our words."""

  def error(self, message: str) -> NoReturn:
    message = message.removeprefix("argument ")
    if "ignored explicit argument" in message:
      message = f"{message.split(':')[0]} takes no value"
    elif message.endswith("expected one argument"):
      message = f"{message.split(':')[0]} needs a value"
    raise ValueError(f"{message}.")


def parse_flags(
  names: Sequence[str], arguments: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
  """Reads a command's flags.

  Args:
    names: of the flags that it has.
    arguments: what follows the command's name.

  Returns:
    The flags' values, and the arguments that are none of these flags.

  Raises:
    ValueError: for a value that a flag does not take.
  """
  parser = _Parser(add_help=False, allow_abbrev=False)
  for name in names:
    parser.add_argument(f"--{name}", **FLAGS[name])
  return parser.parse_known_args(arguments)


def describe_flags(names: Sequence[str]) -> list[tuple[str, str]]:
  """What help says of flags: how each is written, and what it is for."""
  rows = []
  for name in names:
    flag = FLAGS[name]
    metavar = flag.get("metavar")
    text = flag["help"] % {"default": flag.get("default")}
    rows.append((f"--{name}={metavar}" if metavar else f"--{name}", text))
  return rows
