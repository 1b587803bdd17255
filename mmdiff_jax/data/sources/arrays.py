"""Clips of arrays in memory or in an .npz file."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.clips import as_inputs
from mmdiff_jax.data.descriptions import InputInfo
from mmdiff_jax.data.sources.base import ArrayClip
from mmdiff_jax.disk.arrays import read_npz
from mmdiff_jax.media.container import MediaError

# Beyond this, sound is not of full scale 1 at all; what is between is clipped.
_LOUDEST = 2.0


class ArraySource:
  """Videos `000000`, `000001` ... in memory.

  Numbers in further arrays of as many rows are inputs of the videos, and texts
  in `captions`, `[N]` or `[N, K]`, describe them ("" is none).

  Attributes:
    unusable: reason by name of each video that must not be used.
  """

  skipped = ()

  def __init__(self, name: str, arrays: Mapping[str, np.ndarray], spec: AVSpec):
    """Checks the arrays.

    Args:
      name: of the source.
      arrays: `video` uint8 `[N, F, H, W, 3]` and `audio` float `[N, L, 1]` or
        `[N, L]`, where F may be more than a clip's.
      spec: geometry of the clips; height and width are the arrays' own.

    Raises:
      ValueError: if they do not fit the spec.
    """
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
    if audio.dtype.kind != "f":
      raise ValueError(
        f"{name}: audio must be float in [-1, 1], got {audio.dtype}; divide "
        "16-bit samples by 32768."
      )
    audio = audio[..., None] if audio.ndim == 2 else audio
    needed = spec.frames_to_samples(video.shape[1])
    if audio.shape != (len(video), needed, 1):
      raise ValueError(
        f"{name}: audio has shape {audio.shape}, {video.shape[1]} frames at "
        f"{spec.fps:g} fps and {spec.sample_rate} Hz need "
        f"{(len(video), needed, 1)}."
      )
    self.name = name
    self.spec = dataclasses.replace(
      spec, height=video.shape[2], width=video.shape[3]
    )
    self.videos = {f"{i:06d}": video.shape[1] for i in range(len(video))}
    self._video, self._audio = video, audio
    self._inputs = {
      key: as_inputs(key, array)
      for key, array in arrays.items()
      if key not in ("video", "audio")
      and np.shape(array)[:1] == video.shape[:1]
      and np.asarray(array).dtype.kind in "iubf"
    }
    self.unusable = {
      video: reason
      for number, video in enumerate(self.videos)
      if (reason := self._why_unusable(number))
    }
    self.inputs = {
      key: InputInfo(array.shape[1:]) for key, array in self._inputs.items()
    }
    self.captions = _captions(name, arrays.get("captions"), list(self.videos))

  def _why_unusable(self, number: int) -> str:
    """What is wrong with a video's numbers, or ""."""
    peak = float(np.abs(self._audio[number]).max(initial=0.0))
    if not np.isfinite(peak):
      return "its audio has NaN or infinity"
    if peak > _LOUDEST:
      return f"its audio reaches {peak:g}, full scale is 1"
    for name, values in self._inputs.items():
      if not np.isfinite(values[number]).all():
        return f"its {name} has NaN or infinity"
    return ""

  def where(self, video: str) -> str:
    """See `base.Source`."""
    return f"{self.name}#{video}"

  def clip(self, video: str, start: int) -> ArrayClip:
    """See `base.Source`; raises MediaError for an unusable video."""
    if video in self.unusable:
      raise MediaError(self.where(video), self.unusable[video])
    number, begin = int(video), self.spec.frames_to_samples(start)
    sound = self._audio[number, begin : begin + self.spec.audio_length]
    beyond = int(np.count_nonzero(np.abs(sound) > 1.0))
    return ArrayClip(
      self._video[number, start : start + self.spec.frames],
      np.clip(np.asarray(sound, np.float32), -1.0, 1.0),
      f"{video} @{start}",
      {name: values[number] for name, values in self._inputs.items()},
      (f"audio exceeds full scale: {beyond} samples clipped",)
      if beyond
      else (),
    )

  def digest(self, video: str, start: int) -> str:
    """See `base.Source`."""
    clip = self.clip(video, start)
    content = hashlib.sha256()
    for part in (clip.video(), clip.audio()):
      content.update(np.ascontiguousarray(part).tobytes())
    return f"array {self._video.shape[2:]} {content.hexdigest()}"

  def __repr__(self) -> str:
    return f"ArraySource({self.name}, {len(self.videos)} videos)"


def _captions(
  name: str, array: np.ndarray | None, videos: Sequence[str]
) -> dict[str, tuple[str, ...]]:
  """Texts of each video that has some."""
  if array is None:
    return {}
  texts = np.asarray(array)
  if texts.dtype.kind != "U" or texts.shape[:1] != (len(videos),):
    raise ValueError(
      f"{name}: captions are {texts.dtype}{list(texts.shape)}; give texts, "
      f"[{len(videos)}] or [{len(videos)}, K]."
    )
  rows = texts.reshape(len(videos), -1).tolist()
  captions = {
    video: tuple(text.strip() for text in row if text.strip())
    for video, row in zip(videos, rows, strict=True)
  }
  return {video: some for video, some in captions.items() if some}


def open_npz(path: pathlib.Path, spec: AVSpec) -> ArraySource:
  """Reads an .npz file; see `ArraySource`."""
  return ArraySource(str(path), read_npz(path), spec)
