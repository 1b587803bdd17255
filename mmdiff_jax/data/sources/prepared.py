"""Clips of prepared records: TFRecord shards, or a TFDS data set of them."""

import functools
import hashlib
import os
from typing import Protocol

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.clips import Segment, segment_length
from mmdiff_jax.data.descriptions import InputInfo
from mmdiff_jax.data.manifest import Manifest
from mmdiff_jax.data.tfrecord import TFRecordSource
from mmdiff_jax.disk.files import as_path


class Records(Protocol):
  """Random access to records."""

  def __len__(self) -> int:
    """Their number."""

  def __getitem__(self, index: int, /) -> bytes:
    """The data of one."""


class RecordClip:
  """A clip of a record."""

  def __init__(
    self, segment: Segment, offset: int, repaired: tuple[str, ...] = ()
  ):
    """The clip that begins at frame `offset` of a segment."""
    self._segment, self._offset = segment, offset
    self._repaired = repaired

  def video(self) -> np.ndarray:
    """See `base.Clip`."""
    return self._segment.video(self._offset)

  def frame(self, index: int) -> np.ndarray:
    """See `base.Clip`."""
    return self._segment.frame(self._offset + index)

  def audio(self) -> np.ndarray:
    """See `base.Clip`."""
    return self._segment.audio(self._offset)

  def inputs(self) -> dict[str, np.ndarray]:
    """See `base.Clip`."""
    return self._segment.inputs()

  def captions(self) -> tuple[str, ...]:
    """See `base.Clip`."""
    return self._segment.captions()

  def origin(self) -> str:
    """See `base.Clip`."""
    return f"{self._segment.source} @{self._segment.start + self._offset}"

  def repairs(self) -> tuple[str, ...]:
    """See `base.Clip`."""
    return self._repaired


class PreparedSource:
  """The videos of a prepared data set."""

  def __init__(self, name: str, manifest: Manifest, records: Records):
    """Finds the records of each video.

    Args:
      name: of the data set in errors.
      manifest: describes the records.
      records: all of them.

    Raises:
      ValueError: if there are not as many records as the manifest says.
    """
    _, owners = manifest.record_table()
    if len(records) != len(owners):
      raise ValueError(
        f"{name} holds {len(records)} records, its manifest describes"
        f" {len(owners)}; prepare the videos again."
      )
    self.name = name
    self.videos = {video.source: video.frames for video in manifest.videos}
    self.left_out = {video.source: video.left_out for video in manifest.videos}
    self._repaired = {video.source: video.repaired for video in manifest.videos}
    first = np.searchsorted(owners, np.arange(len(manifest.videos)))
    self._first_record = dict(zip(self.videos, first.tolist(), strict=True))
    self._manifest, self._records = manifest, records

  @property
  def spec(self) -> AVSpec:
    """Geometry of the clips."""
    return self._manifest.spec

  @functools.cached_property
  def inputs(self) -> dict[str, InputInfo]:
    """What the manifest tells, and what else the first record has."""
    told = self._manifest.input_infos()
    if len(self._records):
      first = Segment(self._records[0], self.spec).inputs()
      for name, value in first.items():
        told.setdefault(name, InputInfo(value.shape))
    return told

  @property
  def fit(self) -> str:
    """How the pictures were fitted; see `container.FITS`."""
    return self._manifest.options.get("fit", "pad")

  @property
  def skipped(self) -> tuple[tuple[str, str], ...]:
    """(video, reason) of each one that preparation left out."""
    return self._manifest.skipped

  def where(self, video: str) -> str:
    """See `base.Source`."""
    return f"{self.name}#{video}"

  def clip(self, video: str, start: int) -> RecordClip:
    """See `base.Source`; raises CorruptRecordError if a record is damaged."""
    # Segment k holds the clips from frame k F to (k + 1) F - 1.
    length = self.spec.frames
    number, offset = divmod(start, length)
    begin = number * length
    frames = min(segment_length(length), self.videos[video] - begin)
    number += self._first_record[video]
    try:
      segment = Segment(self._records[number], self.spec)
      segment.check_place(video, begin, frames)
    except ValueError as error:
      if str(error).startswith(("not a", "the record")):
        raise ValueError(
          f"record {number} of {self.name}: {error}; prepare the videos again."
        ) from error
      raise
    return RecordClip(segment, offset, self._repaired[video])

  def digest(self, video: str, start: int) -> str:
    """See `base.Source`."""
    number = self._first_record[video] + start // self.spec.frames
    return hashlib.sha256(self._records[number]).hexdigest()

  def __repr__(self) -> str:
    return f"PreparedSource({self.name}, {len(self.videos)} videos)"


def open_tfrecord(directory: str | os.PathLike) -> PreparedSource:
  """Opens a folder of TFRecord shards with their dataset.json.

  Raises:
    ValueError: if there is none, or it is damaged.
  """
  folder = as_path(directory).expanduser()
  manifest = Manifest.load(folder)
  records = TFRecordSource([folder / name for name, _ in manifest.shards])
  return PreparedSource(os.fspath(folder), manifest, records)


def open_tfds(name: str, tfds_dir: str) -> PreparedSource:
  """Opens a data set made by prepare_tfds, without TensorFlow.

  Args:
    name: of the data set.
    tfds_dir: folder of data sets; "" means TFDS's own default.

  Raises:
    ValueError: if there is none, or TFDS is not installed.
  """
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise ValueError(
      f"'tfds:{name}' needs TFDS: pip install tensorflow-datasets array_record."
    ) from error
  try:
    builder = tfds.builder(name, data_dir=tfds_dir or None)
    records = builder.as_data_source(
      "train", deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
  except (tfds.core.DatasetNotFoundError, AssertionError) as error:
    raise ValueError(
      f"no TFDS data set {name!r} in {tfds_dir or 'the default folder'}; set"
      " data.tfds_dir, or make one by the command prepare_tfds."
    ) from error
  metadata = builder.info.metadata or {}
  if "manifest" not in metadata:
    raise ValueError(
      f"the TFDS data set {name!r} was not made by prepare_tfds: it has no"
      " manifest."
    )
  manifest = Manifest.from_json(metadata["manifest"], f"tfds:{name}")
  return PreparedSource(f"tfds:{name}", manifest, records)
