"""What is known of videos beside their streams: captions, vectors, labels.

Captions become vectors by a text encoder, which arrives as a function: this
room knows no network.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from mmdiff_jax.disk.progress import progress_bar

_log = logging.getLogger(__name__)

LABELS = ("none", "folders")
# Captions that are encoded between two steps of a progress bar.
_CHUNK = 256


class TextEncoder(Protocol):
  """Texts to vectors."""

  width: int
  max_tokens: int
  sha256: str

  def count_tokens(self, texts: Sequence[str]) -> list[int]:
    """Tokens of each text."""

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    """`[N, width]` float32; of what is longer than `max_tokens`, the start."""


@dataclasses.dataclass(frozen=True)
class InputInfo:
  """What a source tells of one input of its videos.

  Attributes:
    shape: of a value; a video may have several, one behind the other.
    classes: names of the values, where they are classes.
    encoder: hash of the text encoder that made them.
  """

  shape: tuple[int, ...] = ()
  classes: tuple[str, ...] = ()
  encoder: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Description:
  """What is known of one video.

  Attributes:
    captions: any number of texts.
    text: their vectors, `[N, D]` float32, once they are encoded.
    embedding: a vector `[D]` of the user's, or None.
    label: a class, or None.
  """

  captions: tuple[str, ...] = ()
  text: np.ndarray | None = None
  embedding: np.ndarray | None = None
  label: int | None = None

  def inputs(self) -> dict[str, np.ndarray]:
    """What a network may be given of it, by name.

    Of "text" there is a vector for each caption, `[N, D]`.
    """
    values = {"text": self.text, "embedding": self.embedding}
    if self.label is not None:
      values["label"] = np.array(self.label, np.int32)
    return {name: value for name, value in values.items() if value is not None}

  def digest(self) -> str:
    """Hash of captions and embedding; "" if there are none."""
    if not self.captions and self.embedding is None:
      return ""
    content = hashlib.sha256(repr(self.captions).encode("utf-8", "replace"))
    if self.embedding is not None:
      content.update(self.embedding.tobytes())
    return content.hexdigest()


NOTHING = Description()


def encode(
  descriptions: Mapping[str, Description],
  open_encoder: Callable[[], TextEncoder],
) -> tuple[dict[str, Description], TextEncoder | None]:
  """Adds the vectors of all captions.

  Captions that are longer than the encoder reads are told in a warning.

  Args:
    descriptions: by the name of the video.
    open_encoder: opens the text encoder; called if there is a caption.

  Returns:
    The descriptions, and the encoder if it was needed.
  """
  captions = list(
    dict.fromkeys(c for d in descriptions.values() for c in d.captions)
  )
  if not captions:
    return dict(descriptions), None
  encoder = open_encoder()
  _warn_of_long_ones(captions, encoder)
  vectors: dict[str, np.ndarray] = {}
  with progress_bar(len(captions), "caption") as progress:
    for start in range(0, len(captions), _CHUNK):
      some = captions[start : start + _CHUNK]
      vectors.update(zip(some, encoder(some), strict=True))
      progress.update(len(some))
  return {
    name: dataclasses.replace(
      each, text=np.stack([vectors[caption] for caption in each.captions])
    )
    if each.captions
    else each
    for name, each in descriptions.items()
  }, encoder


def _warn_of_long_ones(captions: Sequence[str], encoder: TextEncoder) -> None:
  # A token is at least one character.
  long = [c for c in captions if len(c) > encoder.max_tokens - 2]
  counts = encoder.count_tokens(long)
  cut = [c for c, n in zip(long, counts, strict=True) if n > encoder.max_tokens]
  if cut:
    _log.warning(
      "%d captions are longer than the %d tokens that the text encoder reads: "
      "their ends count for nothing. The first: %.60r...",
      len(cut),
      encoder.max_tokens,
      cut[0],
    )


def label_of(name: str) -> str:
  """The first folder on a video's path, "" where there is none."""
  folder, slash, _ = name.partition("/")
  return folder if slash else ""


def describe(
  names: Iterable[str],
  *,
  captions: Mapping[str, tuple[str, ...]],
  embeddings: Mapping[str, np.ndarray],
  labels: Mapping[str, int],
) -> dict[str, Description]:
  """Puts together what is known of each video; most of it may be absent.

  Args:
    names: of the videos.
    captions: by name, as the others are.
    embeddings: all of one width.
    labels: numbers of classes.
  """
  return {
    name: Description(
      captions.get(name, ()), None, embeddings.get(name), labels.get(name)
    )
    for name in names
  }


def inputs_of(
  descriptions: Iterable[Description],
  classes: Sequence[str],
  encoder: TextEncoder | None,
) -> dict[str, InputInfo]:
  """What a source with these descriptions tells of its inputs."""
  infos: dict[str, InputInfo] = {}
  if classes:
    infos["label"] = InputInfo((), tuple(classes))
  if encoder is not None:
    infos["text"] = InputInfo((encoder.width,), encoder=encoder.sha256)
  for each in descriptions:
    if each.embedding is not None:
      infos["embedding"] = InputInfo(each.embedding.shape)
      break
  return infos
