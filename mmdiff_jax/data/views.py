"""What batches show of clips: the clips themselves, or pairs of images."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import ConfigDict

from mmdiff_jax.av import AVSpec, uint8_to_unit
from mmdiff_jax.data.sources import Clip, Source
from mmdiff_jax.media import transforms

Element = dict[str, np.ndarray]
Transform = Callable[[Clip, np.random.Generator], Element]


def _clip_view(
  data: ConfigDict,
  sr: ConfigDict | None,
  source: Source,
  names: Sequence[str],
  train: bool,
) -> Transform:
  """Whole clips, flipped at random in training."""
  del sr
  _check_spec(source, AVSpec.from_config(data), data.get("fit", "pad"))
  probability = data.flip_probability if train else 0.0

  def to_clip(clip: Clip, rng: np.random.Generator) -> Element:
    flip = rng.random() < probability
    element = {}
    if "video" in names:
      video = clip.video()
      video = transforms.flip(video) if flip else video
      element["video"] = np.ascontiguousarray(video)
    if "audio" in names:
      audio = clip.audio()
      if audio is None:
        raise ValueError(f"{clip.origin()} has no audio; leave it out.")
      element["audio"] = audio
    return element

  return to_clip


def _image_view(
  data: ConfigDict,
  sr: ConfigDict | None,
  source: Source,
  names: Sequence[str],
  train: bool,
) -> Transform:
  """A random crop of a random frame, and its low-resolution version."""
  if sr is None:
    raise ValueError("view='images' needs sr, the `sr` part of a config.")
  height, width, factor = data.height, data.width, sr.factor
  if height % factor or width % factor:
    raise ValueError(
      f"data.height={height} and data.width={width} must be divisible by"
      f" sr.factor={factor}."
    )
  if source.spec.height < height or source.spec.width < width:
    raise ValueError(
      f"{source.name} holds frames of {source.spec.height}x"
      f"{source.spec.width} pixels, data.height x data.width is {height}x"
      f"{width}; prepare it with --size {height}x{width}."
    )
  degrade = Degradation.from_config(sr) if train else None
  probability = data.flip_probability if train else 0.0

  def to_pair(clip: Clip, rng: np.random.Generator) -> Element:
    image = clip.frame(int(rng.integers(source.spec.frames)))
    image = transforms.random_crop(image, height, width, rng)
    if rng.random() < probability:
      image = transforms.flip(image)
    image = np.ascontiguousarray(image)
    low = transforms.resize_bicubic(image, height // factor, width // factor)
    if degrade is not None:
      low = degrade(low, rng)
    pair = {"image": image, "low_res": uint8_to_unit(low)}
    return {name: x for name, x in pair.items() if name in names}

  return to_pair


@dataclasses.dataclass(frozen=True)
class Degradation:
  """What happens to low-resolution inputs in training.

  Attributes:
    noise_probability: of adding Gaussian noise.
    noise_max_sigma: its sigma is uniform from 0 to this, in grey levels.
    jpeg_probability: of JPEG compression, after the noise.
    jpeg_quality: lowest and highest quality, uniform.
  """

  noise_probability: float
  noise_max_sigma: float
  jpeg_probability: float
  jpeg_quality: tuple[int, int]

  @classmethod
  def from_config(cls, sr: ConfigDict) -> "Degradation":
    """Reads the `sr` part of a config; raises ValueError if out of range."""
    low, high = sr.jpeg_quality
    if not 1 <= low <= high <= 95:
      raise ValueError(
        f"sr.jpeg_quality must be 1 <= low <= high <= 95, got {low}, {high}."
      )
    for name in ("noise_probability", "jpeg_probability"):
      if not 0 <= sr[name] <= 1:
        raise ValueError(f"sr.{name} must be in [0, 1], got {sr[name]}.")
    if sr.noise_max_sigma < 0:
      raise ValueError(
        f"sr.noise_max_sigma must not be negative, got {sr.noise_max_sigma}."
      )
    return cls(
      sr.noise_probability, sr.noise_max_sigma, sr.jpeg_probability, (low, high)
    )

  def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Degrades uint8 `[h, w, 3]`."""
    if rng.random() < self.noise_probability:
      image = transforms.add_noise(image, self.noise_max_sigma, rng)
    if rng.random() < self.jpeg_probability:
      low, high = self.jpeg_quality
      image = transforms.jpeg_round_trip(
        image, int(rng.integers(low, high + 1))
      )
    return image


def _check_spec(source: Source, wanted: AVSpec, fit: str) -> None:
  """Compares what is there with what the config asks for."""
  names = {"frames": "--clip_frames", "height": "--size", "width": "--size"}
  # Sources that are not prepared take both from the config.
  has = dataclasses.asdict(source.spec) | {"fit": getattr(source, "fit", fit)}
  asked = dataclasses.asdict(wanted) | {"fit": fit}
  differing = [name for name in asked if has[name] != asked[name]]
  if differing:
    pairs = ", ".join(
      f"{name} {has[name]} (config: {asked[name]})" for name in differing
    )
    flags = sorted({names.get(name, f"--{name}") for name in differing})
    raise ValueError(
      f"{source.name} has clips of {pairs}. Change config.data, or prepare the"
      f" videos again with other {' '.join(flags)}."
    )


@dataclasses.dataclass(frozen=True)
class View:
  """What batches show of clips.

  Attributes:
    features: the names that it makes.
    streams: what media files must have to serve it.
    make: its transform, from the config's `data` and `sr`, the source, the
      names that are wanted and whether it is for training.
  """

  features: tuple[str, ...]
  streams: tuple[str, ...]
  make: Callable[
    [ConfigDict, ConfigDict | None, Source, Sequence[str], bool], Transform
  ]


VIEWS = {
  "clips": View(("video", "audio"), ("video", "audio"), _clip_view),
  "images": View(("image", "low_res"), ("video",), _image_view),
}
