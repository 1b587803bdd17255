"""Leaves out the clips that cannot be used, before anything is embedded."""

import concurrent.futures
import logging

import jax
import numpy as np

from mmdiff_jax.data.container import MediaError
from mmdiff_jax.evaluation.clip_sets import ClipSet
from mmdiff_jax.progress import progress_bar

_log = logging.getLogger(__name__)

_LOADERS = 4
# Clips that an error names.
_NAMED = 3


def leave_out_bad(
  clips: ClipSet, audio: bool, max_bad: float, progress: bool = False
) -> None:
  """Decodes every clip; drops and lists those that cannot be used.

  Hosts look at clips in turn and tell each other.

  Args:
    clips: whose `ids` shrink and whose `skipped` grows.
    audio: whether the clips must have sound.
    max_bad: largest share of bad clips that is put up with.
    progress: whether to show a progress bar.

  Raises:
    ValueError: if more than that share is bad.
  """
  host, hosts = jax.process_index(), jax.process_count()
  mine = range(host, len(clips), hosts)
  known: dict[int, str] = {}
  bar = progress_bar(len(mine), "clip", disable=not progress)
  bar.set_description("checking")
  with bar, concurrent.futures.ThreadPoolExecutor(_LOADERS) as pool:
    reasons = pool.map(lambda i: why_bad(clips, i, audio), mine)
    for i, reason in zip(mine, reasons, strict=True):
      if reason is not None:
        known[i] = reason
      bar.update()
  bad: np.ndarray = np.zeros(len(clips), bool)
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


def why_bad(clips: ClipSet, index: int, audio: bool) -> str | None:
  """Why a clip cannot be used, or None if it can."""
  try:
    clip = clips.load(index, audio)
  except MediaError as error:
    return error.reason
  except (ValueError, OSError) as error:
    return str(error)
  if not np.isfinite(clip["audio"]).all():
    return "its audio has NaN or infinity"
  return None
