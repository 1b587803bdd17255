"""Leaves out the clips that cannot be used, before anything is embedded."""

import concurrent.futures
import logging
import os

import numpy as np

from mmdiff_jax.disk.progress import progress_bar
from mmdiff_jax.evaluation.cache import ClipCache
from mmdiff_jax.evaluation.clip_sets import ClipSet
from mmdiff_jax.evaluation.hosts import anywhere, share_of_host
from mmdiff_jax.media.container import MediaError

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
  embedding it decodes nothing again. Each host judges a share of the clips and
  tells the others.

  Args:
    clips: whose `ids` shrink and whose `skipped` grows.
    audio: whether the clips must have sound.
    max_bad: largest share of bad clips that is put up with.
    cache_dir: where verdicts are kept; None keeps none.
    progress: whether to show a progress bar.

  Raises:
    ValueError: if more than that share is bad.
  """
  mine = share_of_host(len(clips))
  cache = ClipCache(cache_dir, "usable")
  known: dict[int, str] = {}
  bar = progress_bar(len(mine), "clip", disable=not progress)
  bar.set_description("checking")
  with bar, concurrent.futures.ThreadPoolExecutor(_LOADERS) as pool:
    verdicts = pool.map(lambda i: _judge(cache, clips, i, audio), mine)
    for i, why in zip(mine, verdicts, strict=True):
      if why:
        known[i] = why
      bar.update()
  bad = np.zeros(len(clips), bool)
  bad[list(known)] = True
  bad = anywhere(bad)
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


def _judge(cache: ClipCache, clips: ClipSet, index: int, audio: bool) -> str:
  """What `why_bad` says, or said before."""
  version = f"{_VERSION} {'sound needed' if audio else 'pictures alone'}"
  try:
    digest = clips.digest(index)
  except (ValueError, OSError):
    return why_bad(clips, index, audio)
  verdict = cache.read("usable", version, digest)
  if verdict is None:
    verdict = np.array(why_bad(clips, index, audio))
    cache.write("usable", version, digest, verdict)
  return str(verdict)


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
