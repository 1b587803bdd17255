"""Embeds sets of clips: batched, sharded, cached, in constant memory."""

import concurrent.futures
import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mmdiff_jax.disk.progress import progress_bar
from mmdiff_jax.evaluation.cache import ClipCache
from mmdiff_jax.evaluation.clip_sets import ClipSet
from mmdiff_jax.evaluation.hosts import anywhere, join_shares, share_of_host

_log = logging.getLogger(__name__)

Batch = dict[str, np.ndarray]

_LOADERS = 4
# Batch per device: where the memory is not known, and what a clip of 16 frames
# takes in I3D, which needs the most, with room to spare.
_BATCH, _CLIP_BYTES = 8, 2**29
_MAX_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Extractor:
  """One kind of feature.

  Attributes:
    name: of the feature.
    version: identifies weights and settings; part of the cache's key.
    apply: batch of `video` uint8 `[B, F, H, W, 3]` and `audio` float32
      `[B, L]` -> `[B, ...]`.
    needs_audio: whether the clips must have audio.
    piecewise: whether it takes a clip per device at a time of itself, so that
      a batch need not have its full size.
  """

  name: str
  version: str
  apply: Callable[[Batch], np.ndarray | jax.Array]
  needs_audio: bool = False
  piecewise: bool = False


def shard_batch(batch: Batch) -> dict[str, jax.Array]:
  """Splits a batch over this host's devices along its first axis."""
  devices = jax.local_devices()
  mesh = jax.make_mesh(
    (len(devices),),
    ("data",),
    axis_types=(jax.sharding.AxisType.Auto,),
    devices=devices,
  )
  sharding = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec("data")
  )
  return jax.device_put(batch, sharding)


