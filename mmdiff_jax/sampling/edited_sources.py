"""The user's media as sources of an edit."""

import dataclasses
import functools

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data import sources as data_sources
from mmdiff_jax.sampling.edit import Edit
from mmdiff_jax.sampling.known_sources import (
  CONDITIONS,
  KnownSource,
  check_rates,
  load_all,
  load_video,
)


@dataclasses.dataclass(frozen=True)
class EditReader:
  """Reads sources for edits.

  Attributes:
    spec: geometry of the model's clip.
    overlap: frames that an extension takes from its source.
    tfds_dir: see `data.sources.SourceOptions`.
    synthetic_clips: see `data.sources.SourceOptions`.
    fit: as the model's data were fitted; see `container.FITS`.
  """

  spec: AVSpec
  overlap: int
  tfds_dir: str = ""
  synthetic_clips: int = 4096
  fit: str = "pad"

  def read(
    self, edit: Edit, source: str | None, between: tuple[str, str] | None
  ) -> list[KnownSource]:
    """Reads what is edited, sorted by name.

    Args:
      edit: what is kept and what is made anew.
      source: a file, a folder, or another name of `data.sources.open_source`.
      between: two of them, each a single video, in place of `source`.

    Raises:
      ValueError: if nothing can be used, or the edit does not fit; it says
        why.
    """
    if between is not None:
      return [self._between(*between)]
    assert source is not None
    if edit.extend:
      videos = self._open(source, self.overlap)
      load = functools.partial(self._extended, edit, videos)
    else:
      videos = self._open(source, self.spec.frames)
      load = functools.partial(self._edited, edit, videos, source)
    return load_all(videos, source, load)

  def _open(self, source: str, frames: int) -> data_sources.Source:
    options = data_sources.SourceOptions(
      dataclasses.replace(self.spec, frames=frames),
      CONDITIONS["edit"],
      self.tfds_dir,
      self.synthetic_clips,
      self.fit,
    )
    videos = data_sources.open_source(source, options)
    check_rates(videos, self.spec, frames)
    return videos

  def _load(
    self,
    videos: data_sources.Source,
    video: str,
    name: str,
    frames: int,
    start: int = 0,
  ) -> KnownSource:
    streams = CONDITIONS["edit"]
    return load_video(
      videos, video, name, streams, self.spec, frames, self.fit, start
    )

  def _edited(
    self,
    edit: Edit,
    videos: data_sources.Source,
    source: str,
    video: str,
    name: str,
  ) -> KnownSource:
    frames = max(videos.videos[video], self.spec.frames)
    if frames > self.spec.frames:
      videos = self._open(source, frames)
    loaded = self._load(videos, video, name, frames)
    regions = edit.regions(self.spec, frames)
    kept = {stream: ~region for stream, region in regions.items()}
    return dataclasses.replace(loaded, kept=kept, strength=edit.strength)

  def _extended(
    self, edit: Edit, videos: data_sources.Source, video: str, name: str
  ) -> KnownSource:
    if edit.extend == "after":
      start = max(0, videos.videos[video] - self.overlap)
      return self._load(videos, video, name, self.overlap, start)
    return self._placed(
      [(self._load(videos, video, name, self.overlap), "end")]
    )

  def _between(self, first: str, second: str) -> KnownSource:
    """The end of one video and the beginning of another, with a gap."""
    ends = []
    frames = max(1, self.overlap // 2)
    for path, place in ((first, "start"), (second, "end")):
      videos = self._open(path, frames)
      if len(videos.videos) != 1:
        raise ValueError(
          f"--between: {path} holds {len(videos.videos)} videos; give two "
          "files."
        )
      (video,) = videos.videos
      start = max(0, videos.videos[video] - frames) if place == "start" else 0
      name = video.rpartition("/")[2].rpartition(".")[0] or video
      ends.append((self._load(videos, video, name, frames, start), place))
    return self._placed(ends)

  def _placed(self, parts: list[tuple[KnownSource, str]]) -> KnownSource:
    """Parts put at the start or end of a clip that is otherwise empty."""
    spec = self.spec
    shapes = {"video": spec.video_shape, "audio": spec.audio_shape}
    known = {k: np.zeros(shape, np.float32) for k, shape in shapes.items()}
    kept = {
      "video": np.zeros((spec.frames, spec.height, spec.width, 1), bool),
      "audio": np.zeros((spec.audio_length, 1), bool),
    }
    for part, place in parts:
      for name, values in part.known.items():
        count = len(values)
        where = slice(0, count) if place == "start" else slice(-count, None)
        known[name][where] = values
        kept[name][where] = True
    first = parts[0][0]
    repairs = dict.fromkeys(r for part, _ in parts for r in part.repairs)
    return dataclasses.replace(
      first,
      name="_to_".join(part.name for part, _ in parts),
      path=", ".join(part.path for part, _ in parts),
      known=known,
      repairs=tuple(repairs),
      digest="".join(part.digest for part, _ in parts)[:32],
      kept=kept,
    )
