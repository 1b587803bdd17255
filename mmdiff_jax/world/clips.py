"""The sounding-shapes world: clips whose audio-video truth is known.

Shapes fall, bounce on a floor and sound at every impact. Lengths are in frame
heights, y points down, times in seconds:

* a bounce of height h lasts T = 2 sqrt(2h/g) and ends with speed sqrt(2gh);
  the floor is a trampoline that draws a new h at every impact, so that a clip
  of any length keeps bouncing and its rhythm is not periodic;
* frame i shows the shape at time (i + 1/2)/fps, unless an impact falls in
  [i/fps, (i+1)/fps): that frame shows the contact itself;
* an impact sounds from its exact time on, at the pitch of the colour, with
  the timbre of the kind, the length of the size and the loudness of the speed.

Clips depend on their seed alone; `split_seed` keeps the seeds of training,
tuning and evaluation apart.
"""

import dataclasses

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.world import captions
from mmdiff_jax.world.shapes import (
  COLORS,
  EXTENTS,
  FLOOR,
  PITCHES,
  TIMBRES,
  background,
  paint,
  sound,
)

# No impact so close to an end of the clip that one of its two streams could
# not show it: seconds after the start, before the end, and past the end.
_START_MARGIN, _END_MARGIN, _PAST_END = 0.05, 0.08, 0.03
# An impact before the clip lies this far back: its tone is over.
_SILENT_LEAD = 0.35

# (color, kind) of a clip's first shape, by its label.
CLASSES = tuple((color, kind) for color in COLORS for kind in TIMBRES)

_SPLIT_SIZE = 1_000_000_000
SPLITS = ("train", "tune", "eval")


def split_seed(split: str, index: int) -> int:
  """Seed of clip `index` of a split; the splits share no seed.

  Args:
    split: "train", "tune" (choosing thresholds and settings) or "eval"
      (reported figures only).
    index: number of the clip, from 0.

  Raises:
    ValueError: for an unknown split or an index outside of it.
  """
  if split not in SPLITS:
    raise ValueError(f"Split {split!r} is unknown; choose one of {SPLITS}.")
  if not 0 <= index < _SPLIT_SIZE:
    raise ValueError(f"Index {index} is outside [0, {_SPLIT_SIZE}).")
  return SPLITS.index(split) * _SPLIT_SIZE + index


@dataclasses.dataclass(frozen=True)
class World:
  """Rules of the world; the defaults are the simple one.

  Attributes:
    num_shapes: shapes in a clip, each of a colour of its own.
    kinds: kinds of shape to draw from, keys of `TIMBRES`.
    colors: colours to draw from, keys of `COLORS`.
    radius: smallest and largest radius.
    bounce: smallest and largest height of a bounce. The default makes
      impacts of one shape at least 0.42 s apart.
    gravity: acceleration in frame heights per second squared.
    walls: shapes cross the frame fast enough to hit the side walls, which
      sound too; otherwise they drift between two points and never do.
    clutter: number of dim grey rectangles behind the shapes.
  """

  num_shapes: int = 1
  kinds: tuple[str, ...] = tuple(TIMBRES)
  colors: tuple[str, ...] = tuple(COLORS)
  radius: tuple[float, float] = (0.11, 0.16)
  bounce: tuple[float, float] = (0.14, 0.54)
  gravity: float = 6.25
  walls: bool = False
  clutter: int = 0

  def __post_init__(self):
    for name, values, known in (
      ("kinds", self.kinds, TIMBRES),
      ("colors", self.colors, COLORS),
    ):
      if not values or not set(values) <= set(known):
        raise ValueError(
          f"World.{name} must be some of {tuple(known)}, got {values!r}."
        )
    if not 1 <= self.num_shapes <= len(self.colors):
      raise ValueError(
        f"World.num_shapes must be 1 to {len(self.colors)} (one colour each), "
        f"got {self.num_shapes}."
      )
    for name in ("radius", "bounce"):
      low, high = getattr(self, name)
      if not 0 < low <= high:
        raise ValueError(
          f"World.{name} must be (low, high) with 0 < low <= high, got "
          f"{(low, high)}."
        )
    if self.bounce[1] + 2 * self.radius[1] > FLOOR:
      raise ValueError(
        f"World.bounce {self.bounce} with radius {self.radius} leaves the "
        f"frame: bounce[1] + 2 radius[1] must be at most {FLOOR}."
      )
    if self.gravity <= 0 or self.clutter < 0:
      raise ValueError(
        f"World.gravity must be > 0 and World.clutter >= 0, got "
        f"{self.gravity} and {self.clutter}."
      )

  @property
  def top_speed(self) -> float:
    """Speed of the hardest floor impact."""
    return float(np.sqrt(2 * self.gravity * self.bounce[1]))


