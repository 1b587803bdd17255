"""What settings of a run make sense, and which may change on the way."""

import logging
import math
import re
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax.configuration import flatten
from mmdiff_jax.devices.mesh import check_batch_size
from mmdiff_jax.task import Task
from mmdiff_jax.training import divergence

_log = logging.getLogger(__name__)

# What a setting of `config.train` must be at least, and what it must be below.
_RANGES = {
  "num_steps": (1, math.inf),
  "learning_rate": (0.0, math.inf),
  "weight_decay": (0.0, math.inf),
  "adam_b1": (0.0, 1.0),
  "adam_b2": (0.0, 1.0),
  "ema_decay": (0.0, 1.0),
  "gradient_clip": (0.0, math.inf),
  "video_loss_weight": (0.0, math.inf),
  "audio_loss_weight": (0.0, math.inf),
  "warmup_steps": (0, math.inf),
  "log_every": (0, math.inf),
  "checkpoint_every": (0, math.inf),
  "preview_every": (0, math.inf),
  "eval_every": (0, math.inf),
  "eval_batches": (1, math.inf),
  "cond_dropout": (0.0, 1.0),
  "keep_every": (0, math.inf),
  "preview_samples": (1, math.inf),
  "preview_steps": (1, math.inf),
  "max_skipped": (1, math.inf),
}


def check_ranges(train: ConfigDict) -> None:
  """Raises ValueError for a value of `config.train` that makes no sense."""
  for name, (least, bound) in _RANGES.items():
    if not least <= train[name] < bound:
      below = "" if bound == math.inf else f" and below {bound:g}"
      raise ValueError(
        f"config.train.{name}={train[name]} must be at least {least:g}{below}."
      )
  if train.on_nonfinite not in divergence.ON_NONFINITE:
    raise ValueError(
      f"config.train.on_nonfinite={train.on_nonfinite!r} is unknown; choose "
      f"{' or '.join(divergence.ON_NONFINITE)}."
    )


def check_batch(train: ConfigDict, mesh: Mesh) -> None:
  """Raises ValueError unless micro-batches and devices divide the batch."""
  size, parts = train.batch_size, train.microbatches
  if parts < 1 or size % parts:
    raise ValueError(
      f"config.train.microbatches={parts} must divide "
      f"config.train.batch_size={size}."
    )
  check_batch_size(mesh, size, "config.train.batch_size", parts)


def record_inputs(
  config: ConfigDict, task: Task, told: Mapping[str, Any]
) -> ConfigDict:
  """A configuration with what the data tell of the network's inputs.

  Args:
    config: of the run.
    task: what is learnt.
    told: `data.descriptions.InputInfo`s by name.

  Returns:
    A copy, in which `data.classes` and `data.text_encoder_hash` are those of
    the data, where the network is told labels or captions.

  Raises:
    ValueError: if the data have more classes than the network.
  """
  config = config.copy_and_resolve_references()
  told = {name: info for name, info in told.items() if name in task.inputs}
  with config.unlocked():
    if "label" in told and told["label"].classes:
      classes = told["label"].classes
      if len(classes) > config.model.num_classes:
        raise ValueError(
          f"config.model.num_classes={config.model.num_classes}, but the data "
          f"have {len(classes)}: {', '.join(classes[:20])}."
        )
      config.data.classes = classes
    if "text" in told and told["text"].encoder:
      config.data.text_encoder_hash = told["text"].encoder
  return config


# Settings that a run may change on the way: what the network is, was learnt
# and has seen does not depend on them.
_FREE_SETTINGS = re.compile(
  r"mesh\.|compilation_cache|model\.kernels|sample\.|sr\.(sample|chunk)"
  r"|data\.(num_threads|prefetch)"
  r"|train\.(num_steps|init_from|preview_|eval_|\w+_every$|on_nonf|max_sk)"
)
# What runs did that were saved before the setting existed.
_BEFORE = {
  "diffusion.process": "vp",
  "diffusion.zero_terminal_snr": False,
  "train.levels": "shared",
}
# Those that would make another model of it.
_FIXED_SETTINGS = re.compile(
  r"diffusion\.(process|schedule|zero_terminal_snr|num_timesteps|prediction)"
  r"|diffusion\.timestep_sampler|data\.(classes|text_encoder_hash)"
  r"|model\.(?!remat|attention$|kernels|dtype|dropout)"
)


def compare(stored: ConfigDict, config: ConfigDict) -> None:
  """Compares the settings of a saved run with those to continue it with.

  Logs a warning for each that has changed and matters.

  Raises:
    ValueError: if it would become another model.
  """
  before, now = (_BEFORE | flatten(c.to_dict()) for c in (stored, config))
  for key in sorted(before.keys() & now.keys()):
    if before[key] == now[key] or _FREE_SETTINGS.match(key):
      continue
    change = (
      f"config.{key} was {before[key]} when this run was saved and is "
      f"{now[key]} now"
    )
    if _FIXED_SETTINGS.match(key):
      raise ValueError(f"{change}; set it back, or take another --workdir.")
    _log.warning("%s: the run goes on with it.", change)
