"""Captions of the world are true of the clips they describe."""

import re

import pytest

from mmdiff_jax.av import AVSpec
from mmdiff_jax.world import captions
from mmdiff_jax.world.clips import World, make_clip
from mmdiff_jax.world.shapes import COLORS, TIMBRES

SPEC = AVSpec(8, 16, 16, 10.0, 2000)
WORDS = {
  "red": "low", "green": "middle", "blue": "high",
}  # fmt: skip


def words_of(caption):
  return set(re.findall(r"\w+", caption))


@pytest.mark.parametrize(
  "phrasings", [captions.PHRASINGS, captions.OTHER_PHRASINGS]
)
def test_captions_say_what_is_there_and_nothing_else(phrasings):
  low, high = World().radius
  sizes = set()
  for seed in range(60):
    clip = make_clip(seed, SPEC)
    (shape,) = clip.attributes
    third = int((shape["radius"] - low) / (high - low) * 3)
    found = captions.describe(clip.attributes, phrasings)
    assert found
    for caption in found:
      words = words_of(caption)
      assert words & COLORS.keys() == {shape["color"]}
      assert words & {*TIMBRES} == {shape["kind"]}
      assert words & {*WORDS.values()} <= {WORDS[shape["color"]]}
      said = words & {"small", "large"}
      assert said <= {["small", "", "large"][third]}
      sizes |= said
      assert words & {"short", "long"} <= {["short", "", "long"][third]}
      assert "  " not in caption and "{" not in caption
  assert phrasings is captions.OTHER_PHRASINGS or sizes == {"small", "large"}


def test_all_captions_are_those_that_clips_have():
  seen = {
    caption
    for seed in range(400)
    for caption in make_clip(seed, SPEC).captions()
  }
  assert seen == set(captions.all_captions())


def test_several_shapes_are_described_together():
  clip = make_clip(3, SPEC, num_shapes=2)
  for caption in clip.captions():
    words = words_of(caption)
    assert words & COLORS.keys() == {s["color"] for s in clip.attributes}


def test_no_phrasing_of_evaluation_is_one_of_training():
  assert not set(captions.all_captions()) & set(
    captions.all_captions(captions.OTHER_PHRASINGS)
  )
