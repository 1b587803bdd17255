"""Sources of clips by name, for training, evaluation and conditioning alike."""

from mmdiff_jax.data.sources.base import SPLITS, Clip, ClipList, Source
from mmdiff_jax.data.sources.described import DescriptionOptions
from mmdiff_jax.data.sources.kinds import (
  Name,
  SourceOptions,
  find_kind,
  is_prepared,
  open_source,
)
from mmdiff_jax.data.sources.media_source import probe

__all__ = [
  "SPLITS",
  "Clip",
  "ClipList",
  "DescriptionOptions",
  "Name",
  "Source",
  "SourceOptions",
  "find_kind",
  "is_prepared",
  "open_source",
  "probe",
]
