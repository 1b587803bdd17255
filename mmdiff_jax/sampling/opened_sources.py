"""The sources of a run, opened as its condition wants them."""

import dataclasses
import hashlib
from typing import Any

from ml_collections import ConfigDict

from mmdiff_jax.sampling.clip_sampler import Lengths
from mmdiff_jax.sampling.edit import Edit, read_mask
from mmdiff_jax.sampling.edited_sources import EditReader
from mmdiff_jax.sampling.known_sources import KnownSource, load_sources
from mmdiff_jax.task import Task


@dataclasses.dataclass(frozen=True)
class Asked:
  """What a run is asked to take from where.

  Attributes:
    condition: None, "audio", "video", "continue" or "edit".
    source: file or folder with the known values, or None.
    edit: what "edit" keeps, and what it makes anew.
    between: in place of `source`, for an edit from one to the other.
  """

  condition: str | None
  source: str | None
  edit: Edit | None = None
  between: tuple[str, str] | None = None


def open_sources(
  asked: Asked, task: Task, lengths: Lengths, data: ConfigDict, fit: str
) -> list[KnownSource] | None:
  """The known values of a run, read and checked; None where there are none.

  Raises:
    ValueError: where what is asked for does not fit together, or cannot be
      used.
  """
  if asked.condition == "edit":
    return _edited(asked, task, lengths, data, fit)
  if asked.edit is not None or asked.between is not None:
    raise ValueError("An edit needs --condition=edit.")
  if asked.condition is None:
    if asked.source:
      raise ValueError("--source has no effect without --condition.")
    return None
  if not asked.source:
    raise ValueError(f"--condition={asked.condition} needs --source.")
  return load_sources(
    asked.condition,
    asked.source,
    task.spec,
    lengths.known(asked.condition),
    tfds_dir=data.tfds_dir,
    synthetic_clips=data.synthetic_clips,
    fit=fit,
  )


def _edited(
  asked: Asked, task: Task, lengths: Lengths, data: ConfigDict, fit: str
) -> list[KnownSource]:
  edit = asked.edit
  if edit is None:
    raise ValueError("--condition=edit needs what to edit, such as --span.")
  if (asked.source is None) == (asked.between is None):
    raise ValueError("--condition=edit needs --source, or --between=A,B alone.")
  if lengths.total > task.spec.frames and edit.extend != "after":
    raise ValueError(
      "--duration has an effect with --extend=after alone: other edits are as "
      "long as their source."
    )
  overlap = lengths.overlap or max(2, task.spec.frames // 2)
  reader = EditReader(
    task.spec, overlap, data.tfds_dir, data.synthetic_clips, fit
  )
  return reader.read(edit, asked.source, asked.between)


def json_edit(edit: Edit) -> dict[str, Any]:
  """What is set of an edit, as JSON values; a mask by its content."""
  values = {
    name: list(value) if isinstance(value, tuple) else value
    for name, value in dataclasses.asdict(edit).items()
    if value not in (None, "", False)
  }
  if edit.mask:
    digest = hashlib.sha256(read_mask(edit.mask).tobytes()).hexdigest()
    values["mask"] = digest[:16]
  return values
