"""Videos of another source with captions, embeddings and labels from files."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data import descriptions
from mmdiff_jax.data.description_files import (
  match,
  read_captions,
  read_embeddings,
)
from mmdiff_jax.data.descriptions import (
  NOTHING,
  Description,
  InputInfo,
  TextEncoder,
)
from mmdiff_jax.data.sources.base import Clip, Source


@dataclasses.dataclass(frozen=True)
class DescriptionOptions:
  """Where descriptions of videos come from, for sources that have none.

  Attributes:
    captions: see `description_files.read_captions`; "" is none.
    embeddings: see `description_files.read_embeddings`; "" is none.
    labels: "folders" makes the first folder on a video's path its label.
    open_encoder: opens the text encoder where vectors of captions are wanted.
  """

  captions: str = ""
  embeddings: str = ""
  labels: str = "none"
  open_encoder: Callable[[], TextEncoder] | None = None

  def __post_init__(self):
    if self.labels not in descriptions.LABELS:
      raise ValueError(
        f"config.data.labels={self.labels!r} is unknown; allowed are "
        f"{', '.join(descriptions.LABELS)}."
      )

  def refuse(self, name: str, cure: str) -> None:
    """Raises ValueError if files are named for a source that takes none."""
    for key in ("captions", "embeddings", "labels"):
      value = getattr(self, key)
      if value not in ("", "none"):
        raise ValueError(f"config.data.{key}={value} is not for {name}: {cure}")


class DescribedSource:
  """A source whose videos are described.

  See `base.Source` for its attributes.
  """

  def __init__(
    self,
    source: Source,
    known: Mapping[str, Description],
    inputs: Mapping[str, InputInfo],
  ):
    """Describes the videos of a source.

    Args:
      source: of the videos; what it tells of them itself comes first.
      known: descriptions by the name of the video.
      inputs: what the descriptions hold.
    """
    self._source, self._known = source, known
    self.name, self.skipped = source.name, source.skipped
    self.inputs = {**inputs, **source.inputs}

  @property
  def spec(self) -> AVSpec:
    """See `base.Source`."""
    return self._source.spec

  @property
  def videos(self) -> Mapping[str, int]:
    """See `base.Source`."""
    return self._source.videos

  def where(self, video: str) -> str:
    """See `base.Source`."""
    return self._source.where(video)

  def clip(self, video: str, start: int) -> Clip:
    """See `base.Source`."""
    clip = self._source.clip(video, start)
    return DescribedClip(clip, self._known.get(video, NOTHING))

  def digest(self, video: str, start: int) -> str:
    """See `base.Source`."""
    return self._source.digest(video, start)

  def __repr__(self) -> str:
    return repr(self._source)


class DescribedClip:
  """A clip of a video that is described; see `base.Clip`."""

  def __init__(self, clip: Clip, known: Description):
    """Adds what is known of its video to a clip."""
    self._clip, self._known = clip, known
    self.video, self.frame, self.audio = clip.video, clip.frame, clip.audio
    self.origin, self.repairs = clip.origin, clip.repairs

  def inputs(self) -> dict[str, np.ndarray]:
    """See `base.Clip`."""
    return self._known.inputs() | self._clip.inputs()

  def captions(self) -> tuple[str, ...]:
    """See `base.Clip`."""
    return self._known.captions or self._clip.captions()


def described(
  source: Source,
  options: DescriptionOptions,
  captions: Mapping[str, tuple[str, ...]] | None = None,
) -> Source:
  """A source with what files and the names of its folders say of its videos.

  Args:
    source: of the videos.
    options: says which files.
    captions: that came with the videos themselves.

  Raises:
    ValueError: for files that cannot be read, or name other videos.
  """
  named = [*source.videos, *(name for name, _ in source.skipped)]
  texts = dict(captions or {})
  vectors: dict[str, np.ndarray] = {}
  if options.captions:
    found = read_captions(options.captions)
    texts |= match(found, named, options.captions)
  if options.embeddings:
    of_videos = read_embeddings(options.embeddings)
    vectors = match(of_videos, named, options.embeddings)
  labels, classes = _labels(source, options)
  if not (texts or vectors or classes):
    return source
  known = descriptions.describe(
    source.videos, captions=texts, embeddings=vectors, labels=labels
  )
  encoder = None
  if options.open_encoder is not None:
    known, encoder = descriptions.encode(known, options.open_encoder)
  inputs = descriptions.inputs_of(known.values(), classes, encoder)
  return DescribedSource(source, known, inputs)


def _labels(
  source: Source, options: DescriptionOptions
) -> tuple[dict[str, int], Sequence[str]]:
  """Labels of the videos that lie in folders, and the folders."""
  if options.labels == "none":
    return {}, ()
  folders = {name: descriptions.label_of(name) for name in source.videos}
  classes = sorted(set(folders.values()) - {""})
  if not classes:
    raise ValueError(
      f"config.data.labels=folders takes the label from the first folder of "
      f"{source.name}, but all videos lie directly in it."
    )
  numbers = {name: i for i, name in enumerate(classes)}
  return {
    name: numbers[folder] for name, folder in folders.items() if folder
  }, classes
