"""Streams that are generated one after the other, not jointly."""

from collections.abc import Callable, Mapping
from typing import Any

from mmdiff_jax.samplers import Condition
from mmdiff_jax.task import Task

# Sequence -> the stream that comes first, and the one that follows from it.
SEQUENCES: dict[str, tuple[str, ...]] = {
  "joint": (),
  "audio_first": ("audio", "video"),
  "video_first": ("video", "audio"),
}

Run = Callable[[Any], Condition | None]


def check_sequence(sequence: str, task: Task) -> None:
  """Raises ValueError for a sequence that the network cannot follow."""
  if sequence not in SEQUENCES:
    raise ValueError(
      f"config.sample.sequence={sequence!r} is unknown; allowed are "
      f"{', '.join(SEQUENCES)}."
    )
  if SEQUENCES[sequence] and task.levels == "shared":
    raise ValueError(
      f"config.sample.sequence={sequence!r} needs a network that was trained "
      "with config.train.levels=mixed; this one was not. Use 'joint'."
    )


def in_sequence(
  sequence: str, condition: Condition | None, options: Mapping[str, Any]
) -> list[Run]:
  """The runs of a sampler that make a clip.

  Args:
    sequence: one of `SEQUENCES`.
    condition: what is known beforehand.
    options: of the condition under which the second stream follows.

  Returns:
    Functions of the samples of the run before (None for the first) to the
    condition of a run; the samples of the last one are the clip.
  """
  if not SEQUENCES[sequence]:
    return [lambda x: condition]
  first, second = SEQUENCES[sequence]
  known = dict(condition.known) if condition else {}
  mask = dict(condition.mask or {}) if condition else {}

  def alone(x: Any) -> Condition:
    del x
    return Condition(
      {first: known[first]} if first in known else {},
      {first: mask[first]} if first in mask else {},
      method="clean",
      absent=(second,),
    )

  def follow(x: Any) -> Condition:
    rest = {second: known[second]} if second in known else {}
    where = {second: mask[second]} if second in mask else {}
    return Condition({first: x[first]} | rest, where, **options)

  return [alone, follow]
