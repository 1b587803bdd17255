"""Memorisation: which training clip is each sample nearest to, and how near.

A clip is a set of tokens: frames as 16x16 thumbnails ("pixel"), 0.4 s pieces
of its log-mel picture ("mel"), its I3D logits ("i3d"). The distance of a
sample from a training video is the mean over a few of the sample's tokens of
the distance to the nearest token of that video, so that a copy is found
wherever in the video it was cut. Mirrored samples are compared too; mel
pieces have the volume taken out.

Distances are told as ratios to what is usual between different real videos:
the median distance of a real clip from the nearest OTHER real video. A sample
is called a copy where its ratio is below a threshold that no more than 1 % of
the real clips reach among themselves, with a margin (`copy_threshold`).
"""

import dataclasses

import numpy as np

SPACES = ("pixel", "i3d", "mel")
# Tokens of a sample that are looked up in the training videos.
_QUERIES = 4
# Columns (50 ms) of a piece of the mel picture.
_PIECE = 8
# A copy is at most this part as far as the usual nearest real video...
_MAX_RATIO = 0.4
# ...and as the nearest pair of different real videos (their 1 % quantile).
_MARGIN = 0.6
_QUANTILE = 0.01
# Real clips that measure what is usual; more of them cost time only.
_MAX_REFERENCE = 512
_BYTES = 2**28


@dataclasses.dataclass(frozen=True)
class Neighbours:
  """Nearest training clip of each of M samples in one space.

  Attributes:
    distance: `[M]`.
    index: `[M]`, of the training clip that holds the nearest token.
  """

  distance: np.ndarray
  index: np.ndarray


@dataclasses.dataclass(frozen=True)
class Space:
  """Result in one space.

  Attributes:
    ratio: `[M]` distance of each sample to its nearest training video over
      the median of `reference`.
    index: `[M]` nearest training clip.
    reference: distances of real clips to the nearest other real video, over
      their median.
    threshold: ratios below it are copies.
  """

  ratio: np.ndarray
  index: np.ndarray
  reference: np.ndarray
  threshold: float

  @property
  def copies(self) -> np.ndarray:
    """Whether each sample is a copy, `[M]` bool."""
    return self.ratio < self.threshold

  def summary(self) -> dict:
    """Figures for the report."""
    return {
      "share_of_copies": float(self.copies.mean()),
      "share_of_real_below_threshold": float(
        (self.reference < self.threshold).mean()
      ),
      "threshold": self.threshold,
      "median_ratio": float(np.median(self.ratio)),
      "smallest_ratio": float(self.ratio.min()),
    }


def pixel_tokens(thumbnails: np.ndarray) -> np.ndarray:
  """Thumbnails `[N, F, S, S, 3]` -> tokens `[N, F, 3 S^2]`."""
  return thumbnails.reshape(*thumbnails.shape[:2], -1)


def mel_tokens(picture: np.ndarray) -> np.ndarray:
  """Mel pictures `[N, T, 32]` -> pieces of 0.4 s, `[N, T-7, 256]`.

  Each piece has its mean taken out: a factor on the wave is lost with it.
  """
  size = min(_PIECE, picture.shape[1])
  pieces = np.lib.stride_tricks.sliding_window_view(picture, size, axis=1)
  pieces = pieces.reshape(*pieces.shape[:2], -1)
  return pieces - pieces.mean(axis=-1, keepdims=True)


def queries(tokens: np.ndarray) -> np.ndarray:
  """A few tokens of each clip, evenly spread, `[M, Q, D]`."""
  count = tokens.shape[1]
  chosen = np.linspace(0, count - 1, min(_QUERIES, count)).round().astype(int)
  return tokens[:, chosen]


