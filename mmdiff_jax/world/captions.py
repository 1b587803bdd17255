"""Captions of the world's clips, from their truth."""

import itertools
from collections.abc import Sequence

from mmdiff_jax.world.shapes import COLORS, PITCHES, TIMBRES

# Words of the small, middle and large third of sizes; what is in the middle
# is not called anything.
_SIZES = ("small", "", "large")
_LENGTHS = ("short", "", "long")
_PITCHES = ("low", "middle", "high")
# A tone of this length (s) is the smallest shape's, and one longer by so much
# the largest one's.
SHORTEST, LONGER = 0.15, 0.2

# What captions of training say of a shape.
PHRASINGS = (
  "a {color} {kind} bounces; every hit is a {length} {pitch} tone",
  "a {color} {kind} bounces",
  "a {size} {color} {kind} jumps up and down with {pitch} sounds",
  "{color} {kind}, {pitch} tone",
  "the {kind} is {color} and {size}, its sound {length} and {pitch}",
  "each time the {size} {color} {kind} lands, a {pitch} tone sounds",
  "a {pitch}, {length} beep whenever a {color} {kind} hits the ground",
  "a {size} {kind} in {color} falls and rises again",
  "{pitch} tones while a {color} {kind} goes up and down",
)
# What only captions of evaluation say: never to be trained on.
OTHER_PHRASINGS = (
  "watch this {kind} hop about: it is {color} and beeps in a {pitch} voice",
  "something {color} drops to the floor again and again; it is a {kind}, and "
  "a {pitch} note follows each time",
  "{kind}, painted {color}. Sound: {pitch} notes",
)


def describe(
  attributes: Sequence[dict], phrasings: Sequence[str] = PHRASINGS
) -> tuple[str, ...]:
  """What a clip shows, once in each phrasing that has words for it.

  Args:
    attributes: of its shapes, as `WorldClip` has them.
    phrasings: of a shape; those of several shapes are joined.
  """
  words = [_words(shape) for shape in attributes]
  return tuple(
    "; ".join(phrasing.format(**each) for each in words)
    for phrasing in phrasings
    if all(each[name] for each in words for name in _named(phrasing))
  )


def all_captions(phrasings: Sequence[str] = PHRASINGS) -> tuple[str, ...]:
  """Every caption that a clip of one shape can have."""
  shapes = itertools.product(COLORS, TIMBRES, (0.0, 0.5, 1.0))
  captions = {
    caption: None
    for color, kind, size in shapes
    for caption in describe(
      [
        {
          "color": color,
          "kind": kind,
          "pitch": PITCHES[color],
          "tone_length": SHORTEST + LONGER * size,
        }
      ],
      phrasings,
    )
  }
  return tuple(captions)


def _words(shape: dict) -> dict[str, str]:
  share = (shape["tone_length"] - SHORTEST) / LONGER
  third = min(int(share * 3), 2)
  order = sorted(PITCHES.values())
  return {
    "color": shape["color"],
    "kind": shape["kind"],
    "size": _SIZES[third],
    "length": _LENGTHS[third],
    "pitch": _PITCHES[order.index(shape["pitch"])],
  }


def _named(phrasing: str) -> list[str]:
  names = ("color", "kind", "size", "length", "pitch")
  return [name for name in names if f"{{{name}}}" in phrasing]
