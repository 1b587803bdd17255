"""A data set in words, as preparation and inspection print it."""

from collections.abc import Sequence

from mmdiff_jax.data.manifest import MANIFEST, Manifest, Video
from mmdiff_jax.disk.names import one_line

# So many of the videos that are empty in part are listed, emptiest first.
_EMPTY_LISTED = 5


def summary(manifest: Manifest) -> str:
  """The counts of a data set, and what was skipped or repaired, in lines."""
  lines = [
    f"{len(manifest.videos)} videos used, {len(manifest.skipped)} skipped;"
    f" {manifest.num_clips} clips of {manifest.spec.frames} frames in"
    f" {manifest.num_records} records, {len(manifest.shards)} shards;"
    f" {manifest.hours:.4f} h"
  ]
  lines += [f"skipped {source}: {why}" for source, why in manifest.skipped]
  lines += [
    f"repaired {video.source}: {'; '.join(video.repaired)}"
    for video in manifest.videos
    if video.repaired
  ]
  return "\n".join(map(one_line, lines + _emptiest(manifest.videos)))


def _emptiest(videos: Sequence[Video]) -> list[str]:
  """Lines on the videos that hold silence, stills or darkness."""
  empty = [v for v in videos if any(v.empty.values()) or v.left_out]
  empty.sort(key=lambda v: (-len(v.left_out), -max(v.empty.values())))
  lines = [f"empty {v.source}: {_empty(v)}" for v in empty[:_EMPTY_LISTED]]
  if len(empty) > _EMPTY_LISTED:
    rest = len(empty) - _EMPTY_LISTED
    lines.append(f"empty in part: {rest} more, listed in {MANIFEST}")
  return lines


def _empty(video: Video) -> str:
  words = [f"{s:g} s {name}" for name, s in video.empty.items() if s]
  count = sum(end - begin for begin, end in video.left_out)
  if count:
    words.append(f"{count} clips left out")
  return ", ".join(words)
