"""Sound of a media file as samples on the file's time axis."""

import dataclasses
import os

import numpy as np

from mmdiff_jax.data.container import MediaError, opened

CHANNELS = ("mean", "first")
ALL_CHANNELS = "all"

# Gaps longer than this are filled with silence (seconds).
_AUDIO_GAP = 0.05


@dataclasses.dataclass(frozen=True)
class AudioTrack:
  """Sound on the file's time axis: runs of samples without gaps.

  Attributes:
    runs: pairs of start time (seconds) and float32 samples `[n, C]`, C = 1
      unless all channels were asked for.
    sample_rate: samples per second.
  """

  runs: tuple[tuple[float, np.ndarray], ...]
  sample_rate: int

  @property
  def start(self) -> float:
    """Time of the first sample in seconds."""
    return self.runs[0][0]

  @property
  def end(self) -> float:
    """Time after the last sample in seconds."""
    return max(t + len(x) / self.sample_rate for t, x in self.runs)

  def cut(self, origin: float, begin: int, end: int) -> np.ndarray:
    """Samples `begin` to `end` after time `origin`; zero where there are none.

    Returns:
      float32 `[end - begin, C]`.
    """
    channels = self.runs[0][1].shape[1]
    out = np.zeros((end - begin, channels), np.float32)
    for time, samples in self.runs:
      first = round((time - origin) * self.sample_rate) - begin
      low, high = max(first, 0), min(first + len(samples), len(out))
      if low < high:
        out[low:high] = samples[low - first : high - first]
    return out

  def repairs(self, origin: float, duration: float) -> list[str]:
    """Says where the track had to be filled with silence (over 0.05 s)."""
    words = []
    if self.start - origin > _AUDIO_GAP:
      late = min(self.start - origin, duration)
      words.append(f"audio starts {late:.2f} s late: padded with silence")
    if origin + duration - self.end > _AUDIO_GAP:
      early = min(origin + duration - self.end, duration)
      words.append(f"audio ends {early:.2f} s early: padded with silence")
    if len(self.runs) > 1:
      words.append(f"audio has {len(self.runs) - 1} gaps: silence there")
    return words


def read_track(
  path: str | os.PathLike,
  sample_rate: int | None = None,
  channels: str = "mean",
) -> AudioTrack | None:
  """Decodes the first audio stream; None where there is none or it is empty.

  Args:
    path: of the file.
    sample_rate: to resample to (Hz); None keeps the file's.
    channels: "mean" or "first" make one of several, "all" keeps them.

  Raises:
    MediaError: if the file is missing or damaged.
    ValueError: if an argument is out of range.
  """
  import av

  if channels not in (*CHANNELS, ALL_CHANNELS):
    raise ValueError(
      f"channels must be one of {(*CHANNELS, ALL_CHANNELS)}, got {channels!r}."
    )
  if sample_rate is not None and sample_rate <= 0:
    raise ValueError(f"sample_rate must be positive, got {sample_rate}.")
  runs: list[tuple[float, list[np.ndarray]]] = []
  resampler: av.AudioResampler | None = None
  setup, expected = None, 0.0
  with opened(path) as container:
    if not container.streams.audio:
      return None
    stream = container.streams.audio[0]
    rate = sample_rate or stream.rate

    def drain(resampler: av.AudioResampler, frame) -> None:
      for part in resampler.resample(frame):
        runs[-1][1].append(_mix(part.to_ndarray(), channels))

    for frame in container.decode(stream):
      time = expected if frame.time is None else float(frame.time)
      format_now = (frame.format.name, frame.layout.name, frame.sample_rate)
      gap = abs(time - expected) > _AUDIO_GAP
      if resampler is None or setup != format_now or gap:
        if resampler is not None:
          drain(resampler, None)
        resampler = av.AudioResampler("fltp", frame.layout.name, rate)
        runs.append((time, []))
        setup, expected = format_now, time
      expected += frame.samples / frame.sample_rate
      drain(resampler, frame)
    if resampler is not None:
      drain(resampler, None)
  joined = tuple((t, np.concatenate(x)) for t, x in runs if x)
  for _, samples in joined:
    if not np.isfinite(samples).all():
      raise MediaError(path, "the audio holds values that are not finite")
    np.clip(samples, -1.0, 1.0, out=samples)
  if len({samples.shape[1] for _, samples in joined}) > 1:
    raise MediaError(path, "the number of audio channels changes")
  return AudioTrack(joined, rate) if joined else None


def _mix(samples: np.ndarray, channels: str) -> np.ndarray:
  """Planar `[C, n]` -> float32 `[n, 1]`, or `[n, C]` for "all"."""
  if channels == "mean":
    samples = samples.mean(axis=0, keepdims=True)
  elif channels == "first":
    samples = samples[:1]
  return np.array(samples.T, np.float32)
