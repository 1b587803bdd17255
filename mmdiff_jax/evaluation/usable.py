"""Leaves out the clips that cannot be used, before anything is embedded."""

import concurrent.futures
import logging
import os
import pathlib

import jax
import numpy as np

from mmdiff_jax.evaluation.cache import (
  BlockCache,
  read_block,
  split_blocks,
  write_block,
)
from mmdiff_jax.evaluation.clip_sets import ClipSet
from mmdiff_jax.media.container import MediaError
from mmdiff_jax.progress import progress_bar

_log = logging.getLogger(__name__)

_LOADERS = 4
# Clips that an error names.
_NAMED = 3
# Raised when what makes a clip unusable changes: old verdicts are stale.
_VERSION = "1"


def leave_out_bad(
  clips: ClipSet,
  audio: bool,
  max_bad: float,
  cache_dir: str | os.PathLike | None = None,
  progress: bool = False,
) -> None:
  """Decodes every clip; drops and lists those that cannot be used.

  What was found is kept by the clips' content, so that a clip is judged once;
  what is decoded here stays with the set while there is room, so that
  embedding it decodes nothing again. Hosts judge blocks of clips in turn and
  tell each other.

  Args:
    clips: whose `ids` shrink and whose `skipped` grows.
    audio: whether the clips must have sound.
    max_bad: largest share of bad clips that is put up with.
    cache_dir: where verdicts are kept; None keeps none.
    progress: whether to show a progress bar.

  Raises:
    ValueError: if more than that share is bad.
  """
  host, hosts = jax.process_index(), jax.process_count()
  blocks = split_blocks(len(clips))[host::hosts]
  cache = BlockCache(cache_dir, "usable")
  known: dict[int, str] = {}
  bar = progress_bar(
    sum(len(block) for block in blocks), "clip", disable=not progress
  )
  bar.set_description("checking")
  with bar, concurrent.futures.ThreadPoolExecutor(_LOADERS) as pool:
    for block in blocks:
      path = _verdict_path(cache, clips, block, audio)
      verdicts = read_block(path, len(block))
      if verdicts is None:
        verdicts = np.array(
          list(pool.map(lambda i: why_bad(clips, i, audio), block))
        )
        write_block(path, verdicts)
      known |= {
        i: str(why) for i, why in zip(block, verdicts, strict=True) if why
      }
      bar.update(len(block))
  bad = np.zeros(len(clips), bool)
  bad[list(known)] = True
  if hosts > 1:
    from jax.experimental import multihost_utils

    bad = np.any(multihost_utils.process_allgather(bad), axis=0)
  found = [
    (
      str(clips.ids[i]),
      known.get(i) or why_bad(clips, i, audio) or "bad on another host",
    )
    for i in map(int, np.flatnonzero(bad))
  ]
  if len(found) > max_bad * len(clips):
    named = "; ".join(f"{name}: {why}" for name, why in found[:_NAMED])
    raise ValueError(
      f"{clips.name}: {len(found)} of {len(clips)} clips cannot be used, more "
      f"than --max_bad={max_bad:.3g} of them ({named}). Repair them, or allow "
      "more."
    )
  for name, reason in found:
    _log.warning("left out: %s: %s", name, reason)
  clips.skipped += found
  clips.ids = [
    clip for clip, is_bad in zip(clips.ids, bad, strict=True) if not is_bad
  ]


def _verdict_path(
  cache: BlockCache, clips: ClipSet, block: range, audio: bool
) -> pathlib.Path | None:
  """Where a block's verdicts are kept; None if its data cannot be read."""
  needs = "sound needed" if audio else "pictures alone"
  try:
    return cache.paths({"usable": f"{_VERSION} {needs}"}, clips, block)[
      "usable"
    ]
  except (ValueError, OSError):
    return None


def why_bad(clips: ClipSet, index: int, audio: bool) -> str:
  """Why a clip cannot be used, or "" if it can."""
  try:
    clip = clips.load(index, audio, keep=True)
  except MediaError as error:
    return error.reason
  except (ValueError, OSError) as error:
    return str(error)
  if not np.isfinite(clip["audio"]).all():
    return "its audio has NaN or infinity"
  return ""
