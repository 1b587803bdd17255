"""The section `sample` of a run: what is asked for, and whether it fits."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mmdiff_jax import checkpoint, samplers
from mmdiff_jax.configuration import flatten
from mmdiff_jax.sampling.clip_sampler import condition_options
from mmdiff_jax.sampling.sample_fn import inherit_sampler
from mmdiff_jax.sampling.sequence import check_sequence
from mmdiff_jax.task import Task

# Keys of `config.model` that do not change what a network is.
_FREE_MODEL_KEYS = {"dtype", "remat", "attention", "kernels", "dropout"}
# What `config.sample` says of known values where there are none.
_NOTHING_KNOWN = {
  "condition_method": "clean",
  "guidance_scale": None,
  "resample_repeats": None,
  "resample_jump": None,
}


def own_sampler(
  trained: ConfigDict,
  settings: ConfigDict,
  asked: Mapping[str, Any],
  nothing_known: bool,
  inputs: Mapping[str, Any] | None,
) -> ConfigDict:
  """The section `sample` of a checkpoint under what is asked for.

  What the checkpoint says of conditions and guidance counts where there is
  something that it applies to.
  """
  merged = settings.copy_and_resolve_references()
  names = ["batch_size"]
  names += [] if nothing_known else list(_NOTHING_KNOWN)
  names += ["cfg_scale", "cfg_interval"] if inputs else []
  with merged.unlocked():
    merged.update(inherit_sampler(trained, asked))
    merged.update(
      {
        name: trained[name]
        for name in names
        # The former default, which nobody chose.
        if name in trained and trained[name] != "replacement"
      }
      | {k: v for k, v in asked.items() if k not in samplers.OPTIONS}
    )
  return merged


def check_effect(
  task: Task,
  settings: ConfigDict,
  condition: str | None,
  nothing_known: bool,
) -> None:
  """Raises ValueError for options that would change nothing."""
  condition_options(settings)
  check_sequence(settings.sequence, task)
  if settings.sequence != "joint" and condition in ("audio", "video"):
    raise ValueError(
      f"config.sample.sequence={settings.sequence!r} has no effect with "
      f"--condition={condition}: one stream is known."
    )
  for name, value in _NOTHING_KNOWN.items():
    if nothing_known and settings[name] != value:
      raise ValueError(
        f"config.sample.{name}={settings[name]} has no effect without "
        "--condition or --duration."
      )


def check_inputs(
  task: Task, settings: ConfigDict, inputs: Mapping[str, Any]
) -> None:
  """Raises ValueError for inputs that the network does not take."""
  task.repeat_inputs(inputs, 1)
  task.network.check_inputs(inputs)
  if settings.cfg_scale is not None and not inputs:
    raise ValueError(
      f"config.sample.cfg_scale={settings.cfg_scale} has no effect without an "
      f"input; inputs: {', '.join(sorted(task.inputs)) or 'none'}."
    )


def without_batch_size(settings: ConfigDict) -> dict[str, Any]:
  """What of `config.sample` the samples depend on, as JSON values."""
  values = checkpoint.config_to_json(settings)
  del values["batch_size"]
  return values


def check_same_network(
  config: ConfigDict, checkpoint_path: str, name: str
) -> None:
  """Raises ValueError where a configuration is of another network.

  Its sampler would run with what a checkpoint of a different size can do.

  Args:
    config: that says how to sample.
    checkpoint_path: what is sampled.
    name: of the configuration, for the error.
  """
  run = checkpoint.load_config(checkpoint_path)
  ours, theirs = flatten(config.model.to_dict()), flatten(run.model.to_dict())
  other = [
    key
    for key in ours.keys() & theirs.keys() - _FREE_MODEL_KEYS
    if ours[key] != theirs[key]
  ]
  if other:
    key = min(other)
    raise ValueError(
      f"--config={name} describes another network than {checkpoint_path}: "
      f"model.{key} is {ours[key]} there and {theirs[key]} in the checkpoint. "
      "Leave --config out: the checkpoint knows its sampler, and keys such as "
      "--config.sample.steps=20 take precedence over it."
    )
