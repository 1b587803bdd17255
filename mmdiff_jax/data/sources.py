"""Where windows come from: prepared shards, TFDS data sets, synthetic clips.

A source is a sequence of windows, one for every F consecutive frames of its
videos. A window decodes only what it is asked for.
"""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from ml_collections import ConfigDict

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.clips import Manifest, Segment, is_held_out
from mmdiff_jax.data.tfrecord import TFRecordSource


class Window(Protocol):
  """F consecutive frames of a video with the audio of their time span."""

  def video(self) -> np.ndarray:
    """All frames, uint8 `[F, H, W, 3]`."""

  def frame(self, index: int) -> np.ndarray:
    """Frame `index`, uint8 `[H, W, 3]`."""

  def audio(self) -> np.ndarray:
    """Float32 `[L, 1]` in [-1, 1]."""

  def label(self) -> str:
    """Name of the video, and where the window starts in it."""


class SegmentWindow:
  """A window of a record."""

  def __init__(self, segment: Segment, offset: int):
    self._segment, self._offset = segment, offset

  def video(self) -> np.ndarray:
    """See Window."""
    return self._segment.video(self._offset)

  def frame(self, index: int) -> np.ndarray:
    """See Window."""
    return self._segment.frame(self._offset + index)

  def audio(self) -> np.ndarray:
    """See Window."""
    return self._segment.audio(self._offset)

  def label(self) -> str:
    """See Window."""
    return f"{self._segment.source} @{self._segment.start + self._offset}"


class ArrayWindow:
  """A window in memory."""

  def __init__(self, video: np.ndarray, audio: np.ndarray, label: str):
    self._video, self._audio, self._label = video, audio, label

  def video(self) -> np.ndarray:
    """See Window."""
    return self._video

  def frame(self, index: int) -> np.ndarray:
    """See Window."""
    return self._video[index]

  def audio(self) -> np.ndarray:
    """See Window."""
    return self._audio

  def label(self) -> str:
    """See Window."""
    return self._label


class PreparedSource:
  """The windows of a prepared data set, or of the clips that are selected."""

  def __init__(
    self,
    manifest: Manifest,
    records: Sequence[bytes],
    select: Callable[[str], bool],
    where: str,
  ):
    """Lists the windows.

    Args:
      manifest: describes the records.
      records: random access to all records.
      select: says for the name of a video whether it takes part.
      where: name of the data set in errors.

    Raises:
      ValueError: if there are not as many records as the manifest says.
    """
    windows, owners = manifest.record_table()
    if len(records) != len(windows):
      raise ValueError(
        f"{where} holds {len(records)} records, its manifest describes"
        f" {len(windows)}; prepare the videos again."
      )
    chosen = np.array([select(clip.source) for clip in manifest.clips], bool)
    self._chosen = np.flatnonzero(chosen[owners])
    self._ends = np.cumsum(windows[self._chosen])
    self._windows = windows
    self._manifest, self._records, self._where = manifest, records, where

  @property
  def spec(self) -> AVSpec:
    """Geometry of the windows."""
    return self._manifest.spec

  def __len__(self) -> int:
    return int(self._ends[-1]) if len(self._ends) else 0

  def __getitem__(self, index: int) -> SegmentWindow:
    """Window `index`; raises CorruptRecordError if its record is damaged."""
    position = int(np.searchsorted(self._ends, index, side="right"))
    record = int(self._chosen[position])
    first = int(self._ends[position]) - int(self._windows[record])
    try:
      segment = Segment(self._records[record], self.spec)
    except ValueError as error:
      if str(error).startswith(("not a", "the record")):
        raise ValueError(
          f"record {record} of {self._where}: {error}; prepare the videos"
          " again."
        ) from error
      raise
    return SegmentWindow(segment, int(index) - first)

  def __repr__(self) -> str:
    return f"PreparedSource({self._where}, {len(self)} windows)"


