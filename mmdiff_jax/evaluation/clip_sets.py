"""Sets of clips to evaluate: folders of videos, arrays, prepared shards.

Every set offers the non-overlapping windows of its videos; `select` takes n of
them. Windows are decoded one by one, when asked for.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data import media, transforms
from mmdiff_jax.data.clips import MANIFEST, Manifest, Segment, segments
from mmdiff_jax.data.tfrecord import TFRecordSource

_log = logging.getLogger(__name__)

MEDIA_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")


@dataclasses.dataclass(frozen=True)
class ClipId:
  """Which window: `source` names the video, `start` the first frame."""

  source: str
  start: int

  def __str__(self) -> str:
    return f"{self.source}@{self.start}" if self.start else self.source


class ClipSet:
  """Windows of `spec` over some videos.

  Attributes:
    name: where the videos come from.
    spec: geometry of every clip.
    ids: the windows, in order.
    available: windows that there were to choose from.
    skipped: (video, reason) of the videos that were left out.
  """

  def __init__(
    self,
    name: str,
    spec: AVSpec,
    lengths: dict[str, int],
    load: Callable[[ClipId], tuple[np.ndarray, np.ndarray | None]],
    digest: Callable[[ClipId], str],
    skipped: Sequence[tuple[str, str]] = (),
  ):
    """Lists the windows of `lengths`, the frames of each video by name."""
    self.name, self.spec = name, spec
    self._lengths, self._load, self._digest = lengths, load, digest
    short = {k: n for k, n in lengths.items() if n < spec.frames}
    self.skipped = list(skipped) + [
      (source, f"{n} of the {spec.frames} frames of a clip")
      for source, n in short.items()
    ]
    self.ids = [
      ClipId(source, start)
      for source, frames in lengths.items()
      for start in range(0, frames - spec.frames + 1, spec.frames)
    ]
    self.available = len(self.ids)
    if not self.ids:
      reason = ""
      if self.skipped:
        reason = " ({}: {})".format(*self.skipped[0])
      raise ValueError(
        f"{name} holds no clip of {spec.frames} frames at {spec.fps:g} fps"
        f"{reason}; give longer videos."
      )

  def __len__(self) -> int:
    return len(self.ids)

  def select(self, count: int, seed: int) -> None:
    """Keeps `count` windows: a random one of every video in turn.

    So the videos are represented as evenly as they allow. With `count` or
    fewer windows all of them stay.
    """
    if count < 2:
      raise ValueError(f"num_clips must be at least 2, got {count}.")
    if len(self.ids) <= count:
      return
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(self.ids))
    turn: dict[str, int] = {}
    ranked = []
    for i in order:
      source = self.ids[i].source
      turn[source] = turn.get(source, 0) + 1
      ranked.append((turn[source], int(i)))
    # Stable: within a turn the random order stays.
    ranked.sort(key=lambda pair: pair[0])
    self.ids = [self.ids[i] for i in sorted(i for _, i in ranked[:count])]

  def digest(self, index: int) -> str:
    """Hash of everything that clip `index` depends on."""
    clip, spec = self.ids[index], self.spec
    text = f"{self._digest(clip)} {clip.start} {spec}"
    return hashlib.sha256(text.encode()).hexdigest()

  def load(self, index: int, audio: bool = True) -> dict[str, np.ndarray]:
    """Decodes clip `index`.

    Args:
      index: of the clip.
      audio: whether the clip must have audio.

    Returns:
      `video` uint8 `[F, H, W, 3]` and `audio` float32 `[L]`, silence where
      there is none and it is not needed.

    Raises:
      ValueError: if the clip is damaged, or lacks audio that is needed.
    """
    clip, spec = self.ids[index], self.spec
    video, sound = self._load(clip)
    if sound is None:
      if audio:
        raise ValueError(
          f"{self.name}: {clip.source} has no audio; leave it out, or ask for "
          "video metrics alone (--metrics=fvd_random,kvd_random)."
        )
      sound = np.zeros(spec.audio_shape, np.float32)
    if video.shape[0] < spec.frames:
      raise ValueError(
        f"{self.name}: {clip} ends after {video.shape[0]} of {spec.frames} "
        "frames; its header promised more. Write the file again."
      )
    if video.shape[1:3] != (spec.height, spec.width):
      video = np.stack(
        [transforms.fit_frame(f, spec.height, spec.width) for f in video]
      )
    return {
      "video": np.ascontiguousarray(video),
      "audio": np.asarray(sound, np.float32).reshape(-1),
    }


def open_clips(
  source: str | os.PathLike | dict[str, np.ndarray], spec: AVSpec
) -> ClipSet:
  """Opens a folder of videos, prepared shards, an .npz file or arrays.

  Args:
    source: a folder with videos (searched below too), a folder with
      dataset.json and TFRecord shards, an .npz file with the arrays `video`
      (uint8 `[N, F, H, W, 3]`) and `audio` (float `[N, L, 1]`), or a dict of
      these arrays.
    spec: geometry of the clips.

  Raises:
    ValueError: if there is no such thing, or it does not fit the spec.
  """
  if isinstance(source, dict):
    return _array_clips("arrays", source, spec)
  path = pathlib.Path(source).expanduser()
  if path.is_file() and path.suffix == ".npz":
    with np.load(path, allow_pickle=False) as arrays:
      return _array_clips(str(path), dict(arrays), spec)
  if not path.is_dir():
    raise ValueError(
      f"{path} is neither a folder of videos nor an .npz file of arrays."
    )
  if (path / MANIFEST).exists():
    return _record_clips(path, spec)
  return _media_clips(path, spec)


def _array_clips(
  name: str, arrays: dict[str, np.ndarray], spec: AVSpec
) -> ClipSet:
  """Clips in memory; several windows where the arrays are longer."""
  missing = {"video", "audio"} - arrays.keys()
  if missing:
    raise ValueError(
      f"{name} lacks {' and '.join(sorted(missing))}: give video "
      "[N, F, H, W, 3] uint8 and audio [N, L, 1] float."
    )
  video, audio = np.asarray(arrays["video"]), np.asarray(arrays["audio"])
  if video.ndim != 5 or video.shape[-1] != 3 or video.dtype != np.uint8:
    raise ValueError(
      f"{name}: video must be uint8 [N, F, H, W, 3], got {video.dtype} "
      f"{video.shape}; convert with av.unit_to_uint8."
    )
  audio = audio[..., None] if audio.ndim == 2 else audio
  needed = spec.frames_to_samples(video.shape[1])
  if audio.shape != (len(video), needed, 1):
    raise ValueError(
      f"{name}: audio has shape {audio.shape}, {video.shape[1]} frames at "
      f"{spec.fps:g} fps and {spec.sample_rate} Hz need "
      f"{(len(video), needed, 1)}."
    )
  names = [f"{i:06d}" for i in range(len(video))]

  def load(clip: ClipId) -> tuple[np.ndarray, np.ndarray]:
    i, begin = int(clip.source), spec.frames_to_samples(clip.start)
    return (
      video[i, clip.start : clip.start + spec.frames],
      audio[i, begin : begin + spec.audio_length],
    )

  def digest(clip: ClipId) -> str:
    content = hashlib.sha256()
    for part in load(clip):
      content.update(np.ascontiguousarray(part).tobytes())
    return f"array {video.shape[2:]} {content.hexdigest()}"

  return ClipSet(name, spec, dict.fromkeys(names, video.shape[1]), load, digest)


def _media_clips(folder: pathlib.Path, spec: AVSpec) -> ClipSet:
  """Windows of the videos below a folder.

  Files that cannot be read are skipped; the upsampled copies in a folder that
  sampling wrote are left out.

  Raises:
    ValueError: if there is no video, or none that can be read.
  """
  listing, copies = folder / "samples.json", set()
  if listing.exists():
    samples = json.loads(listing.read_text())["samples"]
    copies = {sample.get("upscaled") for sample in samples}
  below = (path.relative_to(folder) for path in folder.rglob("*"))
  names = sorted(
    str(path)
    for path in below
    if path.suffix.lower() in MEDIA_SUFFIXES
    and not any(part.startswith(".") for part in path.parts)
    and str(path) not in copies
  )
  if not names:
    raise ValueError(
      f"{folder} holds no video ({', '.join(MEDIA_SUFFIXES)}) and no "
      f"{MANIFEST}."
    )

  def read(name: str) -> media.Media:
    return media.read_media(
      folder / name,
      fps=spec.fps,
      size=(spec.height, spec.width),
      sample_rate=spec.sample_rate,
    )

  # Several windows of one video come in a row.
  read_again = functools.lru_cache(maxsize=4)(read)

  def load(clip: ClipId) -> tuple[np.ndarray, np.ndarray | None]:
    content = read_again(clip.source)
    begin = spec.frames_to_samples(clip.start)
    sound = content.audio
    if sound is not None:
      sound = sound[begin : begin + spec.audio_length]
      sound = np.pad(sound, ((0, spec.audio_length - len(sound)), (0, 0)))
    return content.video[clip.start : clip.start + spec.frames], sound

  file_hash = functools.cache(lambda name: file_sha256(folder / name))
  lengths: dict[str, int] = {}
  skipped: list[tuple[str, str]] = []
  for name in names:
    try:
      lengths[name] = _frames_in_file(folder / name, spec.fps)
    except media.MediaError as error:
      if len(skipped) + 1 == len(names):
        raise
      _log.warning("skipped: %s", error)
      skipped.append((name, error.reason))
  return ClipSet(
    str(folder),
    spec,
    lengths,
    load,
    lambda clip: file_hash(clip.source),
    skipped,
  )


def _frames_in_file(path: pathlib.Path, fps: float) -> int:
  """Frames at `fps` that a file holds, from its header alone.

  A header without a duration (some webm) means decoding the video.
  """
  import av

  try:
    with av.open(str(path), metadata_errors="ignore") as container:
      streams = container.streams.video
      if streams and streams[0].duration:
        seconds = float(streams[0].duration * streams[0].time_base)
        return int(seconds * fps + 0.1)
  except av.error.FFmpegError as error:
    raise media.MediaError(
      path,
      f"damaged or not a media file ({error.strerror}); remove it or write it "
      "again",
    ) from error
  return sum(1 for _ in media.FrameReader(path, fps))


def file_sha256(path: str | os.PathLike) -> str:
  """Hex digest of a file's content."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _record_clips(folder: pathlib.Path, spec: AVSpec) -> ClipSet:
  """Windows of prepared shards."""
  manifest = Manifest.load(folder)
  have = manifest.spec
  same = ("frames", "fps", "sample_rate")
  for field in same:
    if getattr(have, field) != getattr(spec, field):
      raise ValueError(
        f"{folder} was prepared with {field}={getattr(have, field):g}, the "
        f"evaluation wants {getattr(spec, field):g}; prepare it so."
      )
  records = TFRecordSource([folder / name for name, _ in manifest.shards])
  first_record, lengths, position = {}, {}, 0
  for clip in manifest.clips:
    first_record[clip.source] = position
    lengths[clip.source] = clip.frames
    position += len(segments(clip.frames, have.frames))

  def record(clip: ClipId) -> bytes:
    # Segment k starts at frame k F, as our windows do.
    return records[first_record[clip.source] + clip.start // have.frames]

  def load(clip: ClipId) -> tuple[np.ndarray, np.ndarray]:
    segment = Segment(record(clip), have)
    return segment.video(0), segment.audio(0)

  def digest(clip: ClipId) -> str:
    return hashlib.sha256(record(clip)).hexdigest()

  return ClipSet(str(folder), spec, lengths, load, digest, manifest.skipped)
