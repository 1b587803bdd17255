"""The input pipeline: shuffled, augmented batches of windows (grain).

All hosts see one global order of elements: shuffled anew in every epoch and
repeated without end. Host h of H takes the elements h, h+H, h+2H ... of it, so
that the global batches, and what is drawn at random for each element, do not
depend on H. The state of an iterator is `{"next_index": batches so far}`:
resuming is exact, also on another number of hosts.
"""

import dataclasses
from collections.abc import Callable

import grain
import numpy as np
from ml_collections import ConfigDict

from mmdiff_jax.av import AVSpec, uint8_to_unit
from mmdiff_jax.data import transforms
from mmdiff_jax.data.sources import Source, Window, config_spec, open_source


def create_loader(
  data: ConfigDict,
  *,
  batch_size: int,
  seed: int,
  process_index: int = 0,
  process_count: int = 1,
  train: bool = True,
  num_epochs: int | None = None,
) -> grain.DatasetIterator:
  """Batches of clips for the audio-video model.

  An epoch has every window (F consecutive frames) of every video once.

  Args:
    data: the `data` part of a config.
    batch_size: clips per batch over all hosts.
    seed: of the order and the flips.
    process_index: number of this host.
    process_count: number of hosts.
    train: True reads the training side of the split and flips clips at
      random; False reads the held-out side (all data where there is none)
      unflipped.
    num_epochs: None repeats without end; a last partial batch is dropped.

  Returns:
    An iterator over {"video": uint8 `[B/H, F, H, W, 3]`, "audio": float32
    `[B/H, L, 1]` in [-1, 1]} with `get_state`, `set_state` and `close`.

  Raises:
    ValueError: if the config does not fit the data, or the batch the hosts.
  """
  source = open_source(data, train=train)
  _check_spec(source.spec, config_spec(data), data.source)
  probability = data.flip_probability if train else 0.0
  if not 0 <= probability <= 1:
    raise ValueError(
      f"data.flip_probability must be in [0, 1], got {probability}."
    )

  def to_clip(window: Window, rng: np.random.Generator) -> dict:
    video = window.video()
    if rng.random() < probability:
      video = transforms.flip(video)
    return {"video": np.ascontiguousarray(video), "audio": window.audio()}

  return _iterate(
    source, to_clip, data, batch_size, seed, process_index, process_count,
    num_epochs,
  )  # fmt: skip


def create_sr_loader(
  data: ConfigDict,
  sr: ConfigDict,
  *,
  batch_size: int,
  seed: int,
  process_index: int = 0,
  process_count: int = 1,
  train: bool = True,
  num_epochs: int | None = None,
) -> grain.DatasetIterator:
  """Batches of image pairs for the super-resolution model.

  An image is a random frame of a window, cropped at random to data.height x
  data.width where it is larger. Its low-resolution partner is reduced
  bicubically, then, in training, perhaps made noisy and JPEG compressed.

  Args:
    data: the `data` part of a config.
    sr: the `sr` part of a config.
    batch_size: images per batch over all hosts.
    seed: of all random choices.
    process_index: number of this host.
    process_count: number of hosts.
    train: False reads the held-out side, unflipped and without degradation.
    num_epochs: None repeats without end.

  Returns:
    An iterator over {"image": uint8 `[N, H, W, 3]`, "low_res": float32
    `[N, H/factor, W/factor, 3]` in [-1, 1]}, as of `create_loader`.

  Raises:
    ValueError: if the config does not fit the data, or the batch the hosts.
  """
  source = open_source(data, train=train)
  height, width = data.height, data.width
  if height % sr.factor or width % sr.factor:
    raise ValueError(
      f"data.height={height} and data.width={width} must be divisible by"
      f" sr.factor={sr.factor}."
    )
  if source.spec.height < height or source.spec.width < width:
    raise ValueError(
      f"{data.source} holds frames of {source.spec.height}x"
      f"{source.spec.width} pixels, data.height x data.width is {height}x"
      f"{width}; prepare it with --size {height}x{width}."
    )
  degrade = Degradation.from_config(sr) if train else None
  flip_probability = data.flip_probability if train else 0.0

  def to_pair(window: Window, rng: np.random.Generator) -> dict:
    image = window.frame(int(rng.integers(source.spec.frames)))
    image = transforms.random_crop(image, height, width, rng)
    if rng.random() < flip_probability:
      image = transforms.flip(image)
    image = np.ascontiguousarray(image)
    low = transforms.resize_bicubic(
      image, height // sr.factor, width // sr.factor
    )
    if degrade is not None:
      low = degrade(low, rng)
    return {"image": image, "low_res": uint8_to_unit(low)}

  return _iterate(
    source, to_pair, data, batch_size, seed, process_index, process_count,
    num_epochs,
  )  # fmt: skip


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
      image = transforms.jpeg_round_trip(image, rng.integers(low, high + 1))
    return image


