"""Embeds sets of clips: batched, sharded, cached, in constant memory."""

import concurrent.futures
import dataclasses
import logging
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from mmdiff_jax.evaluation.cache import (
  BlockCache,
  read_block,
  split_blocks,
  write_block,
)
from mmdiff_jax.evaluation.clip_sets import ClipSet
from mmdiff_jax.progress import progress_bar

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


class Block(NamedTuple):
  """Clips of one cache file.

  Attributes:
    number: its place in the set.
    indices: of its clips.
    paths: of its features' files, by name.
    todo: what is not in the cache.
    parts: what was computed of it, by name.
  """

  number: int
  indices: range
  paths: dict[str, pathlib.Path | None]
  todo: list[Extractor]
  parts: dict[str, list[np.ndarray]]


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
    self._cache = BlockCache(cache_dir, "features")
    self._progress = progress
    self.computed = 0
    self.failures: dict[str, str] = {}

  def extract(
    self, clips: ClipSet, extractors: Sequence[Extractor], label: str
  ) -> dict[str, np.ndarray]:
    """Features of all clips of a set.

    Hosts take blocks in turn and exchange the features at the end.

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
    host, hosts = jax.process_index(), jax.process_count()
    blocks = split_blocks(len(clips))
    total = sum(len(block) for block in blocks[host::hosts])
    bar = progress_bar(total, "clip", disable=not self._progress)
    bar.set_description(label)
    mine: dict[int, dict] = {}
    plan: list[Block] = []
    with bar, concurrent.futures.ThreadPoolExecutor(_LOADERS) as pool:
      for number in range(host, len(blocks), hosts):
        block, mine[number] = self._look_up(
          clips, number, blocks[number], extractors
        )
        if block.todo:
          plan.append(block)
        else:
          bar.update(len(block.indices))
      self._compute(clips, plan, mine, pool, bar)
    names = [e.name for e in extractors]
    failed = _anywhere([name in self.failures for name in names])
    for name, has_failed in zip(names, failed, strict=True):
      if has_failed:
        self.failures.setdefault(name, f"{name} failed on another host")
    good = [name for name in names if name not in self.failures]
    return _gather(mine, blocks, good)

  def _look_up(
    self,
    clips: ClipSet,
    number: int,
    indices: range,
    extractors: Sequence[Extractor],
  ) -> tuple[Block, dict[str, np.ndarray]]:
    """A block, and its features that are in the cache."""
    paths = self._cache.paths(
      {e.name: e.version for e in extractors}, clips, indices
    )
    found = {name: read_block(p, len(indices)) for name, p in paths.items()}
    done = {n: values for n, values in found.items() if values is not None}
    todo = [e for e in extractors if e.name not in done]
    return Block(number, indices, paths, todo, {}), done

  def _compute(self, clips, plan: list[Block], mine: dict, pool, bar) -> None:
    """Runs extractors over blocks; the next batch is decoded meanwhile."""
    size = self._batch_size
    batches = [
      (block, block.indices[i : i + size])
      for block in plan
      for i in range(0, len(block.indices), size)
    ]

    def start(number: int) -> list[concurrent.futures.Future]:
      if number >= len(batches):
        return []
      block, indices = batches[number]
      audio = any(e.needs_audio for e in block.todo)
      return [pool.submit(clips.load, i, audio) for i in indices]

    waiting = start(0)
    for number, (block, indices) in enumerate(batches):
      loaded = [future.result() for future in waiting]
      waiting = start(number + 1)
      for e in block.todo:
        self._try(e, loaded, block, clips, indices)
      self.computed += len(indices)
      bar.update(len(indices))
      if indices[-1] == block.indices[-1]:
        for name, parts in block.parts.items():
          if name not in self.failures:
            mine[block.number][name] = np.concatenate(parts)
            write_block(block.paths[name], mine[block.number][name])
        block.parts.clear()

  def _try(
    self,
    extractor: Extractor,
    loaded: list[Batch],
    block: Block,
    clips: ClipSet,
    indices: range,
  ) -> None:
    """Adds a batch's features to a block, or notes why there are none."""
    name = extractor.name
    if name in self.failures:
      return
    try:
      values = self._apply(extractor, loaded)
      _check_finite(values, extractor, clips, indices)
    except ValueError as error:
      self.failures[name] = str(error)
    except Exception as error:
      # Whatever one network meets, the metrics of the others can be had.
      _log.warning("%s failed", name, exc_info=True)
      self.failures[name] = f"{name}: {type(error).__name__}: {error}"
    else:
      block.parts.setdefault(name, []).append(values)

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
  values: np.ndarray, extractor: Extractor, clips: ClipSet, indices: range
) -> None:
  good = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
  if not good.all():
    clip = clips.ids[indices[int(np.argmin(good))]]
    raise ValueError(
      f"{clips.name}: the feature {extractor.name} of {clip} is not finite; "
      "look for NaN in its audio."
    )


def _anywhere(flags: list[bool]) -> list[bool]:
  """Whether each flag is set on any host."""
  if jax.process_count() == 1:
    return flags
  from jax.experimental import multihost_utils

  everyone = multihost_utils.process_allgather(np.asarray(flags))
  return [bool(flag) for flag in np.any(everyone, axis=0)]


def _gather(
  mine: dict[int, dict], blocks: list[range], names: list[str]
) -> dict[str, np.ndarray]:
  """Joins the blocks of all hosts in order."""
  hosts = jax.process_count()
  if hosts == 1:
    ordered = [mine[i] for i in range(len(blocks))]
    return {n: np.concatenate([b[n] for b in ordered]) for n in names}
  from jax.experimental import multihost_utils

  out = {}
  rounds = -(-len(blocks) // hosts)
  for name in names:
    # A host without a single block cannot know the feature's shape.
    shape = next((b[name].shape[1:] for b in mine.values()), ())
    ranks = multihost_utils.process_allgather(
      np.array([len(shape), *shape, 0, 0, 0, 0][:5], np.int32)
    )
    longest = max(ranks.tolist())
    shape = tuple(longest[1 : 1 + longest[0]])
    local = np.zeros((rounds, len(blocks[0]), *shape), np.float32)
    for number, block in mine.items():
      local[number // hosts, : len(block[name])] = block[name]
    everyone = np.asarray(multihost_utils.process_allgather(local))
    parts = [
      everyone[i % hosts, i // hosts, : len(block)]
      for i, block in enumerate(blocks)
    ]
    out[name] = np.concatenate(parts)
  return out