@dataclasses.dataclass(frozen=True)
class WorldClip:
  """One clip and its truth.

  Attributes:
    video: `[F, H, W, 3]` uint8.
    audio: `[L, 1]` float32 in [-1, 1].
    impact_times: `[N]` seconds, ascending.
    impact_speeds: `[N]` frame heights per second.
    impact_shapes: `[N]` index into `attributes`.
    attributes: per shape its kind, color, pitch (Hz), radius (frame heights)
      and tone length (s).
  """

  video: np.ndarray
  audio: np.ndarray
  impact_times: np.ndarray
  impact_speeds: np.ndarray
  impact_shapes: np.ndarray
  attributes: tuple[dict, ...]

  @property
  def impact_colors(self) -> list[str]:
    """Colour of the shape of each impact."""
    return [self.attributes[i]["color"] for i in self.impact_shapes]

  @property
  def label(self) -> int:
    """Class of the first shape: its place in `CLASSES`."""
    first = self.attributes[0]
    return CLASSES.index((first["color"], first["kind"]))

  def captions(self) -> tuple[str, ...]:
    """What the clip shows in words, in several phrasings."""
    return captions.describe(self.attributes)

  def truth(self) -> dict:
    """Everything but the streams, ready for JSON."""
    return {
      "impact_times": [round(float(t), 6) for t in self.impact_times],
      "impact_speeds": [round(float(v), 6) for v in self.impact_speeds],
      "impact_shapes": self.impact_shapes.tolist(),
      "attributes": list(self.attributes),
    }


def make_clip(seed: int, spec: AVSpec, **options) -> WorldClip:
  """Makes the clip of a seed.

  Args:
    seed: non-negative; see `split_seed`.
    spec: size and rates. Frames of at least 16x16 show the shapes well.
    **options: fields of `World`.

  Raises:
    ValueError: for a sampling rate below 2 kHz or impossible options.
  """
  if spec.sample_rate < 2000:
    raise ValueError(
      f"The world's highest pitch needs a sample_rate of at least 2000 Hz, "
      f"got {spec.sample_rate}."
    )
  world = World(**options)
  rng = np.random.default_rng(seed)
  colors = rng.permutation(len(world.colors))[: world.num_shapes]
  canvas = background(rng, spec, world.clutter)
  audio = np.zeros(spec.audio_length)
  attributes, impacts = [], []
  for index, color in enumerate(colors):
    shape = _draw_attributes(rng, world, world.colors[color])
    attributes.append(shape)
    x, y, hits = _move(rng, spec, world, shape)
    paint(canvas, shape, x, y)
    for time, speed in hits:
      gain = min(speed / world.top_speed, 1.0) / world.num_shapes
      sound(audio, spec.sample_rate, shape, time, gain)
      impacts.append((time, speed, index))
  impacts.sort()
  times, speeds, owners = zip(*impacts, strict=True) if impacts else ((),) * 3
  return WorldClip(
    video=np.rint(canvas * 255).astype(np.uint8),
    audio=audio.astype(np.float32)[:, None],
    impact_times=np.array(times, np.float64),
    impact_speeds=np.array(speeds, np.float64),
    impact_shapes=np.array(owners, np.int64),
    attributes=tuple(attributes),
  )


