"""Synchrony of sounding-shapes clips: are both streams of one world?

The impacts are found twice, from the pixels alone and from the waveform alone,
each with an attribute (the colour that is seen, the colour whose pitch is
heard). A video impact and an audio impact match if they lie within one frame
of each other. Clips whose streams were dealt out anew ("shuffled") give the
level of chance; a corrected figure is 0 there and 1 for perfect agreement:

  corrected = (score - chance) / (1 - chance).

The thresholds were chosen on clips of the "tune" split of
`mmdiff_jax.world.clips`; reported figures use the "eval" split.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mmdiff_jax.av import AVSpec, unit_to_uint8
from mmdiff_jax.world.clips import WorldClip
from mmdiff_jax.world.shapes import COLORS, FLOOR, PITCHES

# Video, in frame heights: how near the floor an impact is, and how far the
# shape must be from it before and after, within _REBOUND_TIME seconds.
_CONTACT, _REBOUND, _REBOUND_TIME = 0.08, 0.05, 0.25
# A pixel counts from this share of a colour on, which its neighbourhood must
# have too (lone pixels are noise); a shape is there if its pixels
# add up to this area (squared frame heights), in this share of the frames.
_MIN_COVERAGE, _MIN_AREA, _MIN_PRESENCE = 0.2, 0.008, 1 / 3
# Audio: the band in Hz that holds all pitches, seconds over which the level
# before and after an instant is taken, its least rise (absolute, in levels of
# the background, and as a factor), seconds between onsets and of the spectrum;
# the background is the level that this share of the clip stays below.
_BAND = (240.0, 960.0)
_LEVEL_TIME, _MIN_RISE, _MIN_FLOORS, _MIN_FACTOR = 0.02, 0.08, 2.0, 1.5
_FLOOR_SHARE = 0.2
_ONSET_GAP, _PITCH_TIME = 0.15, 0.06


@dataclasses.dataclass(frozen=True)
class Events:
  """Impacts of a clip, found or true.

  Attributes:
    times: `[N]` seconds, ascending.
    colors: `[N]` attribute of each, keys of `COLORS`.
  """

  times: np.ndarray
  colors: tuple[str, ...]

  @classmethod
  def of_truth(cls, clip: WorldClip) -> "Events":
    """The impacts that a synthetic clip states."""
    return cls(clip.impact_times, tuple(clip.impact_colors))

  @classmethod
  def of_pairs(cls, pairs: Sequence[tuple[float, str]]) -> "Events":
    """From `(time, color)` pairs in any order."""
    pairs = sorted(pairs)
    return cls(np.array([t for t, _ in pairs]), tuple(c for _, c in pairs))


def analyse_video(
  video: np.ndarray, spec: AVSpec, walls: bool = False
) -> Events:
  """Finds impacts in the pixels: the frames in which a shape turns round.

  The shape of each colour is followed by the edges of its coloured area. An
  impact is a frame where it is nearest to the floor, touches it and comes
  from and goes back to a height; its time is the middle of the frame, which
  is therefore up to half a frame off.

  Args:
    video: `[F, H, W, 3]`, uint8 or float in [-1, 1].
    spec: geometry of the clip.
    walls: look for impacts on the side walls too.

  Raises:
    ValueError: if the video does not have the spec's shape.
  """
  video = np.asarray(video)
  if video.shape != spec.video_shape:
    raise ValueError(
      f"Video has shape {video.shape}; the spec says {spec.video_shape}."
    )
  if video.dtype != np.uint8:
    video = unit_to_uint8(np.nan_to_num(video))
  impacts = []
  for color, coverage in _color_coverage(video).items():
    area = coverage.sum(axis=(1, 2)) / spec.height**2
    if (area >= _MIN_AREA).mean() < _MIN_PRESENCE:
      continue
    bottom, left, right = _edges(coverage)
    gaps = [FLOOR - bottom]
    if walls:
      gaps += [left, spec.width / spec.height - right]
    for gap in gaps:
      frames = _turning_frames(np.where(area >= _MIN_AREA, gap, np.nan), spec)
      impacts += [((i + 0.5) / spec.fps, color) for i in frames]
  return Events.of_pairs(impacts)


def _color_coverage(video: np.ndarray) -> dict[str, np.ndarray]:
  """Share of each colour in each pixel, `[F, H, W]`; grey has none of any."""
  pixels = video.astype(np.float32) / 255
  pixels -= pixels.mean(axis=-1, keepdims=True)
  hues = np.array(list(COLORS.values()), np.float32)
  hues -= hues.mean(axis=-1, keepdims=True)
  shares = pixels @ (hues / (hues**2).sum(axis=-1, keepdims=True)).T
  strongest = shares == shares.max(axis=-1, keepdims=True)
  shares = np.where(strongest & (shares > _MIN_COVERAGE), shares, 0.0)
  shares = np.minimum(shares, 1.0)
  shares = np.where(_mean_3x3(shares) > _MIN_COVERAGE, shares, 0.0)
  return dict(zip(COLORS, np.moveaxis(shares, -1, 0), strict=True))


def _mean_3x3(images: np.ndarray) -> np.ndarray:
  """Mean of each pixel's neighbourhood, `[F, H, W, C]`, zeros outside."""
  _, height, width, _ = images.shape
  padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
  top, middle, bottom = (padded[:, i : i + height] for i in range(3))
  rows = top + middle + bottom
  left, middle, right = (rows[:, :, i : i + width] for i in range(3))
  return (left + middle + right) / 9


