"""Noise levels per stream and per frame."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax import models
from mmdiff_jax.models import levels
from tests import unet_golden as golden
from tests.unet_golden import TINY

FRAMES, LENGTH = 4, 1088
# 1088 / 4^2 = 68 tokens are 17 to a frame; one level deeper it would not be.
VIDEO, AUDIO = (2, FRAMES, 8, 8, 3), (2, LENGTH, 1)
STEPS = np.array([300, 7])


def network(**options):
  config = TINY | {"cross_attention_shift": False} | options
  variables = golden.random_params(models.abstract_variables(config))
  model = models.create_model(config)
  inputs = golden.normal("video", VIDEO), golden.normal("audio", AUDIO)
  apply = jax.jit(model.apply)
  return lambda t: apply(variables, *inputs, t)


def per_frame(t):
  return jnp.repeat(jnp.asarray(t)[:, None], FRAMES, 1)


@pytest.mark.parametrize(
  "options",
  [
    {"kernels": "plain"},
    {"kernels": "cpu"},
    {"kernels": "plain", "use_scale_shift_norm": False, "num_classes": 3},
  ],
)
def test_equal_levels_are_the_same_network(options):
  run = network(**options)
  shared = run(STEPS)
  by_stream = run({"video": STEPS, "audio": STEPS})
  by_frame = run({"video": per_frame(STEPS), "audio": per_frame(STEPS)})
  for name, a, b, c in zip(
    ("video", "audio"), shared, by_stream, by_frame, strict=True
  ):
    np.testing.assert_array_equal(a, b, err_msg=name)
    # Compiled otherwise: a product and a sum may be one instruction or two.
    np.testing.assert_allclose(a, c, rtol=2e-5, atol=2e-5, err_msg=name)


def test_a_level_belongs_to_its_own_stream():
  """Without coupling, a stream does not see the other's level."""
  run = network(
    cross_attention_resolutions=(),
    cross_attention_windows=(),
    middle_cross_attention=False,
  )
  video, audio = run({"video": STEPS, "audio": STEPS})
  other_video, other_audio = run({"video": STEPS, "audio": STEPS + 500})
  np.testing.assert_array_equal(video, other_video)
  assert np.abs(audio - other_audio).max() > 1e-3


def test_a_level_belongs_to_its_own_sample():
  run = network()
  before = run({"video": per_frame(STEPS), "audio": STEPS})
  moved = per_frame(STEPS).at[1, 2].set(900)
  after = run({"video": moved, "audio": STEPS})
  for a, b in zip(before, after, strict=True):
    np.testing.assert_array_equal(a[0], b[0])
    assert np.abs(a[1] - b[1]).max() > 1e-4


@pytest.mark.parametrize("length", [64, 50, 7, 4])
def test_audio_tokens_take_the_level_of_their_frame(length):
  values = np.random.default_rng(0).normal(size=(2, FRAMES, 3))
  laid = levels.spread(jnp.asarray(values), (2, length, 5))
  edges = np.arange(FRAMES + 1) * length / FRAMES
  for token in range(length):
    (frame,) = np.flatnonzero(
      (edges[:-1] <= token + 0.5) & (token + 0.5 < edges[1:])
    )
    np.testing.assert_allclose(laid[:, token], values[:, frame], rtol=1e-6)


@pytest.mark.parametrize(
  ("t", "message"),
  [
    (np.zeros(3, int), r"t has shape \(3,\); expected one step index"),
    ({"video": np.zeros(2, int)}, r"names the streams \['video'\]"),
    (
      {"video": np.zeros((2, 5), int), "audio": np.zeros(2, int)},
      r"t\['video'\] has shape \(2, 5\); .*\(2,\) or per frame, \(2, 4\)",
    ),
  ],
)
def test_levels_of_other_shapes_are_errors(t, message):
  with pytest.raises(ValueError, match=message):
    network()(t)


def test_a_network_refuses_finer_levels_than_it_takes():
  t = {"image": np.zeros(2, int)}
  with pytest.raises(ValueError, match="one level for all streams"):
    levels.check_levels(t, "shared", {"image": (2, 8, 8, 3)})
  t = {"video": np.zeros((2, FRAMES), int), "audio": np.zeros(2, int)}
  shapes = {"video": VIDEO, "audio": AUDIO}
  with pytest.raises(ValueError, match="one noise level per frame.*at most"):
    levels.check_levels(t, "stream", shapes)
  levels.check_levels(t, "frame", shapes)
