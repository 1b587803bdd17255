"""The input pipeline: shuffled, augmented batches of clips (grain).

All hosts see one global order of elements: shuffled anew in every epoch and
repeated without end. Host h of H takes the elements h, h+H, h+2H ... of it, so
that the global batches, and what is drawn at random for each element, do not
depend on H. The state of an iterator is `{"next_index": batches so far}`:
resuming is exact, also on another number of hosts.
"""

from collections.abc import Callable, Mapping, Sequence

import grain
import numpy as np
from ml_collections import ConfigDict

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.descriptions import InputInfo, TextEncoder
from mmdiff_jax.data.sources import (
  Clip,
  ClipList,
  DescriptionOptions,
  Source,
  SourceOptions,
  open_source,
)
from mmdiff_jax.data.views import VIEWS, Element


class Loader:
  """Batches of what a network learns from, without end or for some epochs.

  Attributes:
    inputs: what the source tells of the inputs of its videos, by name.
  """

  def __init__(
    self, batches: grain.DatasetIterator, inputs: Mapping[str, InputInfo]
  ):
    """Passes batches on."""
    self._batches, self.inputs = batches, inputs

  def __iter__(self) -> "Loader":
    return self

  def __next__(self) -> Element:
    return next(self._batches)

  def get_state(self) -> dict:
    """The position, as JSON holds it."""
    return self._batches.get_state()

  def set_state(self, state: dict) -> None:
    """Goes on from a position."""
    self._batches.set_state(state)

  def close(self) -> None:
    """Ends the threads that read."""
    self._batches.close()


def create_loader(
  data: ConfigDict,
  *,
  view: str = "clips",
  names: Sequence[str] | None = None,
  sr: ConfigDict | None = None,
  batch_size: int,
  seed: int,
  process_index: int = 0,
  process_count: int = 1,
  train: bool = True,
  num_epochs: int | None = None,
  absent: Mapping[str, np.ndarray] | None = None,
  open_encoder: Callable[[], TextEncoder] | None = None,
) -> Loader:
  """Batches of what a network learns from.

  An epoch has every clip (F consecutive frames) of every video once. Where a
  video has several captions, each clip draws one of them anew in every epoch.

  Args:
    data: the `data` part of a config.
    view: what is made of a clip, a key of `VIEWS`: "clips", or "images" (one
      random frame, and its small version).
    names: features of a batch: the view's own, and what the source tells of
      its videos, such as "label". None means all of the view's own.
    sr: the `sr` part of a config, for "images".
    batch_size: elements per batch over all hosts.
    seed: of the order and all random choices.
    process_index: number of this host.
    process_count: number of hosts.
    train: True reads the training side of the split and flips (and degrades)
      at random; False reads the held-out side (all data where there is none)
      as it is.
    num_epochs: None repeats without end; a last partial batch is dropped.
    absent: values of inputs that stand for a video's lack of them; a video
      must have the others.
    open_encoder: opens the text encoder, for sources that are not prepared.

  Returns:
    An iterator over dicts of exactly the names: "video" uint8
    `[B/H, F, H, W, 3]` and "audio" float32 `[B/H, L, 1]` in [-1, 1]; or "image"
    uint8 `[B/H, H, W, 3]` and "low_res" float32 `[B/H, H/factor, W/factor, 3]`
    in [-1, 1]; the inputs, int32 or float32, with the batch in front.

  Raises:
    ValueError: if the config does not fit the data, the batch the hosts, or
      the names the source, or if the first clip cannot be read.
  """
  if view not in VIEWS:
    raise ValueError(f"Unknown view {view!r}; allowed: {', '.join(VIEWS)}.")
  if not 0 <= data.flip_probability <= 1:
    raise ValueError(
      f"data.flip_probability must be in [0, 1], got {data.flip_probability}."
    )
  names = VIEWS[view].features if names is None else tuple(names)
  # Vectors of captions are made where they are wanted.
  encoder = open_encoder if "text" in names else None
  clips = _open_clips(data, VIEWS[view].streams, train, encoder)
  absent = absent or {}
  _check_names(names, VIEWS[view].features, clips, absent)
  transform = VIEWS[view].make(data, sr, clips.source, names, train)
  inputs = [name for name in names if name not in VIEWS[view].features]
  infos = clips.source.inputs
  shapes = {name: infos[name].shape for name in inputs}

  def to_element(clip: Clip, rng: np.random.Generator) -> Element:
    element = transform(clip, rng)
    told = clip.inputs() if inputs else {}
    for name in inputs:
      element[name] = _choose(clip, name, told.get(name), absent, shapes, rng)
    return element

  # What is wrong with all of them is known before anything is compiled.
  to_element(clips[0], np.random.default_rng(seed))
  dataset = (
    grain.MapDataset.source(clips)
    .seed(seed)
    .shuffle()
    .repeat(num_epochs, reseed_each_epoch=True)
    # Before the hosts part, so that an element's randomness goes by its
    # global index, whatever their number.
    .random_map(to_element)
  )
  share = _HostShare(dataset, batch_size, process_index, process_count)
  batches = _prefetch(share.batch(share.size, drop_remainder=True), data)
  return Loader(batches, infos)


