"""Mixed noise levels: what of a training sample is noised, and how far.

Under shared levels all of a sample has one step index. Mixed levels teach a
network to take any part of a clip as known (Hayakawa et al. 2024, arXiv
2405.13762; Bao et al. 2023, arXiv 2303.06555; per frame Liu et al. 2024,
arXiv 2410.03160): a part that is clean enters as it is, has level 0 and no
loss.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

# What becomes of a sample; the shares say how often.
KINDS = (
  "joint",
  "clean_audio",
  "clean_video",
  "independent",
  "clean_frames",
  "pure_noise",
)
# Of samples with clean frames: which streams have them. The other stream is
# noised ("noised") or clean throughout ("clean").
_FRAME_CASES = (
  ("both", 0.5),
  ("video, clean audio", 0.2),
  ("audio, clean video", 0.2),
  ("video, noised audio", 0.1),
)


@dataclasses.dataclass(frozen=True)
class Levels:
  """Noise levels of a batch.

  Attributes:
    t: by stream, the step index `[B]` of all that is noised.
    clean: by stream, which frames are known, bool `[B, F]`.
  """

  t: Mapping[str, jax.Array]
  clean: Mapping[str, jax.Array]

  def told(self, kind: str) -> dict[str, jax.Array]:
    """What the network is told: 0 for what is clean.

    Args:
      kind: "stream" (`[B]` by stream) or "frame" (`[B, F]`).
    """
    if kind == "stream":
      return {
        name: jnp.where(self.clean[name].all(1), 0, t)
        for name, t in self.t.items()
      }
    return {
      name: jnp.where(self.clean[name], 0, t[:, None])
      for name, t in self.t.items()
    }

  def share(self, name: str) -> jax.Array:
    """The share of a stream that is noised, `[B]`."""
    return 1.0 - self.clean[name].astype(jnp.float32).mean(1)


jax.tree_util.register_dataclass(
  Levels, data_fields=["t", "clean"], meta_fields=[]
)


def check_shares(shares: Mapping[str, float]) -> dict[str, float]:
  """Checks the shares of the kinds of samples, and makes them sum to 1.

  Args:
    shares: share of each member of `KINDS`; those that are missing are 0.

  Raises:
    ValueError: for an unknown kind, a negative share, or none above 0.
  """
  unknown = sorted(set(shares) - set(KINDS))
  if unknown:
    raise ValueError(
      f"config.train.level_shares.{unknown[0]} is unknown; allowed are "
      f"{', '.join(KINDS)}."
    )
  for name, share in shares.items():
    if not 0 <= share < np.inf:
      raise ValueError(
        f"config.train.level_shares.{name}={share} must be a number from 0."
      )
  total = sum(shares.values())
  if not total > 0:
    raise ValueError("config.train.level_shares: give at least one above 0.")
  return {name: shares.get(name, 0.0) / total for name in KINDS}


def draw_kinds(
  rng: jax.Array, shares: Mapping[str, float], batch: int
) -> jax.Array:
  """Kinds of a batch's samples, as indices into `KINDS` `[B]`.

  Stratified: sample i takes the (i + u) / B quantile, u the same for all, so
  that each batch holds its share of each kind, give or take one; which sample
  has which is random.
  """
  place_rng, order_rng = jax.random.split(rng)
  edges = jnp.asarray(np.cumsum([shares[name] for name in KINDS]), jnp.float32)
  place = (jnp.arange(batch) + jax.random.uniform(place_rng)) / batch
  kinds = jnp.searchsorted(edges, place * edges[-1], side="right")
  return jax.random.permutation(order_rng, jnp.minimum(kinds, len(KINDS) - 1))


def draw_levels(
  rng: jax.Array,
  shares: Mapping[str, float],
  t: jax.Array,
  other_t: jax.Array,
  num_timesteps: int,
  frames: int,
) -> Levels:
  """Draws the levels of a batch of clips.

  Args:
    rng: one key.
    shares: of `check_shares`.
    t: `[B]` step indices.
    other_t: `[B]` others, independent of them.
    num_timesteps: T; index T - 1 is taken for pure noise.
    frames: F.

  Returns:
    Levels of "video" and "audio".
  """
  kind_rng, noise_rng, frame_rng = jax.random.split(rng, 3)
  kind = draw_kinds(kind_rng, shares, t.shape[0])
  of = {name: kind == i for i, name in enumerate(KINDS)}
  video_t = t
  audio_t = jnp.where(of["independent"], other_t, t)
  # Half of them have no picture, half no sound.
  no_video = jax.random.bernoulli(noise_rng, 0.5, t.shape)
  last = num_timesteps - 1
  video_t = jnp.where(of["pure_noise"] & no_video, last, video_t)
  audio_t = jnp.where(of["pure_noise"] & ~no_video, last, audio_t)
  by_video, by_audio = draw_clean_frames(frame_rng, t.shape[0], frames)
  some = of["clean_frames"][:, None]
  return Levels(
    {"video": video_t, "audio": audio_t},
    {
      "video": of["clean_video"][:, None] | (some & by_video),
      "audio": of["clean_audio"][:, None] | (some & by_audio),
    },
  )


def draw_clean_frames(
  rng: jax.Array, batch: int, frames: int
) -> tuple[jax.Array, jax.Array]:
  """Which frames are clean where some are, for video and audio.

  A stretch of one to F - 1 frames is noised: at the end (a continuation), at
  the beginning, or anywhere between (a retake).

  Returns:
    Bool `[B, F]` each.
  """
  length_rng, start_rng, place_rng, case_rng = jax.random.split(rng, 4)
  shape = (batch, 1)
  length = jax.random.randint(length_rng, shape, 1, max(frames, 2))
  start = jax.random.uniform(start_rng, shape) * (frames - length + 1)
  place = jax.random.randint(place_rng, shape, 0, 3)
  start = jnp.select(
    [place == 0, place == 1],
    [frames - length, jnp.zeros_like(length)],
    start.astype(jnp.int32),
  )
  frame = jnp.arange(frames)
  clean = (frame < start) | (frame >= start + length)
  case = jax.random.choice(
    case_rng,
    len(_FRAME_CASES),
    shape,
    p=jnp.array([share for _, share in _FRAME_CASES]),
  )
  names = [name for name, _ in _FRAME_CASES]
  video = jnp.where(case == names.index("audio, clean video"), True, clean)
  audio = jnp.select(
    [
      case == names.index("video, clean audio"),
      case == names.index("video, noised audio"),
    ],
    [jnp.ones_like(clean), jnp.zeros_like(clean)],
    clean,
  )
  return video, audio
