"""At which geometry both sides of an evaluation are read, and why."""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import signal

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.sources import (
  Name,
  SourceOptions,
  find_kind,
  is_prepared,
  open_source,
  probe,
)
from mmdiff_jax.disk.arrays import npz_headers
from mmdiff_jax.media import transforms
from mmdiff_jax.media.files import listed_geometry

_FIELDS = [field.name for field in dataclasses.fields(AVSpec)]
# Rounding of a number of frames.
_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Geometry:
  """Geometry of the clips that are compared.

  Attributes:
    spec: shape and rates.
    fit: how pictures of another aspect ratio are fitted.
    notes: what was taken from where, and what is resampled, in lines.
  """

  spec: AVSpec
  fit: str = "pad"
  notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Side:
  """What a set of clips says of its geometry.

  Attributes:
    name: "real", "fake" or as the caller names it.
    known: fields of `AVSpec`, and "fit", as far as they are known.
    where: what says so; "" where nothing does.
    stored: whether its clips exist at that geometry alone, as records do.
  """

  name: str
  known: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  where: str = ""
  stored: bool = False

  def __str__(self) -> str:
    return f"{self.name} ({self.where})" if self.where else self.name


def find_geometry(
  names: Mapping[str, Name],
  asked: Mapping[str, Any] | None = None,
  tfds_dir: str = "",
) -> Geometry:
  """Chooses the geometry at which sets of clips are compared.

  What was asked for goes first; then what records say, then what sampling
  wrote beside its clips, then arrays; of two that say the same kind of thing
  the first. Where none says anything, the last set's first file does.
  The clips are as long as the shortest ones.

  Args:
    names: of the sets; see `sources.open_source`.
    asked: fields of `AVSpec`, and "fit", that were asked for.
    tfds_dir: see `SourceOptions`.

  Raises:
    ValueError: if a data set or a listing is damaged, or a value impossible.
  """
  asked = dict(asked or {})
  sides = []
  for role, name in names.items():
    try:
      sides.append(_look_at(role, name, tfds_dir))
    except ValueError as error:
      flag = role if role in ("real", "fake") else f"compare={role}=..."
      raise ValueError(f"--{flag}: {error}") from error
  notes = []
  if not any(side.known for side in sides) and not asked.keys() >= {*_FIELDS}:
    *_, (last, name) = names.items()
    spec = None if isinstance(name, Mapping) else probe(name)
    if spec is not None:
      sides[-1] = Side(last, dataclasses.asdict(spec), "its first file")
  # Stable: of two of a kind the first.
  ranked = sorted(sides, key=lambda s: (not s.stored, s.where == "arrays"))
  chosen = dataclasses.asdict(AVSpec()) | {"fit": "pad"}
  for side in reversed(ranked):
    chosen |= side.known
  chosen |= asked
  if "frames" not in asked:
    chosen["frames"] = _shortest(sides, chosen)
  fit = chosen.pop("fit")
  spec = AVSpec(**chosen)
  for side in sides:
    notes += _differences(side, spec, fit)
  source = next((str(s) for s in ranked if s.known), "")
  told = "what was asked for" if asked.keys() >= {*_FIELDS} else source
  for side in sides:
    if not side.known:
      notes.append(
        f"{side} says nothing of its geometry: read at that of "
        f"{told or 'the default configuration'}, {_words(spec)}."
      )
  return Geometry(spec, fit, tuple(notes))


def _look_at(side: str, name: Name, tfds_dir: str) -> Side:
  """What a set of clips says of its geometry."""
  if isinstance(name, Mapping):
    return _arrays(side, {key: np.shape(x) for key, x in name.items()})
  text = os.fspath(name)
  if is_prepared(text):
    options = SourceOptions(AVSpec(), tfds_dir=tfds_dir)
    source: Any = open_source(text, options)
    known = dataclasses.asdict(source.spec) | {"fit": source.fit}
    return Side(side, known, "its data set", stored=True)
  listed = listed_geometry(text)
  if listed is not None:
    return Side(side, listed, "its samples.json")
  if text.lower().endswith(".npz") and os.path.isfile(text):
    headers = npz_headers(text)
    return _arrays(side, {key: h.shape for key, h in headers.items()})
  find_kind(text)  # Fails for what is not there, before the other is read.
  return Side(side)


