"""Ways to spoil clips, to see which metric notices what.

Each takes and returns `{"video": uint8 [N, F, H, W, 3], "audio": float32
[N, L, 1]}` and leaves its input as it is.
"""

from collections.abc import Callable

import numpy as np

Clips = dict[str, np.ndarray]

# Standard deviation of the noise: grey levels, and part of each clip's level.
_VIDEO_NOISE, _AUDIO_NOISE = 15.0, 0.3
# Standard deviation of the blur in pixels of a frame 64 high.
_BLUR = 1.5
# Shift of the audio against the video, as a part of the clip.
_SHIFT = 0.25


def video_noise(clips: Clips, rng: np.random.Generator) -> Clips:
  """Gaussian noise of 15 grey levels on every pixel."""
  noise = rng.normal(0, _VIDEO_NOISE, clips["video"].shape)
  video = np.clip(np.round(clips["video"] + noise), 0, 255)
  return clips | {"video": video.astype(np.uint8)}


def blur(clips: Clips, rng: np.random.Generator) -> Clips:
  """Gaussian blur of 1.5 pixels (at 64x64)."""
  from scipy.ndimage import gaussian_filter

  sigma = _BLUR * clips["video"].shape[2] / 64
  video = gaussian_filter(
    clips["video"].astype(np.float32), (0, 0, sigma, sigma, 0)
  )
  return clips | {"video": np.round(video).astype(np.uint8)}


def frozen(clips: Clips, rng: np.random.Generator) -> Clips:
  """The middle frame throughout."""
  frames = clips["video"].shape[1]
  middle = np.full(frames, frames // 2)
  return clips | {"video": clips["video"][:, middle]}


def shuffled_frames(clips: Clips, rng: np.random.Generator) -> Clips:
  """The frames of each clip in random order."""
  order = rng.permuted(
    np.tile(np.arange(clips["video"].shape[1]), (len(clips["video"]), 1)),
    axis=1,
  )
  video = np.take_along_axis(
    clips["video"], order[:, :, None, None, None], axis=1
  )
  return clips | {"video": video}


def audio_noise(clips: Clips, rng: np.random.Generator) -> Clips:
  """White noise at 0.3 of each clip's level (-10 dB)."""
  audio = clips["audio"]
  level = np.sqrt(np.mean(audio**2, axis=1, keepdims=True))
  noise = rng.standard_normal(audio.shape) * _AUDIO_NOISE * level
  return clips | {"audio": (audio + noise).astype(np.float32)}


def muted(clips: Clips, rng: np.random.Generator) -> Clips:
  """Silence."""
  return clips | {"audio": np.zeros_like(clips["audio"])}


def shifted_audio(clips: Clips, rng: np.random.Generator) -> Clips:
  """The audio a quarter of the clip late, its end at the beginning."""
  shift = round(_SHIFT * clips["audio"].shape[1])
  return clips | {"audio": np.roll(clips["audio"], shift, axis=1)}


def swapped_pairs(clips: Clips, rng: np.random.Generator) -> Clips:
  """Every clip with the audio of another one."""
  ring = rng.permutation(len(clips["audio"]))
  audio = np.empty_like(clips["audio"])
  audio[ring] = clips["audio"][np.roll(ring, 1)]
  return clips | {"audio": audio}


DEGRADATIONS: dict[str, Callable[[Clips, np.random.Generator], Clips]] = {
  "video noise": video_noise,
  "blur": blur,
  "frozen frame": frozen,
  "shuffled frames": shuffled_frames,
  "audio noise": audio_noise,
  "muted audio": muted,
  "shifted audio": shifted_audio,
  "swapped pairs": swapped_pairs,
}
