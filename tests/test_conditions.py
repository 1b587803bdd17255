"""What is known of a sample: masks, values, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax.av import AVSpec
from mmdiff_jax.samplers import (
  Condition,
  audio_restoration,
  condition_on_audio,
  condition_on_video,
  continuation,
  in_betweening,
  inpainting,
  make_rng,
)
from tests.diffusion_golden import (
  X_START,
  X,
  make_toy,
)
from tests.test_guidance import KEY, METHODS, SCHEDULE
from tests.test_samplers import build

SPEC = AVSpec(frames=4, height=8, width=8, fps=10, sample_rate=160)


def _mask_of(condition, modality):
  bound = condition.bind(X, make_rng(KEY, jnp.arange(2))["noise"])
  return np.asarray(bound.mask[modality])


def test_whole_modalities():
  condition = condition_on_audio(X_START["audio"])
  assert _mask_of(condition, "audio").all()
  assert not _mask_of(condition, "video").any()
  condition = condition_on_video(X_START["video"][:1])
  assert _mask_of(condition, "video").all()
  assert not _mask_of(condition, "audio").any()


def test_continuation_knows_the_beginning():
  condition = continuation(
    X_START["video"][:, :3], X_START["audio"][:, :48], SPEC
  )
  video, audio = _mask_of(condition, "video"), _mask_of(condition, "audio")
  assert video[:, :3].all() and not video[:, 3:].any()
  assert audio[:, :48].all() and not audio[:, 48:].any()
  x, _ = build("ddim")(make_toy(), SCHEDULE, X, KEY, condition)
  np.testing.assert_array_equal(x["video"][:, :3], X_START["video"][:, :3])
  np.testing.assert_array_equal(x["audio"][:, :48], X_START["audio"][:, :48])


def test_in_betweening_knows_both_ends():
  condition = in_betweening(
    X_START["video"], X_START["audio"], SPEC, first=1, last=2
  )
  video, audio = _mask_of(condition, "video"), _mask_of(condition, "audio")
  assert video[0, :, 0, 0, 0].tolist() == [True, False, True, True]
  np.testing.assert_array_equal(
    audio[0, :, 0], np.repeat(video[0, :, 0, 0, 0], 16)
  )
  mute = in_betweening(X_START["video"], None, SPEC, first=1, last=1)
  assert not _mask_of(mute, "audio").any()


def test_inpainting_generates_the_region():
  region = np.zeros((8, 8), bool)
  region[2:5, 3:] = True
  condition = inpainting(X_START["video"], region)
  mask = _mask_of(condition, "video")
  for frame in mask[0, ..., 0]:
    np.testing.assert_array_equal(frame, ~region)
  moving = np.stack([region, region, ~region, region])
  mask = _mask_of(inpainting(X_START["video"], moving), "video")
  np.testing.assert_array_equal(mask[1, ..., 2], ~moving)
  both = inpainting(X_START["video"], region, X_START["audio"])
  assert _mask_of(both, "audio").all()


def test_audio_restoration_generates_the_damage_even_if_it_is_nan():
  damaged = np.zeros(64, bool)
  damaged[10:30] = True
  audio = X_START["audio"].copy()
  audio[:, damaged] = np.nan
  for method, options in METHODS.items():
    condition = audio_restoration(
      audio, damaged, X_START["video"], method=method, **options
    )
    x, _ = build("ddim")(make_toy(), SCHEDULE, X, KEY, condition)
    assert np.isfinite(x["audio"]).all()
    np.testing.assert_array_equal(x["audio"][:, ~damaged], audio[:, ~damaged])
    np.testing.assert_array_equal(x["video"], X_START["video"])


def test_a_condition_passes_through_jit_as_data():
  traces = []

  @jax.jit
  def run(condition):
    traces.append(1)
    return build("ddim")(make_toy(), SCHEDULE, X, KEY, condition)[0]

  a = run(condition_on_audio(X_START["audio"]))
  b = run(condition_on_audio(X_START["audio"] * 0.5))
  assert len(traces) == 1
  np.testing.assert_array_equal(b["audio"], X_START["audio"] * 0.5)
  assert np.abs(a["video"] - b["video"]).max() > 0


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"method": "magic"}, "allowed are clean, replacement, gradient"),
    ({"scale": 3.0}, "only 'gradient' takes a scale"),
    ({"method": "gradient"}, "scale=0.0 with.*give one above 0"),
    ({"method": "gradient", "scale": -1.0}, "give one above 0"),
    ({"method": "gradient", "scale": np.nan}, "give one above 0"),
    ({"method": "gradient", "scale": np.inf}, "give one above 0"),
    ({"resample_repeats": 2}, "only 'resampling' takes it"),
    (
      {"method": "gradient", "scale": 1.0, "resample_jump": 2},
      "only 'resampling'",
    ),
    ({"method": "resampling", "resample_jump": 0}, "at least 1"),
  ],
)
def test_an_option_that_the_method_cannot_use_is_an_error(options, match):
  with pytest.raises(ValueError, match=match):
    condition_on_audio(X_START["audio"], **options)


@pytest.mark.parametrize(
  ("condition", "match"),
  [
    (lambda: Condition({"text": jnp.ones((2, 3))}), "allowed are"),
    (lambda: Condition({}, {"audio": True}), r"mask names \['audio'\]"),
    (lambda: condition_on_audio(X_START["audio"][:, :9]), "known.*shape"),
    (
      lambda: Condition(X_START, {"audio": jnp.ones((64, 1))}),
      "mask.*audio.*shape",
    ),
    (
      lambda: continuation(X_START["video"], X_START["audio"], SPEC),
      "fewer than 4",
    ),
    (lambda: in_betweening(X_START["video"], None, SPEC, 2, 2), "leave a gap"),
    (lambda: inpainting(X_START["video"], np.ones((3, 3))), "region has shape"),
    (lambda: audio_restoration(X_START["audio"], np.ones(3)), "one flag"),
  ],
)
def test_a_condition_that_does_not_fit_is_an_error(condition, match):
  with pytest.raises(ValueError, match=match):
    build("ddim")(make_toy(), SCHEDULE, X, KEY, condition())


def _calls(condition, steps=4):
  """What the network is called with: a list of `(x, t)`."""
  calls = []
  toy = make_toy()

  def denoise(x, t, rng):
    jax.debug.callback(lambda x, t: calls.append((x, t)), x, t, ordered=True)
    shared = jax.tree.leaves(t)[0].reshape(2, -1).max(1)
    return toy(x, shared, rng)

  build("ddim", steps=steps)(denoise, SCHEDULE, X, KEY, condition)
  jax.effects_barrier()
  return calls


def test_clean_values_are_never_noised():
  calls = _calls(condition_on_audio(X_START["audio"], method="clean"))
  assert len(calls) == 4
  for x, t in calls:
    np.testing.assert_array_equal(x["audio"], X_START["audio"])
    assert np.abs(x["video"] - X_START["video"]).max() > 0.1
    assert t.shape == (2,)
  noised = _calls(condition_on_audio(X_START["audio"]))
  assert np.abs(noised[0][0]["audio"] - X_START["audio"]).max() > 0.1


def test_a_network_of_levels_is_told_which_stream_is_clean():
  condition = condition_on_audio(
    X_START["audio"], method="clean", levels="stream"
  )
  shared = _calls(condition_on_audio(X_START["audio"], method="clean"))
  for (_, t), (_, expected) in zip(_calls(condition), shared, strict=True):
    np.testing.assert_array_equal(t["audio"], [0, 0])
    np.testing.assert_array_equal(t["video"], expected)


def test_a_stream_that_is_known_in_part_has_the_level_of_the_rest():
  options = {"method": "clean", "levels": "stream"}
  condition = continuation(
    X_START["video"][:, :3], X_START["audio"][:, :48], SPEC, **options
  )
  for _, t in _calls(condition):
    np.testing.assert_array_equal(t["video"], t["audio"])
  assert _calls(condition)[0][1]["video"].min() > 0


def test_a_network_of_levels_is_told_which_frames_are_clean():
  """17 of 64 samples are a frame and a bit: the second one is not clean."""
  condition = continuation(
    X_START["video"][:, :3],
    X_START["audio"][:, :17],
    SPEC,
    method="clean",
    levels="frame",
  )
  for _, t in _calls(condition):
    level = t["video"][0, 3]
    np.testing.assert_array_equal(t["video"], [[0, 0, 0, level]] * 2)
    np.testing.assert_array_equal(t["audio"], [[0, level, level, level]] * 2)


def test_a_frame_with_a_gap_is_not_clean():
  region = np.zeros((8, 8), bool)
  region[2:5, 3:] = True
  condition = inpainting(
    X_START["video"],
    region,
    X_START["audio"],
    method="clean",
    levels="frame",
  )
  for x, t in _calls(condition):
    assert (t["video"] == t["video"][0, 0]).all() and not t["audio"].any()
    np.testing.assert_array_equal(
      x["video"][:, :, ~region], X_START["video"][:, :, ~region]
    )


def test_an_absent_stream_is_noise_throughout():
  condition = Condition({}, method="clean", absent=("video",))
  calls = _calls(condition.at("stream", 999))
  first = calls[0][0]["video"]
  for x, t in calls:
    np.testing.assert_array_equal(x["video"], first)
    np.testing.assert_array_equal(t["video"], [999, 999])
    assert (t["audio"] < 999).all() or x is calls[0][0]
  assert abs(float(first.std()) - 1) < 0.1


def test_nothing_can_be_absent_for_a_network_of_shared_levels():
  condition = Condition({}, method="clean", absent=("video",))
  with pytest.raises(ValueError, match="video cannot be left out.*mixed"):
    condition.at("shared", 999)
  with pytest.raises(ValueError, match="only 'clean' takes modalities that"):
    Condition({}, absent=("audio",))


def test_a_strength_starts_from_the_noised_origin():
  """Above its step all that is not known is the origin, noised by one z."""
  condition = Condition(
    {"audio": X_START["audio"]},
    method="clean",
    origin=X_START,
    strength=0.5,
  ).at("shared", 999)
  calls = _calls(condition, steps=8)
  alphas_cumprod = SCHEDULE.alphas_cumprod
  noises = []
  for x, t in calls:
    np.testing.assert_array_equal(x["audio"], X_START["audio"])
    ab = alphas_cumprod[int(t[0])]
    noises.append(
      (x["video"] - np.sqrt(ab) * X_START["video"]) / np.sqrt(1 - ab)
    )
  early = [
    noise for noise, (_, t) in zip(noises, calls, strict=True) if t[0] > 499
  ]
  assert 3 <= len(early) <= 5
  for noise in early:
    np.testing.assert_allclose(noise, early[0], atol=1e-4)
    assert abs(noise.std() - 1) < 0.1
  late = noises[len(early) + 1]
  assert np.abs(late - early[0]).max() > 0.01


def test_a_strength_needs_an_origin():
  with pytest.raises(ValueError, match="origin and strength go together"):
    Condition({}, strength=0.5)
  with pytest.raises(ValueError, match="strength=1.5 must be above 0"):
    Condition({}, origin=X_START, strength=1.5)
