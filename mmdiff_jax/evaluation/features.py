"""Embeds sets of clips: batched, sharded, cached, in constant memory."""

import concurrent.futures
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from mmdiff_jax.evaluation.clip_sets import ClipSet
from mmdiff_jax.files import replacing
from mmdiff_jax.progress import progress_bar

Batch = dict[str, np.ndarray]

# Clips of one cache file; a run that is interrupted repeats at most so many.
BLOCK = 64
_LOADERS = 4


@dataclasses.dataclass(frozen=True)
class Extractor:
  """One kind of feature.

  Attributes:
    name: of the feature.
    version: identifies weights and settings; part of the cache's key.
    apply: batch of `video` uint8 `[B, F, H, W, 3]` and `audio` float32
      `[B, L]` -> `[B, ...]`.
    needs_audio: whether the clips must have audio.
  """

  name: str
  version: str
  apply: Callable[[Batch], np.ndarray | jax.Array]
  needs_audio: bool = False


def default_cache_dir() -> pathlib.Path:
  """The user's cache folder: $XDG_CACHE_HOME or ~/.cache, `mmdiff_jax`."""
  base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(base) / "mmdiff_jax"


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


class FeatureStore:
  """Computes features of clips once and keeps them by content.

  A block's file is named by the hashes of its clips and the extractor's
  version, so that a changed clip or network is never taken for the old one.
  """

  def __init__(
    self, cache_dir: str | os.PathLike | None, batch_size: int, progress: bool
  ):
    """Sets up; `cache_dir` None keeps nothing."""
    count = jax.local_device_count()
    if batch_size < 1:
      raise ValueError(f"batch_size must be positive, got {batch_size}.")
    self._batch_size = -(-batch_size // count) * count
    self._cache = None
    if cache_dir is not None:
      self._cache = pathlib.Path(cache_dir).expanduser() / "features"
    self._progress = progress
    self.computed = 0

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
      `{extractor name: float32 [N, ...]}`.

    Raises:
      ValueError: if a clip cannot be read, or a feature is not finite.
    """
    host, hosts = jax.process_index(), jax.process_count()
    blocks = [
      range(start, min(start + BLOCK, len(clips)))
      for start in range(0, len(clips), BLOCK)
    ]
    mine = {}
    total = sum(len(block) for block in blocks[host::hosts])
    bar = progress_bar(total, "clip", disable=not self._progress)
    bar.set_description(label)
    with bar, concurrent.futures.ThreadPoolExecutor(_LOADERS) as pool:
      for number in range(host, len(blocks), hosts):
        block = blocks[number]
        mine[number] = self._block(clips, block, extractors, pool, bar)
    return _gather(mine, blocks, [e.name for e in extractors])

  def _block(self, clips, block, extractors, pool, bar) -> dict:
    """Features of one block, from the cache as far as they are there."""
    digests = [clips.digest(i) for i in block] if self._cache else []
    paths = {e.name: self._path(e, digests) for e in extractors}
    found = {name: _read(path, len(block)) for name, path in paths.items()}
    done = {
      name: values for name, values in found.items() if values is not None
    }
    todo = [e for e in extractors if e.name not in done]
    if not todo:
      bar.update(len(block))
      return done
    computed = self._compute(clips, block, todo, pool, bar)
    for name, values in computed.items():
      _write(paths[name], values)
    return done | computed

  def _path(self, extractor: Extractor, digests: list) -> pathlib.Path | None:
    if self._cache is None:
      return None
    text = "\n".join([extractor.name, extractor.version, *digests])
    name = hashlib.sha256(text.encode()).hexdigest()
    return self._cache / f"{extractor.name}-{name[:32]}.npy"

  def _compute(self, clips, block, extractors, pool, bar) -> dict:
    """Runs the extractors over a block; the next batch loads meanwhile."""
    audio = any(e.needs_audio for e in extractors)
    size = self._batch_size

    def start(batch: range) -> list[concurrent.futures.Future]:
      return [pool.submit(clips.load, i, audio) for i in batch]

    batches = [block[i : i + size] for i in range(0, len(block), size)]
    parts: dict[str, list] = {e.name: [] for e in extractors}
    waiting = start(batches[0])
    for number, indices in enumerate(batches):
      loaded = [future.result() for future in waiting]
      if number + 1 < len(batches):
        waiting = start(batches[number + 1])
      for e in extractors:
        parts[e.name].append(self._apply(e, loaded))
        _check_finite(parts[e.name][-1], e, clips, indices)
      self.computed += len(indices)
      bar.update(len(indices))
    return {name: np.concatenate(values) for name, values in parts.items()}

  def _apply(self, extractor: Extractor, loaded: list[Batch]) -> np.ndarray:
    """One batch, filled up to its fixed size so that it compiles once."""
    filled = loaded + loaded[-1:] * (self._batch_size - len(loaded))
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


def _read(path: pathlib.Path | None, count: int) -> np.ndarray | None:
  """A cached block, or None where there is none that is whole."""
  if path is None or not path.exists():
    return None
  try:
    values = np.load(path, allow_pickle=False)
  except (ValueError, EOFError, OSError):
    return None
  return values if len(values) == count else None


def _write(path: pathlib.Path | None, values: np.ndarray) -> None:
  if path is not None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
      np.save(file, values)


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
    local = np.zeros((rounds, BLOCK, *shape), np.float32)
    for number, block in mine.items():
      local[number // hosts, : len(block[name])] = block[name]
    everyone = np.asarray(multihost_utils.process_allgather(local))
    parts = [
      everyone[i % hosts, i // hosts, : len(block)]
      for i, block in enumerate(blocks)
    ]
    out[name] = np.concatenate(parts)
  return out
