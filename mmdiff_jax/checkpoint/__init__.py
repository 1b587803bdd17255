"""Checkpoints: the one room that talks to orbax.

A checkpoint `DIR/<step>` holds the training state, the metrics gathered
since they were last logged and, as JSON, the configuration and the position
of the data loader. `checksums.json` in it lets every load see damage, which
orbax reads over.
"""

from mmdiff_jax.checkpoint.layout import (
  CLOUD_MARK,
  config_from_json,
  config_to_json,
  find_checkpoint,
  find_problems,
  list_checkpoints,
  load_config,
  write_config,
)
from mmdiff_jax.checkpoint.parameters import (
  holds,
  load_params,
  read_average,
  save_params,
  write_checkpoint,
)
from mmdiff_jax.checkpoint.run import Checkpoints, check_checkpoints_path

__all__ = [
  "CLOUD_MARK",
  "Checkpoints",
  "check_checkpoints_path",
  "config_from_json",
  "config_to_json",
  "find_checkpoint",
  "find_problems",
  "holds",
  "list_checkpoints",
  "load_config",
  "load_params",
  "read_average",
  "save_params",
  "write_checkpoint",
  "write_config",
]