def _iterate(
  source: Source,
  transform: Callable[[Window, np.random.Generator], dict],
  data: ConfigDict,
  batch_size: int,
  seed: int,
  process_index: int,
  process_count: int,
  num_epochs: int | None,
) -> grain.DatasetIterator:
  if not 0 <= process_index < process_count:
    raise ValueError(
      f"process_index must be in [0, {process_count}), got {process_index}."
    )
  if batch_size < 1 or batch_size % process_count:
    raise ValueError(
      f"the batch size must be a positive multiple of the {process_count}"
      f" hosts, got {batch_size}."
    )
  if data.num_threads < 1 or data.prefetch < 1:
    raise ValueError(
      "data.num_threads and data.prefetch must be at least 1, got"
      f" {data.num_threads} and {data.prefetch}."
    )
  dataset = (
    grain.MapDataset.source(source)
    .seed(seed)
    .shuffle()
    .repeat(num_epochs, reseed_each_epoch=True)
    # Before the hosts part, so that an element's randomness goes by its
    # global index, whatever their number.
    .random_map(transform)
  )
  dataset = _HostShare(dataset, batch_size, process_index, process_count)
  dataset = dataset.batch(batch_size // process_count, drop_remainder=True)
  options = grain.ReadOptions(
    num_threads=data.num_threads,
    prefetch_buffer_size=max(data.prefetch, data.num_threads),
  )
  return iter(dataset.to_iter_dataset(options))


class _HostShare(grain.MapDataset):
  """The elements of one host: consecutive ones of each global batch.

  The hosts' batches, one after another, are then the batch of a single host
  in its order, and training is the same on any number of them.
  """

  def __init__(
    self, parent: grain.MapDataset, batch_size: int, host: int, hosts: int
  ):
    super().__init__(parent)
    self._batch_size = batch_size
    self._share = batch_size // hosts
    self._first = host * self._share

  def __len__(self) -> int:
    return len(self._parent) // self._batch_size * self._share

  def __getitem__(self, index: int) -> dict:
    batch, place = divmod(index, self._share)
    return self._parent[batch * self._batch_size + self._first + place]


def _check_spec(prepared: AVSpec, wanted: AVSpec, source: str) -> None:
  """Compares what is stored with what the config asks for."""
  names = {"frames": "clip_frames"}
  differing = [
    field.name
    for field in dataclasses.fields(AVSpec)
    if getattr(prepared, field.name) != getattr(wanted, field.name)
  ]
  if differing:
    pairs = ", ".join(
      f"{name} {getattr(prepared, name)} (config: {getattr(wanted, name)})"
      for name in differing
    )
    flags = sorted(
      {
        "--size"
        if name in ("height", "width")
        else f"--{names.get(name, name)}"
        for name in differing
      }
    )
    raise ValueError(
      f"{source} was prepared with {pairs}. Change config.data, or prepare the"
      f" videos again with other {' '.join(flags)}."
    )
