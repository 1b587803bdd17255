"""Checks of the places that a command line names, before any work."""

import argparse

from ml_collections import ConfigDict

from mmdiff_jax.disk.files import check_local, check_path

# Flags that name places, and those that must be local.
_PLACES = (
  "workdir", "checkpoint", "sr_checkpoint", "output", "source", "real", "fake",
)  # fmt: skip
_LOCAL_PLACES = ("weights_dir", "cache_dir")
_KEYS = ("data.source", "data.tfds_dir", "train.init_from")


def check_flags(options: argparse.Namespace) -> None:
  """Raises ValueError for a flag's place that cannot be reached."""
  for name in _PLACES:
    values = getattr(options, name, None) or []
    for value in [values] if isinstance(values, str) else values:
      check_path(value.removeprefix("tfrecord:"), f"--{name}")
  for name in _LOCAL_PLACES:
    check_local(getattr(options, name, None) or "", f"--{name}")


def check_config(config: ConfigDict) -> None:
  """Raises ValueError for a key's place that cannot be reached."""
  for key in _KEYS:
    section, name = key.split(".")
    place = config[section][name].removeprefix("tfrecord:")
    check_path(place, f"--config.{key}")
  check_path(config.compilation_cache, "--config.compilation_cache")


def check_argument(command: str, argument: str) -> None:
  """Raises ValueError for a place that cannot be reached."""
  if command in ("gallery", "study"):
    check_local(argument.rpartition("=")[2], command)
  else:
    check_path(argument)