def _draw_attributes(
  rng: np.random.Generator, world: World, color: str
) -> dict:
  kind = world.kinds[rng.integers(len(world.kinds))]
  size = rng.random()
  low, high = world.radius
  return {
    "kind": kind,
    "color": color,
    "pitch": PITCHES[color],
    "radius": low + (high - low) * size,
    "tone_length": captions.SHORTEST + captions.LONGER * size,
  }


def _move(
  rng: np.random.Generator, spec: AVSpec, world: World, shape: dict
) -> tuple[np.ndarray, np.ndarray, list[tuple[float, float]]]:
  """Centre of the shape in each frame, and the (time, speed) of its impacts."""
  half_width, below = (e * shape["radius"] for e in EXTENTS[shape["kind"]])
  starts, speeds = _bounces(rng, spec.duration, world)
  frame_times = (np.arange(spec.frames) + 0.5) / spec.fps
  current = np.searchsorted(starts, frame_times, side="right") - 1
  since = frame_times - starts[current]
  height = speeds[current] * since - world.gravity / 2 * since**2

  left, right = half_width, spec.width / spec.height - half_width
  if world.walls:
    x, wall_times, wall_speed = _cross(
      rng, frame_times, spec.duration, left, right
    )
    at_right = x[_frame_of(wall_times, spec)] > (left + right) / 2
    x[_frame_of(wall_times, spec)] = np.where(at_right, right, left)
  else:
    ends = rng.uniform(left, max(left, right), 2)
    x = ends[0] + (ends[1] - ends[0]) * frame_times / spec.duration
    wall_times, wall_speed = np.zeros(0), 0.0

  inside = (starts[1:] >= 0) & (starts[1:] < spec.duration)
  floor_times = starts[1:][inside]
  height[_frame_of(floor_times, spec)] = 0.0
  hits = list(zip(floor_times, speeds[:-1][inside], strict=True))
  hits += [(time, wall_speed) for time in wall_times]
  return x, FLOOR - below - height, hits


def _bounces(
  rng: np.random.Generator, duration: float, world: World
) -> tuple[np.ndarray, np.ndarray]:
  """Times at which bounces begin and their speeds.

  The first begins before the clip, the last ends after it.
  """
  period = 2 / world.gravity  # of a bounce, per unit of take-off speed

  def draw() -> float:
    return np.sqrt(2 * world.gravity * rng.uniform(*world.bounce))

  def hidden(time: float) -> bool:
    return duration - _END_MARGIN < time < duration + _PAST_END

  speed = draw()
  latest = max(period * speed - _SILENT_LEAD, _START_MARGIN)
  first = rng.uniform(_START_MARGIN, latest)
  starts, speeds = [first - period * speed, first], [speed]
  while starts[-1] < duration:
    speed = draw()
    for _ in range(100):  # a narrow World.bounce may leave no other choice
      if not hidden(starts[-1] + period * speed):
        break
      speed = draw()
    speeds.append(speed)
    starts.append(starts[-1] + period * speed)
  speeds.append(draw())
  return np.array(starts), np.array(speeds)


def _cross(
  rng: np.random.Generator,
  times: np.ndarray,
  duration: float,
  left: float,
  right: float,
) -> tuple[np.ndarray, np.ndarray, float]:
  """Horizontal motion between two walls: x at times, wall hits, speed."""
  span = max(right - left, 1e-6)
  speed = rng.uniform(0.6, 1.2)
  start = rng.uniform(0, 2 * span)  # on the unfolded line; walls at k span
  path = start + speed * times
  x = left + span - np.abs(path % (2 * span) - span)
  walls = np.arange(np.ceil(start / span), (start + speed * duration) / span)
  return x, (walls * span - start) / speed, speed


def _frame_of(times: np.ndarray, spec: AVSpec) -> np.ndarray:
  return np.minimum((times * spec.fps).astype(int), spec.frames - 1)