def nearest(
  query: np.ndarray,
  train: np.ndarray,
  sources: np.ndarray,
  own: np.ndarray | None = None,
) -> Neighbours:
  """The nearest training video of each query clip.

  Args:
    query: tokens `[M, V, Q, D]`; of the V variants the nearest one counts.
    train: tokens `[N, P, D]` of the training clips.
    sources: number of the video of each training clip, `[N]`.
    own: number of the video that each query comes from, `[M]`, to be left
      out; None for generated clips.

  Returns:
    Distances and nearest clips.
  """
  count, pieces, width = train.shape
  order = np.argsort(sources, kind="stable")
  flat = np.asarray(train[order], np.float32).reshape(-1, width)
  videos, first = np.unique(sources[order], return_index=True)
  squares = np.einsum("td,td->t", flat, flat)
  per_query = query.shape[1] * query.shape[2]
  step = max(1, _BYTES // (4 * len(flat) * per_query))
  distance = np.empty(len(query), np.float32)
  index = np.empty(len(query), int)
  for start in range(0, len(query), step):
    part = np.asarray(query[start : start + step], np.float32)
    block = part.reshape(-1, width)
    gaps = squares - 2 * block @ flat.T
    gaps += np.einsum("qd,qd->q", block, block)[:, None]
    gaps = np.sqrt(np.maximum(gaps, 0))
    nearest_token = np.minimum.reduceat(gaps, first * pieces, axis=1)
    per_video = nearest_token.reshape(*part.shape[:3], -1).mean(axis=2)
    if own is not None:
      same = videos[None] == own[start : start + step, None]
      per_video = np.where(same[:, None], np.inf, per_video)
    best = per_video.reshape(len(part), -1).argmin(axis=1)
    variant, video = np.divmod(best, len(videos))
    rows = np.arange(len(part))
    distance[start : start + step] = per_video[rows, variant, video]
    # Of that video the clip with the token nearest to the middle query.
    middle = part.shape[2] // 2
    gaps = gaps.reshape(*part.shape[:3], -1)[rows, variant, middle]
    ends = np.append(first, count)[1:] * pieces
    for row in rows:
      low, high = first[video[row]] * pieces, ends[video[row]]
      token = low + gaps[row, low:high].argmin()
      index[start + row] = order[token // pieces]
  return Neighbours(distance, index)


def copy_threshold(reference: np.ndarray) -> float:
  """Ratio below which a sample is called a copy.

  At most 0.4 of the usual distance to the nearest other real video, and 0.6
  of what the nearest 1 % of different real videos are apart: a held-out clip
  is about as far from the training set as its clips are from each other.

  Args:
    reference: real-to-real distances over their median.

  Returns:
    The threshold.
  """
  near = float(np.quantile(reference, _QUANTILE))
  return min(_MAX_RATIO, _MARGIN * near)


def compare_space(
  query: np.ndarray, train: np.ndarray, sources: np.ndarray, seed: int
) -> Space:
  """Finds the copies among generated clips in one space.

  Args:
    query: tokens `[M, V, Q, D]` of the generated clips.
    train: tokens `[N, P, D]` of the training clips.
    sources: number of the video of each training clip, `[N]`.
    seed: of the choice of real clips that measure the usual distance.

  Returns:
    The result.

  Raises:
    ValueError: if the training clips come from fewer than two videos, or do
      not differ in this space.
  """
  if len(np.unique(sources)) < 2:
    raise ValueError(
      "The memorisation check needs training clips of at least 2 videos, to "
      "know how far apart different videos are."
    )
  rng = np.random.default_rng(seed)
  chosen = np.sort(rng.permutation(len(train))[:_MAX_REFERENCE])
  reference = nearest(
    queries(train[chosen])[:, None], train, sources, own=sources[chosen]
  ).distance
  usual = float(np.median(reference))
  if usual == 0:
    raise ValueError(
      "More than half of the training clips have a twin in another video; "
      "remove the duplicates before the memorisation check."
    )
  found = nearest(query, train, sources)
  reference = reference / usual
  return Space(
    found.distance / usual, found.index, reference, copy_threshold(reference)
  )


def pixel_queries(thumbnails: np.ndarray) -> np.ndarray:
  """Query tokens of samples and of their mirror images, `[M, 2, Q, D]`."""
  plain = queries(pixel_tokens(thumbnails))
  mirrored = queries(pixel_tokens(thumbnails[..., ::-1, :]))
  return np.stack([plain, mirrored], axis=1)


def compare_clips(
  sample: dict[str, np.ndarray],
  train: dict[str, np.ndarray],
  sources: np.ndarray,
  video: str,
  seed: int,
) -> dict[str, Space]:
  """Finds copies in all spaces.

  Args:
    sample: features "thumbnails", "mel_picture", `video` and the latter
      "_mirrored" of the generated clips.
    train: the same of the training clips, without the mirrored one.
    sources: number of the video of each training clip, `[N]`.
    video: name of the I3D feature.
    seed: see `compare_space`.

  Returns:
    One result per name of `SPACES`.
  """
  logits = np.stack([sample[video], sample[f"{video}_mirrored"]], axis=1)
  tokens = {
    "pixel": (
      pixel_queries(sample["thumbnails"]),
      pixel_tokens(train["thumbnails"]),
    ),
    "i3d": (logits[:, :, None], train[video][:, None]),
    "mel": (
      queries(mel_tokens(sample["mel_picture"]))[:, None],
      mel_tokens(train["mel_picture"]),
    ),
  }
  return {
    space: compare_space(*tokens[space], sources, seed) for space in SPACES
  }


def summary(spaces: dict[str, Space], video: str) -> dict:
  """Figures of all spaces for the report, and the share of copies in any."""
  video_copy = spaces["pixel"].copies | spaces["i3d"].copies
  return {
    "share_of_video_copies": float(video_copy.mean()),
    "share_of_audio_copies": float(spaces["mel"].copies.mean()),
    "share_of_copies": float((video_copy | spaces["mel"].copies).mean()),
    "i3d_weights": "random" if video.endswith("random") else "published",
    "explanation": (
      "A ratio is a sample's distance to its nearest training video over the "
      "median distance of a real clip to the nearest other real video. Below "
      f"the threshold, the smaller of {_MAX_RATIO} and {_MARGIN} x the "
      f"{_QUANTILE:.0%} quantile of the real clips' own ratios, a sample "
      "counts as a copy; share_of_real_below_threshold says how many real "
      "clips would be accused by the same rule."
    ),
    "spaces": {name: space.summary() for name, space in spaces.items()},
  }
