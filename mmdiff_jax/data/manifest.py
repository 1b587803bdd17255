"""dataset.json, which describes a prepared data set.

The records follow from it: those of its videos in order, of each video its
segments.
"""

import dataclasses
import json
import os
import pathlib

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.clips import segments
from mmdiff_jax.data.descriptions import InputInfo
from mmdiff_jax.disk.checksums import SEAL, ChangedError, seal, unseal
from mmdiff_jax.disk.files import as_path, replacing

FORMAT = "mmdiff_jax clips"
VERSION = 1
MANIFEST = "dataset.json"


@dataclasses.dataclass(frozen=True)
class Video:
  """One prepared video.

  Attributes:
    source: its name.
    frames: their number.
    repaired: what was padded, cut or chosen, in words.
    left_out: runs (first, last + 1) of clips that are not used.
    empty: seconds that are "silent", "still" and "black".
    captions: their number.
    bars: shares of its pictures that are black at the top and the bottom (of
      the height), at the left and the right (of the width).
  """

  source: str
  frames: int
  repaired: tuple[str, ...] = ()
  left_out: tuple[tuple[int, int], ...] = ()
  empty: dict[str, float] = dataclasses.field(default_factory=dict)
  captions: int = 0
  bars: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Manifest:
  """Contents of dataset.json.

  Attributes:
    spec: geometry of a clip.
    frame_format: one of `clips.FRAME_FORMATS`.
    jpeg_quality: quality of "jpeg" frames, else None.
    videos: in the order of their records.
    shards: (file name, number of videos) of each shard, in order.
    skipped: (source, reason) of each video that was left out.
    options: what else the preparation was told.
    classes: names of the values of the records' "label", if they have one.
    vectors: what the records hold of captions ("text") and of other files
      ("embedding"): "width", number of "videos", and of captions the
      "encoder" (its hash).
    fingerprint: hash of inputs and options.
    is_sealed: whether its text had a checksum of its own.
  """

  spec: AVSpec
  frame_format: str
  jpeg_quality: int | None
  videos: tuple[Video, ...]
  shards: tuple[tuple[str, int], ...]
  skipped: tuple[tuple[str, str], ...] = ()
  options: dict = dataclasses.field(default_factory=dict)
  classes: tuple[str, ...] = ()
  vectors: dict[str, dict] = dataclasses.field(default_factory=dict)
  fingerprint: str = ""
  is_sealed: bool = dataclasses.field(default=True, compare=False)

  def segments_of(self, shard: int) -> list[tuple[str, int, int]]:
    """(video, first frame, frames) of each record of a shard, in order."""
    first = sum(count for _, count in self.shards[:shard])
    videos = self.videos[first : first + self.shards[shard][1]]
    return [
      (video.source, start, frames)
      for video in videos
      for start, frames in segments(video.frames, self.spec.frames)
    ]

  def input_infos(self) -> dict[str, InputInfo]:
    """What the data set tells of the inputs of its videos."""
    infos = {
      name: InputInfo((told["width"],), encoder=told.get("encoder", ""))
      for name, told in self.vectors.items()
    }
    if self.classes:
      infos["label"] = InputInfo((), self.classes)
    return infos

  def record_table(self) -> tuple[np.ndarray, np.ndarray]:
    """Number of clips, and index of the video, of every record."""
    clips, owners = [], []
    for owner, video in enumerate(self.videos):
      for _, frames in segments(video.frames, self.spec.frames):
        clips.append(frames - self.spec.frames + 1)
        owners.append(owner)
    return np.array(clips, np.int64), np.array(owners, np.int64)

  @property
  def num_records(self) -> int:
    """Records in all shards."""
    return len(self.record_table()[0])

  @property
  def num_clips(self) -> int:
    """Clips of `spec.frames` frames at stride 1 that are used."""
    return sum(self.clips_of(video) for video in self.videos)

  @property
  def hours(self) -> float:
    """Length of all videos."""
    return sum(v.frames for v in self.videos) / self.spec.fps / 3600

  def to_json(self) -> str:
    """The text of dataset.json; equal data sets give equal text."""
    content = {
      "format": FORMAT,
      "version": VERSION,
      "spec": dataclasses.asdict(self.spec),
      "frame_format": self.frame_format,
      "jpeg_quality": self.jpeg_quality,
      "options": self.options,
      "counts": {
        "clips": len(self.videos),
        "skipped": len(self.skipped),
        "repaired": sum(bool(video.repaired) for video in self.videos),
        "records": self.num_records,
        "windows": self.num_clips,
        "frames": sum(video.frames for video in self.videos),
      },
      "hours": round(self.hours, 6),
      "shards": self._shard_table(),
      "clips": [
        {
          "source": video.source,
          "frames": video.frames,
          "windows": self.clips_of(video),
          "repaired": list(video.repaired),
          "left_out": [list(run) for run in video.left_out],
          "empty": video.empty,
        }
        | ({"captions": video.captions} if video.captions else {})
        | ({"bars": list(video.bars)} if any(video.bars) else {})
        for video in self.videos
      ],
      "skipped": [
        {"source": source, "reason": reason} for source, reason in self.skipped
      ],
      "fingerprint": self.fingerprint,
    }
    if self.classes:
      content["classes"] = list(self.classes)
    if self.vectors:
      content["vectors"] = self.vectors
    return json.dumps(seal(content), indent=1) + "\n"

  def clips_of(self, video: Video) -> int:
    """Clips of a video that are used."""
    left_out = sum(end - begin for begin, end in video.left_out)
    return video.frames - self.spec.frames + 1 - left_out

  def _shard_table(self) -> list[dict]:
    table, first = [], 0
    for name, count in self.shards:
      videos = self.videos[first : first + count]
      first += count
      table.append(
        {
          "file": name,
          "clips": count,
          "records": sum(
            len(segments(v.frames, self.spec.frames)) for v in videos
          ),
          "windows": sum(self.clips_of(v) for v in videos),
        }
      )
    return table

  @classmethod
  def from_json(cls, text: str | bytes, where: str = MANIFEST) -> "Manifest":
    """Inverse of `to_json`; `where` names the text in errors.

    Raises:
      ValueError: if the text describes no data set, or one of another version.
    """
    try:
      content = json.loads(text)
      found = content["format"], content["version"]
    except (KeyError, RecursionError, TypeError, ValueError) as error:
      raise _damaged(where, error) from error
    if found != (FORMAT, VERSION):
      raise ValueError(
        f"{where}: format {found[0]!r} version {found[1]}; this program reads"
        f" {FORMAT!r} version {VERSION}. Prepare the videos again."
      )
    try:
      return cls._from_content(unseal(content), SEAL in content)
    except ChangedError as error:
      raise ValueError(
        f"{where} was changed after it was written (its checksum differs); "
        "copy it again from a good copy, or prepare the videos again."
      ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
      raise _damaged(where, error) from error

  @classmethod
  def _from_content(cls, content: dict, is_sealed: bool) -> "Manifest":
    """Raises KeyError, TypeError, ... for content of the wrong types."""
    spec, quality = dict(content["spec"]), content["jpeg_quality"]
    fps = _number(spec.pop("fps"))
    counts = {name: _count(value) for name, value in spec.items()}
    return cls(
      spec=AVSpec(fps=fps, **counts),
      frame_format=_text(content["frame_format"]),
      jpeg_quality=None if quality is None else _count(quality),
      videos=tuple(
        Video(
          _text(v["source"]),
          _count(v["frames"]),
          _texts(v["repaired"]),
          tuple(
            (_count(begin), _count(end)) for begin, end in v.get("left_out", ())
          ),
          dict(v.get("empty", {})),
          _count(v.get("captions", 0)),
          tuple(map(_number, v.get("bars", ()))),
        )
        for v in content["clips"]
      ),
      shards=tuple(
        (_text(s["file"]), _count(s["clips"])) for s in content["shards"]
      ),
      skipped=tuple(
        (_text(s["source"]), _text(s["reason"])) for s in content["skipped"]
      ),
      options=dict(content["options"]),
      classes=_texts(content.get("classes", [])),
      vectors={
        _text(name): {
          key: _text(value) if key == "encoder" else _count(value)
          for key, value in told.items()
        }
        for name, told in content.get("vectors", {}).items()
      },
      fingerprint=_text(content["fingerprint"]),
      is_sealed=is_sealed,
    )

  @classmethod
  def load(cls, directory: str | os.PathLike) -> "Manifest":
    """Reads dataset.json of a prepared directory.

    Raises:
      ValueError: if there is none, or it is damaged.
    """
    path = as_path(directory) / MANIFEST
    if not path.is_file():
      raise ValueError(
        f"{path} does not exist: {directory} is not a prepared data set. "
        f"Make one by the command: prepare --input=VIDEOS --output={directory}"
      )
    return cls.from_json(path.read_bytes(), str(path))

  def save(self, directory: str | os.PathLike) -> None:
    """Writes dataset.json."""
    with replacing(as_path(directory) / MANIFEST) as temporary:
      pathlib.Path(temporary).write_text(self.to_json())


def _damaged(where: str, error: Exception) -> ValueError:
  what = f"{type(error).__name__}: {error}".split("\n")[0]
  return ValueError(f"{where} is damaged ({what}); prepare the videos again.")


def _text(value: object) -> str:
  if not isinstance(value, str):
    raise TypeError(f"{value!r} is not text")
  return value


def _texts(values: object) -> tuple[str, ...]:
  if not isinstance(values, list):
    raise TypeError(f"{values!r} is not a list")
  return tuple(map(_text, values))


def _number(value: object) -> float:
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise TypeError(f"{value!r} is not a number")
  return value


def _count(value: object) -> int:
  if isinstance(value, bool) or not isinstance(value, int) or value < 0:
    raise TypeError(f"{value!r} is not a count")
  return value
