"""The input pipeline: shuffled, augmented batches of clips (grain).

All hosts see one global order of elements: shuffled anew in every epoch and
repeated without end. Host h of H takes the elements h, h+H, h+2H ... of it, so
that the global batches, and what is drawn at random for each element, do not
depend on H. The state of an iterator is `{"next_index": batches so far}`:
resuming is exact, also on another number of hosts.
"""

from collections.abc import Sequence

import grain
import numpy as np
from ml_collections import ConfigDict

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.sources import Clip, ClipList, SourceOptions, open_source
from mmdiff_jax.data.views import VIEWS, Element


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
) -> grain.DatasetIterator:
  """Batches of what a network learns from.

  An epoch has every clip (F consecutive frames) of every video once.

  Args:
    data: the `data` part of a config.
    view: what is made of a clip, a key of `VIEWS`: "clips", or "images" (one
      random frame, and its small version).
    names: features of a batch: the view's own, and what the source gives of
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

  Returns:
    An iterator, with `get_state`, `set_state` and `close`, over dicts of
    exactly the names: "video" uint8 `[B/H, F, H, W, 3]` and "audio" float32
    `[B/H, L, 1]` in [-1, 1]; or "image" uint8 `[B/H, H, W, 3]` and "low_res"
    float32 `[B/H, H/factor, W/factor, 3]` in [-1, 1]; the inputs, int32 or
    float32, with the batch in front.

  Raises:
    ValueError: if the config does not fit the data, the batch the hosts, or
      the names the source.
  """
  if view not in VIEWS:
    raise ValueError(f"Unknown view {view!r}; allowed: {', '.join(VIEWS)}.")
  if not 0 <= data.flip_probability <= 1:
    raise ValueError(
      f"data.flip_probability must be in [0, 1], got {data.flip_probability}."
    )
  names = VIEWS[view].features if names is None else tuple(names)
  clips = _open_clips(data, VIEWS[view].streams, train)
  _check_names(names, VIEWS[view].features, clips)
  transform = VIEWS[view].make(data, sr, clips.source, names, train)
  inputs = [name for name in names if name not in VIEWS[view].features]

  def to_element(clip: Clip, rng: np.random.Generator) -> Element:
    element = transform(clip, rng)
    extra = clip.inputs() if inputs else {}
    return element | {name: extra[name] for name in inputs}

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
  return _prefetch(share.batch(share.size, drop_remainder=True), data)


def _open_clips(
  data: ConfigDict, streams: tuple[str, ...], train: bool
) -> ClipList:
  """The clips of one side of the split; without one, all on both sides."""
  fraction = data.holdout_fraction
  options = SourceOptions(
    AVSpec.from_config(data),
    streams,
    data.tfds_dir,
    data.synthetic_clips,
    data.get("fit", "pad"),
  )
  source = open_source(data.source, options)
  split = "all" if fraction == 0 else "train" if train else "heldout"
  clips = ClipList(source, split=split, holdout_fraction=fraction)
  if len(clips) == 0:
    side = "training" if train else "held-out"
    raise ValueError(
      f"data.source={data.source!r} has no {side} clip at"
      f" data.holdout_fraction={fraction}; change the fraction or add videos."
    )
  return clips


def _check_names(
  names: Sequence[str], features: Sequence[str], clips: ClipList
) -> None:
  unknown = set(names) - set(features)
  if unknown:
    unknown -= clips[0].inputs().keys()
  if unknown:
    has = ", ".join([*features, *clips[0].inputs()])
    raise ValueError(
      f"{clips.source.name} has no {', '.join(sorted(unknown))}; it has {has}."
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
