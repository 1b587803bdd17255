"""Mixed noise levels of training batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax.diffusion import level_mix
from mmdiff_jax.diffusion.level_mix import KINDS, check_shares

T, FRAMES = 1000, 6


def kinds_of(shares, batch, seeds):
  """Kinds of the batches of several seeds, `[seeds, batch]`."""
  keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
  draw = jax.vmap(lambda rng: level_mix.draw_kinds(rng, shares, batch))
  return np.asarray(draw(keys))


def draw(shares, batch=240, seed=0):
  t = jnp.arange(batch, dtype=jnp.int32)
  other = 500 + jnp.arange(batch, dtype=jnp.int32)
  return (
    t,
    other,
    level_mix.draw_levels(
      jax.random.key(seed), check_shares(shares), t, other, T, FRAMES
    ),
  )


def test_every_batch_holds_its_share_of_each_kind():
  shares = check_shares(
    {"joint": 2, "clean_audio": 1, "clean_video": 1, "independent": 1}
  )
  for kinds in kinds_of(shares, 8, 20):
    counts = np.bincount(kinds, minlength=len(KINDS))
    assert (np.abs(counts - 8 * np.array(list(shares.values()))) < 1).all()
    assert counts[KINDS.index("pure_noise")] == 0


def test_which_sample_has_which_kind_is_random():
  shares = check_shares({"joint": 1, "clean_audio": 1})
  first = kinds_of(shares, 8, 60)[:, 0]
  assert 15 < (first == 0).sum() < 45


def test_joint_samples_share_their_level():
  t, _, levels = draw({"joint": 1})
  for name in ("video", "audio"):
    np.testing.assert_array_equal(levels.t[name], t)
    assert not levels.clean[name].any()


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_a_clean_stream_is_clean_throughout_and_the_other_is_noised(stream):
  (other,) = {"video", "audio"} - {stream}
  t, _, levels = draw({f"clean_{stream}": 1})
  assert levels.clean[stream].all() and not levels.clean[other].any()
  np.testing.assert_array_equal(levels.t[other], t)


def test_independent_levels_take_the_second_draw():
  t, other, levels = draw({"independent": 1})
  np.testing.assert_array_equal(levels.t["video"], t)
  np.testing.assert_array_equal(levels.t["audio"], other)


def test_pure_noise_is_one_stream_at_the_last_step():
  t, _, levels = draw({"pure_noise": 1})
  last = {name: np.asarray(x) == T - 1 for name, x in levels.t.items()}
  assert (last["video"] ^ last["audio"]).all()
  assert 80 < last["video"].sum() < 160
  np.testing.assert_array_equal(
    np.where(last["video"], levels.t["audio"], levels.t["video"]), t
  )


def test_clean_frames_leave_one_stretch_to_generate():
  _, _, levels = draw({"clean_frames": 1}, batch=3000)
  video, audio = (np.asarray(levels.clean[n]) for n in ("video", "audio"))
  noised = ~np.where(video.all(1, keepdims=True), audio, video)
  assert noised.any(1).all() and not noised.all(1).any()
  # One stretch: at most one rise and one fall.
  edges = np.diff(np.pad(noised.astype(int), ((0, 0), (1, 1))), axis=1)
  assert ((edges == 1).sum(1) == 1).all()
  shares = {
    "both": (video == audio).all(1),
    "clean audio": audio.all(1),
    "clean video": video.all(1),
    "noised audio": ~audio.any(1),
  }
  assert {k: round(v.mean(), 1) for k, v in shares.items()} == {
    "both": 0.5,
    "clean audio": 0.2,
    "clean video": 0.2,
    "noised audio": 0.1,
  }
  # A continuation in a third of them and more, a beginning likewise.
  assert (noised[:, -1] & ~noised[:, 0]).mean() > 0.3
  assert (noised[:, 0] & ~noised[:, -1]).mean() > 0.3


@pytest.mark.parametrize(
  ("shares", "message"),
  [
    ({"joints": 1}, "level_shares.joints is unknown; allowed are joint, "),
    ({"joint": -1}, "level_shares.joint=-1 must be a number from 0"),
    ({"joint": float("nan")}, "level_shares.joint=nan must be"),
    ({"joint": 0}, "at least one above 0"),
  ],
)
def test_senseless_shares_are_errors(shares, message):
  with pytest.raises(ValueError, match=message):
    check_shares(shares)
