"""Checks of the places that a command line names, before any work."""

from ml_collections import ConfigDict

from mmdiff_jax.cli.command_line import CommandLine
from mmdiff_jax.disk.files import as_path, check_local, check_path

# Flags that name places, those whose places must be local, and the commands
# that work on local places alone.
_PLACES = (
  "workdir", "checkpoint", "sr_checkpoint", "input", "output", "source",
  "real", "fake", "tfds_dir", "captions", "embeddings",
)  # fmt: skip
_LOCAL_PLACES = ("weights_dir", "cache_dir", "text_encoder")
_LOCAL_COMMANDS = ("gallery", "study")
_KEYS = (
  "data.source", "data.tfds_dir", "data.captions", "data.embeddings",
  "train.init_from",
)  # fmt: skip


# What a folder is by a file or folder in it, and the commands that write into
# such a folder again.
_KINDS = {
  "dataset.json": ("a prepared data set", ("prepare",)),
  "samples.json": ("a folder of samples", ("sample", "upscale")),
  "study.json": ("a study", ("study build",)),
  "checkpoints": ("a training run", ("train", "import_checkpoint")),
}
# The commands that make a folder, by the flag that names it.
_MAKERS = {
  "train": "workdir",
  "import_checkpoint": "workdir",
  "prepare": "output",
  "sample": "output",
  "upscale": "output",
  "export_checkpoint": "output",
  "study build": "output",
  "synthetic": "argument",
}


def check_target(line: CommandLine) -> None:
  """Raises ValueError for a folder that holds something of another kind."""
  flag = _MAKERS.get(line.name)
  if flag is None:
    return
  folder = getattr(line.options, flag)
  for mark, (what, makers) in _KINDS.items():
    if line.name not in makers and (as_path(folder) / mark).exists():
      name = "" if flag == "argument" else f"--{flag}="
      raise ValueError(
        f"{name}{folder} is {what} (it holds {mark}); choose another folder."
      )


def check_flags(line: CommandLine) -> None:
  """Raises ValueError for a place on a command line that cannot be reached."""
  local = line.name.split()[0] in _LOCAL_COMMANDS
  check = check_local if local else check_path
  for name in _PLACES:
    values = getattr(line.options, name, None) or []
    for value in [values] if isinstance(values, str) else values:
      if line.name == "study build":
        value = value.rpartition("=")[2]
      check(value.removeprefix("tfrecord:"), f"--{name}")
  for name in _LOCAL_PLACES:
    check_local(getattr(line.options, name, None) or "", f"--{name}")
  if line.name != "config":
    check(line.options.argument, line.name)


def check_config(config: ConfigDict) -> None:
  """Raises ValueError for a key's place that cannot be reached."""
  for key in _KEYS:
    section, name = key.split(".")
    place = config[section][name].removeprefix("tfrecord:")
    check_path(place, f"--config.{key}")
  check_path(config.compilation_cache, "--config.compilation_cache")