def _edges(coverage: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Lower, left and right edge per frame, in frame heights, to a sub-pixel.

  From the centre of mass outwards the peak coverages of rows (or columns)
  are summed; a half covered last row counts half.
  """
  height = coverage.shape[1]

  def edge(profile: np.ndarray) -> np.ndarray:
    index = np.arange(profile.shape[1])
    mass = np.maximum(profile.sum(axis=1), 1e-6)
    centre = np.rint((profile * index).sum(axis=1) / mass)[:, None]
    beyond = (profile * (index >= centre)).sum(axis=1)
    return (centre[:, 0] + beyond) / height

  rows, columns = coverage.max(axis=2), coverage.max(axis=1)
  width = columns.shape[1] / height
  return edge(rows), width - edge(columns[:, ::-1]), edge(columns)


def _turning_frames(gap: np.ndarray, spec: AVSpec) -> list[int]:
  """Frames where the gap `[F]` closes: small, least, and larger around."""
  reach = max(1, round(_REBOUND_TIME * spec.fps))
  gap = np.where(np.isfinite(gap), gap, np.inf)
  frames: list[int] = []
  for i in np.argsort(gap, kind="stable"):
    if gap[i] > _CONTACT:
      break
    sides = [gap[max(0, i - reach) : i], gap[i + 1 : i + 1 + reach]]
    sides = [side[np.isfinite(side)] for side in sides]
    rebounds = [side.max() >= gap[i] + _REBOUND for side in sides if side.size]
    apart = all(abs(i - other) >= reach for other in frames)
    if rebounds and all(rebounds) and apart:
      frames.append(int(i))
  return frames


def analyse_audio(audio: np.ndarray, spec: AVSpec) -> Events:
  """Finds impacts in the waveform: the instants at which the level jumps.

  Args:
    audio: `[L, 1]` or `[L]` in [-1, 1], of any length.
    spec: geometry of the clip (the sampling rate).

  Raises:
    ValueError: if the audio is not one channel.
  """
  wave = np.asarray(audio, np.float64)
  if wave.ndim == 2 and wave.shape[1] == 1:
    wave = wave[:, 0]
  if wave.ndim != 1:
    raise ValueError(f"Audio must be [L, 1] or [L], got shape {wave.shape}.")
  wave = np.nan_to_num(wave)
  window = max(1, round(_LEVEL_TIME * spec.sample_rate))
  if wave.size <= window:
    return Events.of_pairs([])
  spectrum = np.fft.rfft(wave, 2 * wave.size)
  hertz = np.fft.rfftfreq(2 * wave.size, 1 / spec.sample_rate)
  spectrum[(hertz < _BAND[0]) | (hertz > _BAND[1])] = 0.0
  band = np.fft.irfft(spectrum)[: wave.size]
  power = np.cumsum(np.pad(band**2, (window + 1, window)))
  level = np.sqrt(np.maximum(power[window:] - power[:-window], 0) / window)
  before, after = level[: wave.size], level[window:][: wave.size]
  rise = np.where(after > _MIN_FACTOR * before, after - before, 0.0)
  floor = float(np.quantile(level, _FLOOR_SHARE))
  enough = max(_MIN_RISE, _MIN_FLOORS * floor)
  onsets: list[int] = []
  while rise.max() > enough:
    onset = int(rise.argmax())
    onsets.append(onset)
    gap = round(_ONSET_GAP * spec.sample_rate)
    rise[max(0, onset - gap) : onset + gap] = 0.0
  return Events.of_pairs(
    [(n / spec.sample_rate, _pitch_class(wave[n:], spec)) for n in onsets]
  )


def _pitch_class(wave: np.ndarray, spec: AVSpec) -> str:
  """Colour whose pitch is nearest to the peak of the spectrum."""
  wave = wave[: round(_PITCH_TIME * spec.sample_rate)]
  size = max(len(wave), round(spec.sample_rate / 4))  # bins of at most 4 Hz
  taper = np.cos(np.pi / 2 * np.arange(len(wave)) / len(wave))
  spectrum = np.abs(np.fft.rfft(wave * taper, size))
  hertz = np.fft.rfftfreq(size, 1 / spec.sample_rate)
  colors, pitches = zip(*PITCHES.items(), strict=True)
  spectrum[(hertz < _BAND[0]) | (hertz > _BAND[1])] = 0.0
  peak = max(hertz[spectrum.argmax()], _BAND[0])
  return colors[int(np.abs(np.log(np.array(pitches) / peak)).argmin())]


def match(a: Events, b: Events, tolerance: float) -> list[tuple[int, int]]:
  """Largest one-to-one matching of events at most `tolerance` seconds apart.

  Both lists are ascending, so pairing greedily from the left is optimal.
  """
  pairs, i, j = [], 0, 0
  while i < len(a.times) and j < len(b.times):
    distance = a.times[i] - b.times[j]
    if abs(distance) <= tolerance:
      pairs.append((i, j))
    i += bool(distance <= tolerance)
    j += bool(distance >= -tolerance)
  return pairs


def compare(
  a: Sequence[Events],
  b: Sequence[Events],
  tolerance: float,
  seed: int = 0,
  shuffles: int = 20,
) -> dict:
  """Agreement of two lists of events, clip by clip, and its level of chance.

  Args:
    a: events of each clip by one observer (video).
    b: events of the same clips by the other (audio).
    tolerance: largest distance of matching events in seconds.
    seed: of the random re-pairings.
    shuffles: number of them; in each, no clip keeps its own partner.

  Returns:
    A dict of floats and counts, free of NaN:
    `onset_f1` = 2 matches / (events in a + events in b), over all clips (0
    if there are no events), its standard error over clips
    `onset_f1_stderr`, `onset_f1_chance`, `onset_f1_corrected`;
    `timing_error_ms` mean distance of matched events and `timing_bias_ms`
    mean of a - b (None without a match); `attribute_agreement` share of the
    matched events whose attributes agree (0 without a match), and its
    `_chance` and `_corrected`; `clips`, `events_a`, `events_b`, `matches`.

  Raises:
    ValueError: for lists of unequal lengths or of fewer than two clips.
  """
  if len(a) != len(b) or len(a) < 2:
    raise ValueError(
      "compare needs two or more clips with both streams (chance is measured "
      f"by exchanging them), got {len(a)} and {len(b)}."
    )
  rng = np.random.default_rng(seed)
  own = _count(a, b, tolerance)
  chance = []
  for _ in range(shuffles):
    ring = rng.permutation(len(a))
    partners = np.roll(ring, 1)
    chance.append(
      _count([a[i] for i in ring], [b[i] for i in partners], tolerance)
    )
  f1, agreement = _f1(own), _agreement(own)
  f1_chance = float(np.mean([_f1(c) for c in chance]))
  # Pooled: a shuffle may have few matches.
  agreement_chance = _agreement(np.concatenate(chance))
  resampled = own[rng.integers(len(own), size=(200, len(own)))]
  distances = np.array(
    [
      x.times[i] - y.times[j]
      for x, y in zip(a, b, strict=True)
      for i, j in match(x, y, tolerance)
    ]
  )
  matched = len(distances) > 0
  return {
    "clips": len(a),
    "events_a": int(own[:, 2].sum()),
    "events_b": int(own[:, 3].sum()),
    "matches": len(distances),
    "onset_f1": f1,
    "onset_f1_stderr": float(np.std([_f1(counts) for counts in resampled])),
    "onset_f1_chance": f1_chance,
    "onset_f1_corrected": _corrected(f1, f1_chance),
    "timing_error_ms": (
      float(np.abs(distances).mean() * 1e3) if matched else None
    ),
    "timing_bias_ms": float(distances.mean() * 1e3) if matched else None,
    "attribute_agreement": agreement,
    "attribute_chance": agreement_chance,
    "attribute_corrected": _corrected(agreement, agreement_chance),
  }


def sync_report(
  videos: Sequence[np.ndarray],
  audios: Sequence[np.ndarray],
  spec: AVSpec,
  seed: int = 0,
  walls: bool = False,
) -> dict:
  """Synchrony of clips: their video events against their audio events.

  Joint samples, or generated video with the given audio (and the other way
  round), are the same call.

  Args:
    videos: `[N, F, H, W, 3]`, uint8 or float in [-1, 1].
    audios: `[N, L, 1]` in [-1, 1].
    spec: geometry of the clips.
    seed: of the shuffles that give the level of chance.
    walls: the world has sounding walls.

  Returns:
    See `compare`; `a` is video, `b` is audio, the tolerance one frame.
  """
  return compare(
    [analyse_video(video, spec, walls) for video in videos],
    [analyse_audio(audio, spec) for audio in audios],
    tolerance=1 / spec.fps,
    seed=seed,
  )


def _count(
  a: Sequence[Events], b: Sequence[Events], tolerance: float
) -> np.ndarray:
  """`[N, 4]`: matches, matches of equal attribute, events in a, in b."""
  rows = []
  for x, y in zip(a, b, strict=True):
    pairs = match(x, y, tolerance)
    equal = sum(x.colors[i] == y.colors[j] for i, j in pairs)
    rows.append((len(pairs), equal, len(x.times), len(y.times)))
  return np.array(rows)


def _f1(counts: np.ndarray) -> float:
  matches, _, in_a, in_b = counts.sum(axis=0)
  return float(2 * matches / max(in_a + in_b, 1))


def _agreement(counts: np.ndarray) -> float:
  matches, equal, _, _ = counts.sum(axis=0)
  return float(equal / max(matches, 1))


def _corrected(score: float, chance: float) -> float:
  """0 at the level of chance, 1 for a perfect score."""
  return (score - chance) / (1 - chance) if chance < 1 else 0.0