def _arrays(side: str, shapes: Mapping[str, tuple[int, ...]]) -> Side:
  shape = shapes.get("video", ())
  if len(shape) != 5:
    return Side(side)  # An error where it is opened.
  known = dict(zip(("frames", "height", "width"), shape[1:4], strict=True))
  return Side(side, known, "arrays", stored=True)


def _shortest(sides: list[Side], chosen: Mapping[str, Any]) -> int:
  """Frames that the clips of every side last for."""
  counts = [
    math.floor(
      side.known["frames"]
      * (chosen["fps"] / side.known.get("fps", chosen["fps"]))
      + _TOLERANCE
    )
    for side in sides
    if "frames" in side.known
  ]
  return max(1, min(counts, default=chosen["frames"]))


def _differences(side: Side, spec: AVSpec, fit: str) -> list[str]:
  """What of a side is changed to compare it, in lines."""
  known, notes = side.known, []

  def differs(*fields: str) -> bool:
    return any(
      known[field] != getattr(spec, field) for field in fields if field in known
    )

  if differs("height", "width"):
    how = "" if fit == "pad" else f" (fit: {fit})"
    notes.append(
      f"{side}: {known['height']}x{known['width']} pixels resampled to "
      f"{spec.height}x{spec.width}{how}."
    )
  if differs("fps"):
    notes.append(
      f"{side}: {known['fps']:g} frames a second resampled to {spec.fps:g}."
    )
  if differs("sample_rate"):
    notes.append(
      f"{side}: sound of {known['sample_rate']} Hz resampled to "
      f"{spec.sample_rate}."
    )
  has = known.get("frames", 0) / known.get("fps", spec.fps)
  if has > spec.duration + _TOLERANCE:
    notes.append(f"{side}: clips of {has:g} s cut to {spec.duration:g} s.")
  if known.get("fit", fit) != fit:
    notes.append(
      f"{side}: pictures were fitted by {known['fit']!r}, the others by "
      f"{fit!r}, which cannot be undone: the figures show that, too."
    )
  return notes


def _words(spec: AVSpec) -> str:
  return (
    f"{spec.frames} frames of {spec.height}x{spec.width} at {spec.fps:g} fps, "
    f"{spec.sample_rate} Hz"
  )


def frames_needed(has: AVSpec, wanted: AVSpec) -> int:
  """Frames at one rate that a clip of another geometry is made of."""
  return math.ceil(wanted.frames * (has.fps / wanted.fps) - _TOLERANCE)


def resample(
  video: np.ndarray,
  audio: np.ndarray,
  has: AVSpec,
  geometry: Geometry,
) -> tuple[np.ndarray, np.ndarray]:
  """Brings a clip to a geometry; one that has it stays as it is.

  Args:
    video: uint8 `[F, H, W, 3]`.
    audio: float32 `[L]`.
    has: geometry of both.
    geometry: wanted, not longer than the clip.

  Returns:
    Frames picked as they are on display, fitted; sound resampled by a
    polyphase filter, cut.
  """
  spec = geometry.spec
  count = len(video)
  if has.fps != spec.fps:
    times = np.arange(spec.frames) * (has.fps / spec.fps)
    video = video[np.minimum((times + _TOLERANCE).astype(int), count - 1)]
  video = video[: spec.frames]
  if has.sample_rate != spec.sample_rate:
    shared = math.gcd(has.sample_rate, spec.sample_rate)
    audio = signal.resample_poly(
      audio, spec.sample_rate // shared, has.sample_rate // shared
    ).astype(np.float32)
  audio = audio[: spec.audio_length]
  # Of rounding the last sample may be missing.
  audio = np.pad(audio, (0, spec.audio_length - len(audio)))
  video = transforms.fit_video(video, spec.height, spec.width, geometry.fit)
  return video, audio