class SyntheticSource:
  """Clips of the sounding-shapes world; clip i depends on i alone."""

  def __init__(self, spec: AVSpec, count: int, select: Callable[[str], bool]):
    """`select` says for the name of a clip whether it takes part."""
    self.spec = spec
    self._clips = [i for i in range(count) if select(_synthetic_name(i))]

  def __len__(self) -> int:
    return len(self._clips)

  def __getitem__(self, index: int) -> ArrayWindow:
    """Clip `index`."""
    from mmdiff_jax.world.clips import make_clip, split_seed

    number = self._clips[index]
    seed = split_seed("train", number)
    clip = make_clip(seed, self.spec)
    return ArrayWindow(clip.video, clip.audio, _synthetic_name(number))

  def __repr__(self) -> str:
    return f"SyntheticSource({len(self)} clips)"


Source = PreparedSource | SyntheticSource


def _synthetic_name(number: int) -> str:
  return f"synthetic/{number:08d}"


def open_source(data: ConfigDict, *, train: bool = True) -> Source:
  """Opens `data.source`.

  Args:
    data: the `data` part of a config.
    train: which side of the split by `data.holdout_fraction`; without a
      held-out share both sides are all of the data.

  Raises:
    ValueError: if the source is malformed, missing, or empty on this side.
  """
  kind, _, name = data.source.partition(":")
  fraction = data.holdout_fraction
  if not 0 <= fraction < 1:
    raise ValueError(
      f"data.holdout_fraction must be in [0, 1), got {fraction}."
    )

  def select(source: str) -> bool:
    return fraction == 0 or is_held_out(source, fraction) != train

  if kind == "tfrecord" and name:
    source = _open_tfrecord(name, select)
  elif kind == "tfds" and name:
    source = _open_tfds(name, data.tfds_dir, select)
  elif data.source == "synthetic":
    source = SyntheticSource(config_spec(data), data.synthetic_clips, select)
  else:
    raise ValueError(
      f"data.source={data.source!r} is none of 'tfrecord:DIR', 'tfds:NAME',"
      " 'synthetic'."
    )
  if len(source) == 0:
    side = "training" if train else "held-out"
    raise ValueError(
      f"data.source={data.source!r} has no {side} clip at"
      f" data.holdout_fraction={fraction}; change the fraction or add videos."
    )
  return source


def config_spec(data: ConfigDict) -> AVSpec:
  """The clip geometry that a config asks for."""
  return AVSpec(
    data.frames, data.height, data.width, float(data.fps), data.sample_rate
  )


def _open_tfrecord(directory: str, select) -> PreparedSource:
  folder = pathlib.Path(os.path.expanduser(directory))
  manifest = Manifest.load(folder)
  paths = [folder / name for name, _ in manifest.shards]
  return PreparedSource(
    manifest, TFRecordSource(paths), select, os.fspath(folder)
  )


def _open_tfds(name: str, tfds_dir: str, select) -> PreparedSource:
  """Opens a data set made by data_prep.tfds_builder, without TensorFlow."""
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise ValueError(
      f"data.source='tfds:{name}' needs TFDS: pip install 'mmdiff-jax[tfds]'."
    ) from error
  try:
    builder = tfds.builder(name, data_dir=tfds_dir or None)
    records = builder.as_data_source(
      "train", deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
  except (tfds.core.DatasetNotFoundError, AssertionError) as error:
    raise ValueError(
      f"no TFDS data set {name!r} in {tfds_dir or 'the default folder'}; set"
      " data.tfds_dir, or make one with: python -m data_prep.tfds_builder"
    ) from error
  metadata = builder.info.metadata or {}
  if "manifest" not in metadata:
    raise ValueError(
      f"the TFDS data set {name!r} was not made by data_prep.tfds_builder:"
      " it has no manifest of clips."
    )
  manifest = Manifest.from_json(metadata["manifest"], f"tfds:{name}")
  return PreparedSource(manifest, records, select, f"tfds:{name}")
