"""By how much each RS-MMA block's windows are shifted; no network is run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax import models

FRAMES = 8
# In forward order: down at 1/2 and 1/4, the middle, up at 1/4 and 1/2.
CONFIG = {
  "name": "av_unet",
  "model_channels": 32,
  "channel_mult": (1, 1, 1),
  "num_res_blocks": 1,
  "num_head_channels": 32,
  "video_attention_resolutions": (),
  "cross_attention_resolutions": (2, 4),
  "cross_attention_windows": (3, 8),
}
LIMITS = (5, 0, 0, 0, 0, 5, 5)


def shifts(given=None, key=None, **options):
  model = models.create_model(CONFIG | options)
  rngs = {} if key is None else {"window": key}
  return model.apply({}, given, FRAMES, rngs=rngs, method="_shifts")


def test_the_largest_shift_leaves_the_window_within_the_clip():
  model = models.create_model(CONFIG)
  assert model.max_shifts(FRAMES) == LIMITS
  assert model.max_shifts(11) == (8, 3, 0, 3, 3, 8, 8)
  without = models.create_model(CONFIG | {"middle_cross_attention": False})
  assert without.max_shifts(FRAMES) == (5, 0, 0, 0, 5, 5)


def test_blocks_draw_every_shift_up_to_their_largest_for_themselves():
  keys = jax.random.split(jax.random.key(0), 400)
  drawn = jax.vmap(
    lambda key: jnp.stack([jnp.asarray(x) for x in shifts(key=key)])
  )
  drawn = np.asarray(drawn(keys))
  for place, limit in enumerate(LIMITS):
    assert set(drawn[:, place]) == set(range(limit + 1))
    if limit:
      # Each of six within four standard errors of its share.
      counts = np.bincount(drawn[:, place]) / 400
      assert np.abs(counts - 1 / 6).max() < 4 * np.sqrt(5) / 6 / 20
  free = drawn[:, [i for i, limit in enumerate(LIMITS) if limit]]
  correlations = np.corrcoef(free.T) - np.eye(3)
  assert np.abs(correlations).max() < 4 / 20


@pytest.mark.parametrize(
  ("options", "key"),
  [
    ({"cross_attention_shift": False}, 0),
    ({}, None),
    ({"cross_attention_shift": False}, None),
  ],
)
def test_without_shifting_or_a_key_windows_stay_where_they_are(options, key):
  key = None if key is None else jax.random.key(key)
  assert shifts(key=key, **options) == [0] * 7


def test_shifts_that_are_told_are_taken_and_none_is_drawn():
  told = [5, 0, 0, 0, 0, 0, 3]
  assert shifts(told, jax.random.key(0)) == told


@pytest.mark.parametrize(
  ("told", "message"),
  [
    ([0] * 6, "Got 6 shifts; this network has 7 RS-MMA"),
    ([0] * 8, "Got 8 shifts; this network has 7 RS-MMA"),
    ([6, 0, 0, 0, 0, 0, 0], "Shift 6 of RS-MMA block 0 is outside 0..5"),
    ([0, 0, 0, 0, 0, 0, -1], "Shift -1 of RS-MMA block 6 is outside 0..5"),
    ([0, 1, 0, 0, 0, 0, 0], "Shift 1 of RS-MMA block 1 is outside 0..0"),
  ],
)
def test_shifts_that_do_not_fit_are_named(told, message):
  with pytest.raises(ValueError, match=message):
    shifts(told)


def test_traced_shifts_are_not_looked_at_and_the_others_are():
  def first(shift):
    return shifts([shift, 0, 0, 0, 0, 0, 7])

  with pytest.raises(ValueError, match="Shift 7 of RS-MMA block 6"):
    jax.jit(first)(99)
  assert int(jax.jit(lambda s: shifts([s, *[0] * 6])[0])(4)) == 4
