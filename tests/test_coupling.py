"""Coupling guidance, against networks whose uncoupled output is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax.samplers import coupling

LAST = 999


def denoise(x, t, rng):
  """Each stream sees its own values, and a tenth of the other's mean."""
  del rng
  mean = {k: v.reshape(len(v), -1).mean(1) for k, v in x.items()}
  other = {"video": "audio", "audio": "video"}
  return {
    k: v
    + 0.1 * mean[other[k]].reshape(-1, *(1,) * (v.ndim - 1))
    + t[other[k]].reshape(-1, *(1,) * (v.ndim - 1))
    for k, v in x.items()
  }


@pytest.fixture
def x():
  rng = np.random.default_rng(0)
  return {
    "video": jnp.asarray(rng.normal(size=(3, 2, 4)), jnp.float32),
    "audio": jnp.asarray(rng.normal(size=(3, 5)), jnp.float32),
  }


def noise_like(x):
  rng = np.random.default_rng(1)
  return {k: jnp.asarray(rng.normal(size=v.shape)) for k, v in x.items()}


T = jnp.array([10, 20, 30])


def test_a_scale_of_one_is_the_joint_prediction(x):
  guided = coupling.coupled(
    denoise, {"video": 1.0, "audio": 1.0}, noise_like(x), LAST
  )(x, T, jax.random.key(0))
  joint = denoise(x, {"video": T, "audio": T}, None)
  for name in x:
    np.testing.assert_allclose(guided[name], joint[name], rtol=1e-5)


def test_the_guided_prediction_leaves_the_uncoupled_one(x):
  noise = noise_like(x)
  guided = coupling.coupled(denoise, {"video": 3.0}, noise, LAST)(
    x, {"video": T, "audio": jnp.zeros(3, int)}, jax.random.key(0)
  )
  video, audio = np.asarray(x["video"]), np.asarray(x["audio"])
  for i in range(3):
    joint = video[i] + 0.1 * audio[i].mean() + 0
    alone = video[i] + 0.1 * np.asarray(noise["audio"][i]).mean() + LAST
    expected = alone + 3.0 * (joint - alone)
    np.testing.assert_allclose(guided["video"][i], expected, rtol=1e-5)
    # A stream without a scale keeps its joint prediction.
    np.testing.assert_allclose(
      guided["audio"][i], audio[i] + 0.1 * video[i].mean() + T[i], rtol=1e-5
    )


def test_a_learned_variance_is_not_guided(x):
  def with_variance(x, t, rng):
    out = denoise(x, t, rng)
    return {k: jnp.concatenate([v, 7 + 0 * v], -1) for k, v in out.items()}

  guided = coupling.coupled(
    with_variance, {"audio": 2.0}, noise_like(x), LAST, learn_sigma=True
  )(x, T, jax.random.key(0))
  assert guided["video"].shape == (3, 2, 8)
  np.testing.assert_allclose(guided["audio"][:, 5:], 7, rtol=1e-6)


def test_scales_are_finite():
  with pytest.raises(ValueError, match="coupling_audio=nan; give a finite"):
    coupling.coupled(denoise, {"audio": float("nan")}, {}, LAST)
