"""A data set in words, as preparation and inspection print it."""

from collections.abc import Sequence

from data_prep.bars import Bars
from mmdiff_jax.data.clips import segment_length
from mmdiff_jax.data.manifest import MANIFEST, Manifest, Video
from mmdiff_jax.disk.names import one_line

# Fewer videos are few; a larger share is most.
_FEW, _MOST = 100, 0.5
# So many of the videos that are empty in part are listed, emptiest first.
_EMPTY_LISTED = 5


def summary(manifest: Manifest) -> str:
  """What a data set holds, what was skipped or repaired, and what to mind."""
  videos, spec = manifest.videos, manifest.spec
  apart = sum(video.frames // spec.frames for video in videos)
  lines = [
    f"Videos: {len(videos)} used ({_duration(manifest.hours)}), "
    f"{len(manifest.skipped)} skipped.",
    f"Clips: {manifest.num_clips} of {spec.frames} frames "
    f"({spec.duration:.3g} s). One begins at every frame; {apart} do not "
    "overlap.",
    f"Records: {manifest.num_records} stretches of up to "
    f"{segment_length(spec.frames)} frames, in {len(manifest.shards)} shards.",
  ]
  lines += [f"skipped {source}: {why}" for source, why in manifest.skipped]
  lines += [
    f"repaired {video.source}: {'; '.join(video.repaired)}"
    for video in manifest.videos
    if video.repaired
  ]
  lines += _emptiest(manifest.videos)
  lines += [f"note: {note}" for note in _notes(manifest)]
  return "\n".join(map(one_line, lines))


def _duration(hours: float) -> str:
  """A length in the unit that suits it."""
  if hours >= 1:
    return f"{hours:.3g} h"
  return f"{hours * 60:.3g} min" if hours * 60 >= 1 else f"{hours * 3600:.3g} s"


def _notes(manifest: Manifest) -> list[str]:
  """What may keep a network from learning much of a data set."""
  notes, videos = [], manifest.videos
  if len(videos) < _FEW:
    notes.append(
      f"few videos ({len(videos)}): a network learns them by heart. The "
      "paper's sets have 1,000 and more; fine-tune a trained model "
      "(--config.train.init_from) rather than starting anew."
    )
  counts = [manifest.clips_of(video) for video in videos]
  most = max(range(len(videos)), key=counts.__getitem__)
  if len(videos) > 1 and counts[most] > _MOST * sum(counts):
    notes.append(
      f"{videos[most].source} supplies {counts[most] / sum(counts):.0%} of the "
      "clips."
    )
  barred = [video for video in videos if any(video.bars)]
  if barred:
    first = barred[0]
    notes.append(
      f"black bars in {len(barred)} of {len(videos)} videos, such as "
      f"{first.source} ({Bars(*first.bars)}): --crop_bars cuts them off."
    )
  total = manifest.hours * 3600
  for name, words, flag in (
    ("silent", "the sound is silent", "--max_silence"),
    ("still", "the pictures stand still", "--max_frozen"),
  ):
    seconds = sum(video.empty.get(name, 0.0) for video in videos)
    if seconds > _MOST * total:
      notes.append(
        f"{words} for {seconds / total:.0%} of the time: {flag}={_MOST} leaves "
        "such clips out."
      )
  return notes


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