def choose_batch_size() -> int:
  """Clips for all devices of this host at once, by the devices' memory."""
  device = jax.local_devices()[0]
  limit = (device.memory_stats() or {}).get("bytes_limit", 0)
  fits = max(_BATCH, min(_MAX_BATCH, limit // _CLIP_BYTES))
  return fits * jax.local_device_count()


class Todo(NamedTuple):
  """A clip, and the names of the features that the cache has not of it."""

  number: int
  digest: str
  missing: frozenset[str]


class FeatureStore:
  """Computes features of clips once and keeps them by content.

  Attributes:
    computed: clips that were embedded, not found in the cache.
    failures: name -> reason of the extractors that failed.
  """

  def __init__(
    self,
    cache_dir: str | os.PathLike | None,
    batch_size: int | None,
    progress: bool,
  ):
    """Sets up.

    Args:
      cache_dir: where features are kept; None keeps nothing.
      batch_size: clips at once, on all devices together; None chooses it.
      progress: whether to show progress bars.
    """
    count = jax.local_device_count()
    if batch_size is not None and batch_size < 1:
      raise ValueError(f"batch_size must be positive, got {batch_size}.")
    batch_size = batch_size or choose_batch_size()
    self._batch_size = -(-batch_size // count) * count
    self._cache = ClipCache(cache_dir, "features")
    self._progress = progress
    self.computed = 0
    self.failures: dict[str, str] = {}

  def extract(
    self, clips: ClipSet, extractors: Sequence[Extractor], label: str
  ) -> dict[str, np.ndarray]:
    """Features of all clips of a set.

    Each host takes a share; they exchange the features at the end.

    Args:
      clips: the set.
      extractors: what to compute.
      label: of the progress bar.

    Returns:
      `{extractor name: float32 [N, ...]}`, without those that failed, whose
      reasons `failures` has.

    Raises:
      ValueError: if a clip cannot be read.
    """
    mine = share_of_host(len(clips))
    bar = progress_bar(len(mine), "clip", disable=not self._progress)
    bar.set_description(label)
    rows: dict[str, dict[int, np.ndarray]] = {e.name: {} for e in extractors}
    with bar, concurrent.futures.ThreadPoolExecutor(_LOADERS) as pool:
      plan = []
      for i in mine:
        todo = self._look_up(clips, i, extractors, rows)
        if todo.missing:
          plan.append(todo)
        else:
          bar.update()
      self._compute(clips, plan, extractors, rows, pool, bar)
    names = list(rows)
    failed = anywhere([name in self.failures for name in names])
    for name, has_failed in zip(names, failed, strict=True):
      if has_failed:
        self.failures.setdefault(name, f"{name} failed on another host")
    return {
      name: join_shares([rows[name][i] for i in mine], len(clips))
      for name in names
      if name not in self.failures
    }

  def _look_up(
    self,
    clips: ClipSet,
    index: int,
    extractors: Sequence[Extractor],
    rows: dict[str, dict[int, np.ndarray]],
  ) -> Todo:
    """Takes the features of a clip that are in the cache."""
    digest = clips.digest(index) if self._cache.is_used else ""
    for e in extractors:
      values = self._cache.read(e.name, e.version, digest)
      if values is not None:
        rows[e.name][index] = values
    missing = frozenset(e.name for e in extractors if index not in rows[e.name])
    return Todo(index, digest, missing)

  def _compute(
    self,
    clips: ClipSet,
    plan: list[Todo],
    extractors: Sequence[Extractor],
    rows: dict[str, dict[int, np.ndarray]],
    pool: concurrent.futures.Executor,
    bar: Any,
  ) -> None:
    """Runs extractors over clips; the next batch is decoded meanwhile."""
    size = self._batch_size
    batches = [plan[i : i + size] for i in range(0, len(plan), size)]
    needs_audio = {e.name for e in extractors if e.needs_audio}

    def start(number: int) -> list[concurrent.futures.Future]:
      return [
        pool.submit(clips.load, todo.number, bool(todo.missing & needs_audio))
        for todo in (batches[number] if number < len(batches) else ())
      ]

    waiting = start(0)
    for number, batch in enumerate(batches):
      loaded = [future.result() for future in waiting]
      waiting = start(number + 1)
      for e in extractors:
        self._try(
          e,
          [
            (t, clip)
            for t, clip in zip(batch, loaded, strict=True)
            if e.name in t.missing
          ],
          clips,
          rows[e.name],
        )
      self.computed += len(batch)
      bar.update(len(batch))

  def _try(
    self,
    extractor: Extractor,
    todo: list[tuple[Todo, Batch]],
    clips: ClipSet,
    rows: dict[int, np.ndarray],
  ) -> None:
    """Adds a batch's features to the rows, or notes why there are none."""
    name = extractor.name
    if name in self.failures or not todo:
      return
    try:
      values = self._apply(extractor, [clip for _, clip in todo])
      _check_finite(values, extractor, clips, [t.number for t, _ in todo])
    except ValueError as error:
      self.failures[name] = str(error)
    except Exception as error:
      # Whatever one network meets, the metrics of the others can be had.
      _log.warning("%s failed", name, exc_info=True)
      self.failures[name] = f"{name}: {type(error).__name__}: {error}"
    else:
      for (clip, _), row in zip(todo, values, strict=True):
        rows[clip.number] = row
        self._cache.write(name, extractor.version, clip.digest, row)

  def _apply(self, extractor: Extractor, loaded: list[Batch]) -> np.ndarray:
    """One batch, filled up to its fixed size so that it compiles once."""
    size = self._batch_size
    if extractor.piecewise:
      devices = jax.local_device_count()
      size = -(-len(loaded) // devices) * devices
    filled = loaded + loaded[-1:] * (size - len(loaded))
    batch = {key: np.stack([clip[key] for clip in filled]) for key in loaded[0]}
    values = np.asarray(extractor.apply(batch), np.float32)
    return values[: len(loaded)]


def _check_finite(
  values: np.ndarray,
  extractor: Extractor,
  clips: ClipSet,
  indices: Sequence[int],
) -> None:
  good = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
  if not good.all():
    clip = clips.ids[indices[int(np.argmin(good))]]
    raise ValueError(
      f"{clips.name}: the feature {extractor.name} of {clip} is not finite; "
      "look for NaN in its audio."
    )
