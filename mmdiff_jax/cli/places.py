"""Checks of the places that a command line names, before any work."""

from ml_collections import ConfigDict

from mmdiff_jax.cli.command_line import CommandLine
from mmdiff_jax.disk.files import check_local, check_path

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
