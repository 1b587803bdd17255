"""The kinds of sources, and which of them a name means.

A new kind is a module with a `Source` and a row of `KINDS`.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.manifest import MANIFEST
from mmdiff_jax.data.sources.arrays import ArraySource, open_npz
from mmdiff_jax.data.sources.base import Source
from mmdiff_jax.data.sources.described import DescriptionOptions, described
from mmdiff_jax.data.sources.media_source import open_file, open_folder
from mmdiff_jax.data.sources.prepared import open_tfds, open_tfrecord
from mmdiff_jax.data.sources.synthetic import SyntheticSource
from mmdiff_jax.disk.files import as_path
from mmdiff_jax.media.container import ReadOptions

# A source by its name, or arrays in its place.
Name = str | os.PathLike | Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class SourceOptions:
  """What some kinds of source must be told.

  Attributes:
    spec: geometry of the clips. Prepared records have their own.
    streams: of "video" and "audio", those that a media file must have to be
      used; for ("audio",) alone, files of sound count as media.
    tfds_dir: folder of TFDS data sets; "" means TFDS's own default.
    synthetic_clips: number of clips of the world.
    fit: how pictures of media files are fitted; see `container.FITS`.
    descriptions: what is known of videos that are not prepared.
  """

  spec: AVSpec
  streams: tuple[str, ...] = ("video", "audio")
  tfds_dir: str = ""
  synthetic_clips: int = 4096
  fit: str = "pad"
  descriptions: DescriptionOptions = DescriptionOptions()

  def __post_init__(self):
    ReadOptions(fit=self.fit)  # Fails for an unknown one, whatever the source.


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of source.

  Attributes:
    form: of its names, in words.
    takes: whether a name is of this kind.
    open: opens the source of a name.
  """

  form: str
  takes: Callable[[str], bool]
  open: Callable[[str, SourceOptions], Source]


def _open_prepared(name: str, options: SourceOptions) -> Source:
  options.descriptions.refuse(
    name, "what is known of its videos is in its records; prepare them anew."
  )
  if name.startswith("tfds:"):
    return open_tfds(name.removeprefix("tfds:"), options.tfds_dir)
  return open_tfrecord(name.removeprefix("tfrecord:"))


def _open_synthetic(name: str, options: SourceOptions) -> Source:
  options.descriptions.refuse(name, "the world writes its own.")
  return SyntheticSource(
    options.spec, options.synthetic_clips, options.descriptions.open_encoder
  )


def _open_media(name: str, options: SourceOptions) -> Source:
  path = _path(name)
  open_ = open_folder if path.is_dir() else open_file
  source = open_(path, options.spec, options.streams, options.fit)
  return described(source, options.descriptions)


def _describe_arrays(source: ArraySource, options: SourceOptions) -> Source:
  return described(source, options.descriptions, source.captions)


def _path(name: str) -> pathlib.Path:
  return as_path(name).expanduser()


def _after(prefix: str) -> Callable[[str], bool]:
  return lambda name: name.startswith(prefix) and name != prefix


# The first that takes a name opens it.
KINDS = (
  Kind("'tfrecord:DIR'", _after("tfrecord:"), _open_prepared),
  Kind("'tfds:NAME'", _after("tfds:"), _open_prepared),
  Kind("'synthetic'", lambda name: name == "synthetic", _open_synthetic),
  Kind(
    "a prepared folder",
    lambda name: (_path(name) / MANIFEST).is_file(),
    _open_prepared,
  ),
  Kind("a folder of videos", lambda name: _path(name).is_dir(), _open_media),
  Kind(
    "an .npz file",
    lambda name: _path(name).is_file() and name.lower().endswith(".npz"),
    lambda name, options: _describe_arrays(
      open_npz(_path(name), options.spec), options
    ),
  ),
  Kind("a media file", lambda name: _path(name).is_file(), _open_media),
)


def is_prepared(name: str) -> bool:
  """Whether a name is that of prepared records, which have a geometry."""
  return name.startswith(("tfrecord:", "tfds:")) or (
    (_path(name) / MANIFEST).is_file()
  )


def find_kind(name: str) -> Kind:
  """The kind of source that a name is of.

  Raises:
    ValueError: if there is no such source.
  """
  for kind in KINDS if name else ():
    if kind.takes(name):
      return kind
  forms = ", ".join(kind.form for kind in KINDS)
  raise ValueError(f"{name!r} is none of {forms}: no such file or folder.")


def open_source(name: Name, options: SourceOptions) -> Source:
  """Opens a source.

  Args:
    name: a string or path of one of the forms of `KINDS`, or the arrays of an
      `ArraySource`.
    options: what some kinds must be told.

  Raises:
    ValueError: if there is no such source, or it is damaged, or it does not
      fit the spec.
  """
  if isinstance(name, Mapping):
    return _describe_arrays(ArraySource("arrays", name, options.spec), options)
  text = os.fspath(name)
  return find_kind(text).open(text, options)
