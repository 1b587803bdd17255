"""Changes of a configuration that save memory, from the smallest on."""

from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

# By a configuration's key, such as {"train.microbatches": 2}.
Changes = dict[str, Any]


def rungs(config: ConfigDict, what: str, devices: int) -> Iterator[Changes]:
  """Changes that save memory, each to be tried after those before it.

  For training: rematerialisation, which costs time alone; micro-batches;
  parameters split over more devices; a smaller batch, which is another run. For
  sampling a smaller batch comes first, for samples do not depend on it.

  Args:
    config: that is to be changed.
    what: "train" or "sample".
    devices: of the mesh.
  """
  fsdp = config.mesh.fsdp if config.mesh.fsdp > 0 else devices
  wider = [
    _split(config, n) for n in range(fsdp + 1, devices + 1) if devices % n == 0
  ]
  if what == "sample":
    sizes = _smaller(config.sample.batch_size, devices)
    for size in sizes:
      yield {"sample.batch_size": size}
    for split in wider:
      yield split | ({"sample.batch_size": sizes[-1]} if sizes else {})
    return
  first: Changes = {}
  remat = config.model.get("remat", "blocks")
  if remat in ("none", "attention"):
    yield {"model.remat": "products"}
  if remat != "blocks":
    first = {"model.remat": "blocks"}
    yield first
  batch, micro = config.train.batch_size, config.train.microbatches
  shares = [
    {"train.microbatches": count}
    for count in range(micro + 1, batch // devices + 1)
    if batch % (count * devices) == 0
  ]
  for share in shares:
    yield first | share
  for split in wider:
    for share in ({}, *shares):
      yield first | split | share
  for size in _smaller(batch, devices):
    alone = {"train.batch_size": size, "train.microbatches": 1}
    yield first | (wider[-1] if wider else {}) | alone


def _split(config: ConfigDict, fsdp: int) -> Changes:
  rest = {} if config.mesh.data == -1 else {"mesh.data": -1}
  return rest | {"mesh.fsdp": fsdp}


def _smaller(batch: int, devices: int) -> list[int]:
  """Halves of a batch, and halves of those, that the devices divide."""
  sizes = []
  while batch % (2 * devices) == 0:
    batch //= 2
    sizes.append(batch)
  return sizes


def changed(config: ConfigDict, changes: Changes) -> ConfigDict:
  """A copy of a configuration with changes."""
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict(changes)
  return config


def as_flags(changes: Changes) -> str:
  """Changes as they are given on the command line."""
  return " ".join(f"--config.{key}={value}" for key, value in changes.items())


def least_memory(
  report: Mapping[str, Any], before: ConfigDict, after: ConfigDict, what: str
) -> float | None:
  """Bytes that a changed program needs at least, by a report on another.

  Args:
    report: on the program of `before`.
    before: its configuration.
    after: the changed one.
    what: "train" or "sample".

  Returns:
    As if all activations were in proportion to the clips that a device works on
    at once; None where nothing can be told, as of rematerialisation.
  """
  same = before.model.to_dict() == after.model.to_dict()
  if not same or report["memory"] is None:
    return None
  devices = report["devices"]
  fsdp_before, fsdp_after = (
    c.mesh.fsdp if c.mesh.fsdp > 0 else devices for c in (before, after)
  )
  held = sum(size for kind, size in report["held"].items() if kind != "batch")
  activations = max(0, report["memory"] - sum(report["held"].values()))
  # Gradients are among them, and are split as parameters are.
  gradients = report["held"]["parameters"] if what == "train" else 0
  scale = _rows(after, what) / _rows(before, what)
  share = fsdp_before / fsdp_after
  return share * held + scale * max(0, activations - gradients * (1 - share))


def _rows(config: ConfigDict, what: str) -> float:
  """Clips that are worked on at once."""
  if what == "sample":
    return config.sample.batch_size
  return config.train.batch_size / config.train.microbatches
