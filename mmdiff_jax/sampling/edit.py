"""Edits of a clip: what of it is kept, and what is made anew."""

import dataclasses
import math
import os
import pathlib
from typing import Any

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.disk.files import local_copy
from mmdiff_jax.media import reading
from mmdiff_jax.samplers import Condition

KEEP = ("video", "audio", "none")
EXTEND = ("before", "after")
# Grey level from which a pixel of a mask is made anew.
_WHITE = 128


@dataclasses.dataclass(frozen=True)
class Edit:
  """What of a clip is made anew; all else is kept as it is.

  Pictures are made anew where the time span and the box (or mask) meet, each
  of which is everything where it is left out. The sound is made anew in the
  span; a box or a mask alone leaves it as it is.

  Attributes:
    keep: a stream that is kept whole: "video", "audio" or "none".
    span: seconds from and to, or None.
    box: left, top, width and height in pixels of the model's frames, or None.
    mask: a picture, or a video of as many frames as the clip, of the size of
      the model's frames: white is made anew. "" is none.
    extend: "after" continues from the end of the clip, "before" leads up to
      its beginning, "" does neither.
    between: whether a clip is made from the end of one source to the
      beginning of another.
    strength: from 0 to 1, how much noise the clip starts from: what is made
      anew follows the clip the more closely, the lower it is. None starts
      from noise alone.
  """

  keep: str = "none"
  span: tuple[float, float] | None = None
  box: tuple[int, int, int, int] | None = None
  mask: str = ""
  extend: str = ""
  between: bool = False
  strength: float | None = None

  def __post_init__(self):
    _check(self.keep in KEEP, "keep", self.keep, f"give {_either(KEEP)}")
    _check(self.extend in ("", *EXTEND), "extend", self.extend, _either(EXTEND))
    if self.span is not None:
      start, stop = self.span
      _check(
        math.isfinite(stop) and 0 <= start < stop,
        "span",
        f"{start:g}:{stop:g}",
        "give seconds FROM:TO, 0 <= FROM < TO",
      )
    if self.strength is not None:
      _check(
        0 < self.strength <= 1,
        "strength",
        self.strength,
        "give a number above 0, up to 1",
      )
    if self.box is not None and self.mask:
      raise ValueError("--box and --mask exclude each other; give one.")
    if self.keep == "video" and (self.box is not None or self.mask):
      raise ValueError(
        "--keep=video leaves nothing to paint in; leave out --box and --mask."
      )
    ways = [
      name
      for name, on in (("extend", self.extend), ("between", self.between))
      if on
    ]
    others = [
      name
      for name in ("span", "box", "mask", "strength")
      if getattr(self, name) not in (None, "")
    ]
    if self.keep != "none":
      others.append("keep")
    if ways and (others or len(ways) > 1):
      raise ValueError(
        f"--{ways[0]} stands alone; leave out --{(others + ways[1:])[0]}."
      )
    if not ways and not others:
      raise ValueError(
        "--condition=edit: nothing is to be made anew; give --span, --box, "
        "--mask, --keep, --strength, --extend or --between."
      )

  def regions(
    self, spec: AVSpec, frames: int | None = None
  ) -> dict[str, np.ndarray]:
    """What is made anew.

    Args:
      spec: geometry of the model's clip.
      frames: of the clip that is edited; None is one of `spec`.

    Returns:
      Bool "video" `[F, H, W, 1]` and "audio" `[L, 1]`.

    Raises:
      ValueError: if span, box or mask do not fit the clip, or nothing is left
        to make.
    """
    frames = spec.frames if frames is None else frames
    length = spec.frames_to_samples(frames)
    time = np.ones(frames, bool)
    sound = np.ones(length, bool)
    if self.span is not None:
      first, last = self._frames_of_span(spec, frames)
      time = (np.arange(frames) >= first) & (np.arange(frames) < last)
      begin, end = (spec.frames_to_samples(f) for f in (first, last))
      sound = (np.arange(length) >= begin) & (np.arange(length) < end)
    place = self._place(spec, frames)
    if place is not None and self.span is None:
      sound[:] = False
    picture = np.ones((1, spec.height, spec.width), bool)
    if place is not None:
      picture = place
    video = time[:, None, None] & picture
    if self.keep == "video":
      video = np.zeros_like(video)
    if self.keep == "audio":
      sound = np.zeros_like(sound)
    if not video.any() and not sound.any():
      raise ValueError("Nothing is to be made anew: all of the clip is kept.")
    return {"video": video[..., None], "audio": sound[:, None]}

  def _frames_of_span(self, spec: AVSpec, frames: int) -> tuple[int, int]:
    """First frame of the span, and the one after its last."""
    assert self.span is not None
    start, stop = self.span
    duration = frames / spec.fps
    if stop > duration + 1e-6:
      raise ValueError(
        f"--span={start:g}:{stop:g} ends after the clip, which lasts "
        f"{duration:g} s."
      )
    first = round(start * spec.fps)
    return first, max(round(stop * spec.fps), first + 1)

  def _place(self, spec: AVSpec, frames: int) -> np.ndarray | None:
    """Where pictures are made anew, bool `[F or 1, H, W]`; None: everywhere."""
    if self.box is not None:
      left, top, width, height = self.box
      fits = (
        min(left, top) >= 0
        and min(width, height) > 0
        and left + width <= spec.width
        and top + height <= spec.height
      )
      if not fits:
        raise ValueError(
          f"--box={left},{top},{width},{height} does not lie in the model's "
          f"frames of {spec.width}x{spec.height} pixels; give left, top, width "
          "and height."
        )
      place = np.zeros((1, spec.height, spec.width), bool)
      place[:, top : top + height, left : left + width] = True
      return place
    if not self.mask:
      return None
    place = read_mask(self.mask)
    if place.shape[1:] != (spec.height, spec.width):
      raise ValueError(
        f"--mask={self.mask} has {place.shape[2]}x{place.shape[1]} pixels; the "
        f"model's frames have {spec.width}x{spec.height}."
      )
    if len(place) not in (1, frames):
      raise ValueError(
        f"--mask={self.mask} has {len(place)} frames, the clip {frames}; give "
        "a picture, or as many frames."
      )
    if not place.any():
      raise ValueError(
        f"--mask={self.mask} is black: white is what is made anew."
      )
    return place

  def condition(
    self, video: np.ndarray, audio: np.ndarray, spec: AVSpec, **options: Any
  ) -> Condition:
    """The edit of clips of the model's length, for `Model.sample`.

    Args:
      video: `[B, F, H, W, 3]` in [-1, 1]; B may be 1.
      audio: `[B, L, 1]` in [-1, 1].
      spec: geometry of the model's clip.
      **options: see `Condition`.

    Raises:
      ValueError: see `regions`; and for `extend` and `between`, whose
        conditions are `samplers.continuation` and `samplers.in_betweening`.
    """
    if self.extend or self.between:
      raise ValueError(
        "extend and between are samplers.continuation and in_betweening."
      )
    kept = {k: ~region[None] for k, region in self.regions(spec).items()}
    known = {"video": video, "audio": audio}
    if self.strength is not None:
      options |= {"origin": known, "strength": self.strength}
    return Condition(known, kept, **options)


def read_mask(path: str | os.PathLike) -> np.ndarray:
  """Reads a mask, bool `[F, H, W]` (F = 1 for a picture): true where white.

  Raises:
    ValueError: if it cannot be read.
  """
  from PIL import Image

  try:
    with local_copy(path) as local:
      if pathlib.Path(local).suffix.lower() in (".png", ".jpg", ".jpeg"):
        image = np.asarray(Image.open(local).convert("L"))[None]
      else:
        image = reading.read_media(local).video.mean(-1)
  except OSError as error:
    raise ValueError(f"--mask={path}: {error.strerror or error}.") from error
  return image >= _WHITE


def _check(condition: bool, flag: str, value: Any, cure: str) -> None:
  if not condition:
    raise ValueError(f"--{flag}={value}: {cure}.")


def _either(names: tuple[str, ...]) -> str:
  return f"{', '.join(names[:-1])} or {names[-1]}"