def _choose(
  clip: Clip,
  name: str,
  value: np.ndarray | None,
  absent: Mapping[str, np.ndarray],
  shapes: Mapping[str, tuple[int, ...]],
  rng: np.random.Generator,
) -> np.ndarray:
  """A clip's value of an input: one of several, or that of its absence."""
  if value is None:
    if name not in absent:
      raise ValueError(f"{clip.origin()} has no {name}; leave it out.")
    return absent[name]
  if value.ndim > len(shapes[name]):
    return value[rng.integers(len(value))]
  return value


def _open_clips(
  data: ConfigDict,
  streams: tuple[str, ...],
  train: bool,
  open_encoder: Callable[[], TextEncoder] | None,
) -> ClipList:
  """The clips of one side of the split; without one, all on both sides."""
  fraction = data.holdout_fraction
  options = SourceOptions(
    AVSpec.from_config(data),
    streams,
    data.tfds_dir,
    data.synthetic_clips,
    data.get("fit", "pad"),
    DescriptionOptions(
      data.get("captions", ""),
      data.get("embeddings", ""),
      data.get("labels", "none"),
      open_encoder,
    ),
  )
  source = open_source(data.source, options)
  _check_usable(source)
  split = "all" if fraction == 0 else "train" if train else "heldout"
  clips = ClipList(source, split=split, holdout_fraction=fraction)
  if len(clips) == 0:
    side = "training" if train else "held-out"
    raise ValueError(
      f"data.source={data.source!r} has no {side} clip at"
      f" data.holdout_fraction={fraction}; change the fraction or add videos."
    )
  return clips


def _check_usable(source: Source) -> None:
  """Raises ValueError for a source that knows of clips it cannot give."""
  unusable: Mapping[str, str] = getattr(source, "unusable", {})
  if unusable:
    video, reason = next(iter(unusable.items()))
    raise ValueError(
      f"{source.where(video)}: {reason}; {len(unusable)} of "
      f"{len(source.videos)} clips are so. Repair them, or leave them out."
    )


def _check_names(
  names: Sequence[str],
  features: Sequence[str],
  clips: ClipList,
  absent: Mapping[str, np.ndarray],
) -> None:
  """Raises ValueError for inputs that no video has, or of another shape."""
  name, told = clips.source.name, clips.source.inputs
  unknown = sorted(set(names) - set(features) - told.keys())
  if unknown:
    has = ", ".join([*features, *told])
    raise ValueError(f"{name} has no {', '.join(unknown)}; it has {has}.")
  for key, value in absent.items():
    if key in names and told[key].shape != value.shape:
      raise ValueError(
        f"{name} has {key} of shape {told[key].shape}, but the network takes "
        f"{value.shape}; change config.model, or the data."
      )


def _prefetch(
  dataset: grain.MapDataset, data: ConfigDict
) -> grain.DatasetIterator:
  """Iterates over batches that threads make ahead."""
  if data.num_threads < 1 or data.prefetch < 1:
    raise ValueError(
      "data.num_threads and data.prefetch must be at least 1, got"
      f" {data.num_threads} and {data.prefetch}."
    )
  options = grain.ReadOptions(
    num_threads=data.num_threads,
    prefetch_buffer_size=max(data.prefetch, data.num_threads),
  )
  return iter(dataset.to_iter_dataset(options))


class _HostShare(grain.MapDataset):
  """The elements of one host: consecutive ones of each global batch.

  The hosts' batches, one after another, are then the batch of a single host
  in its order, and training is the same on any number of them.

  Attributes:
    size: elements of each batch.
  """

  def __init__(
    self, parent: grain.MapDataset, batch_size: int, host: int, hosts: int
  ):
    super().__init__(parent)
    if not 0 <= host < hosts:
      raise ValueError(f"process_index must be in [0, {hosts}), got {host}.")
    if batch_size < 1 or batch_size % hosts:
      raise ValueError(
        f"the batch size must be a positive multiple of the {hosts} hosts, got"
        f" {batch_size}."
      )
    self.size = batch_size // hosts
    self._batch_size = batch_size
    self._first = host * self.size

  def __len__(self) -> int:
    return len(self._parent) // self._batch_size * self.size

  def __getitem__(self, index: int) -> Element:
    batch, place = divmod(index, self.size)
    return self._parent[batch * self._batch_size + self._first + place]
