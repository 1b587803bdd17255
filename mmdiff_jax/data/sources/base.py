"""What every source of clips offers, and the clips of a source in a row."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.clips import is_held_out
from mmdiff_jax.data.descriptions import InputInfo

SPLITS = ("train", "heldout", "all")


class Clip(Protocol):
  """F consecutive frames of a video with the audio of their time span.

  It decodes only what it is asked for.
  """

  def video(self) -> np.ndarray:
    """All frames, uint8 `[F, H, W, 3]`."""

  def frame(self, index: int) -> np.ndarray:
    """Frame `index`, uint8 `[H, W, 3]`."""

  def audio(self) -> np.ndarray | None:
    """Float32 `[L, 1]` in [-1, 1]; None where the video has no sound."""

  def inputs(self) -> dict[str, np.ndarray]:
    """What is known besides the streams, by name: int32 or float32.

    What its video has several of, such as the vectors of several captions,
    stands one behind the other.
    """

  def captions(self) -> tuple[str, ...]:
    """Texts that describe its video."""

  def origin(self) -> str:
    """Name of the video, and where the clip starts in it."""

  def repairs(self) -> tuple[str, ...]:
    """What had to be padded or cut, in words."""


class Source(Protocol):
  """Videos by name, and the clips that can be cut from them."""

  @property
  def name(self) -> str:
    """Where the videos come from, for errors and reports."""

  @property
  def spec(self) -> AVSpec:
    """Geometry of the clips."""

  @property
  def videos(self) -> Mapping[str, int]:
    """Number of frames of each video by name, in order."""

  @property
  def inputs(self) -> Mapping[str, InputInfo]:
    """What some of its videos tell beside their streams, by name."""

  @property
  def skipped(self) -> Sequence[tuple[str, str]]:
    """(video, reason) of each one that was left out."""

  def where(self, video: str) -> str:
    """Where a video lies: its path, or the source and its name there."""

  def clip(self, video: str, start: int) -> Clip:
    """The clip that begins at frame `start` of a video."""

  def digest(self, video: str, start: int) -> str:
    """Hash of all data that the clip is made of."""


class ArrayClip:
  """A clip in memory."""

  def __init__(
    self,
    video: np.ndarray,
    audio: np.ndarray,
    origin: str,
    inputs: Mapping[str, np.ndarray],
    repaired: tuple[str, ...] = (),
  ):
    """See `Clip` for the arguments."""
    self._video, self._audio = video, audio
    self._origin, self._inputs = origin, inputs
    self._repaired = repaired

  def video(self) -> np.ndarray:
    """See Clip."""
    return self._video

  def frame(self, index: int) -> np.ndarray:
    """See Clip."""
    return self._video[index]

  def audio(self) -> np.ndarray:
    """See Clip."""
    return self._audio

  def inputs(self) -> dict[str, np.ndarray]:
    """See Clip."""
    return dict(self._inputs)

  def captions(self) -> tuple[str, ...]:
    """See Clip."""
    return ()

  def origin(self) -> str:
    """See Clip."""
    return self._origin

  def repairs(self) -> tuple[str, ...]:
    """See Clip."""
    return self._repaired


class ClipList:
  """The clips of a source in the order of its videos.

  Has the interface of grain's `RandomAccessDataSource`.
  """

  def __init__(
    self,
    source: Source,
    stride: int = 1,
    split: str = "all",
    holdout_fraction: float = 0.0,
  ):
    """Lists the clips.

    Args:
      source: of the videos; those that are too short have no clip.
      stride: frames from the start of one clip to the start of the next.
      split: which videos: "train" (not held out), "heldout" or "all".
      holdout_fraction: share of the videos, by the hash of their names, that
        is held out of training. Where it is 0 all are "train".

    Raises:
      ValueError: for an unknown split or a fraction outside [0, 1).
    """
    if not 0 <= holdout_fraction < 1:
      raise ValueError(
        f"data.holdout_fraction must be in [0, 1), got {holdout_fraction}."
      )
    if split not in SPLITS:
      raise ValueError(
        f"Unknown split {split!r}; allowed: {', '.join(SPLITS)}."
      )
    length = source.spec.frames
    self.source = source
    self._videos = [
      video
      for video, frames in source.videos.items()
      if frames >= length
      and (
        split == "all"
        or is_held_out(video, holdout_fraction) == (split == "heldout")
      )
    ]
    # Preparation may have left clips out; other sources have all.
    left_out = getattr(source, "left_out", {})
    self._starts = [
      _starts(source.videos[video] - length, stride, left_out.get(video, ()))
      for video in self._videos
    ]
    counts = [len(starts) for starts in self._starts]
    self._ends = np.cumsum(counts, dtype=np.int64)

  def __len__(self) -> int:
    return int(self._ends[-1]) if len(self._ends) else 0

  def place(self, index: int) -> tuple[str, int]:
    """Video and first frame of clip `index`."""
    position = int(np.searchsorted(self._ends, index, side="right"))
    before = int(self._ends[position - 1]) if position else 0
    return self._videos[position], int(
      self._starts[position][int(index) - before]
    )

  def __getitem__(self, index: int) -> Clip:
    """Clip `index`; raises ValueError if its data are damaged."""
    return self.source.clip(*self.place(index))

  def __repr__(self) -> str:
    # grain writes it into its checkpoints' metadata.
    return f"ClipList({self.source.name}, {len(self)} clips)"


def _starts(
  last: int, stride: int, left_out: Sequence[tuple[int, int]]
) -> Sequence[int]:
  """First frames of clips, `stride` apart, without those left out."""
  starts = range(0, last + 1, stride)
  if not left_out:
    return starts
  bad = np.zeros(last + 1, bool)
  for begin, end in left_out:
    bad[begin:end] = True
  return [start for start in starts if not bad[start]]
