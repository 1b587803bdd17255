import numpy as np
import pytest

from mmdiff_jax.evaluation.prdc import nearest_distances, prdc, realism


@pytest.fixture(scope="module")
def real():
  return np.random.default_rng(0).standard_normal((200, 4))


def brute_force(real, fake, k):
  """The definitions, word for word."""

  def radius(points):
    return [sorted(np.linalg.norm(p - q) for q in points)[k] for p in points]

  radius_real, radius_fake = radius(real), radius(fake)
  inside_real = [
    [np.linalg.norm(f - r) <= c for r, c in zip(real, radius_real, strict=True)]
    for f in fake
  ]
  inside_fake = [
    [np.linalg.norm(f - r) <= c for f, c in zip(fake, radius_fake, strict=True)]
    for r in real
  ]
  return {
    "precision": np.mean([any(row) for row in inside_real]),
    "recall": np.mean([any(row) for row in inside_fake]),
    "density": np.sum(inside_real) / k / len(fake),
    "coverage": np.mean(np.any(inside_real, axis=0)),
  }


def test_prdc_agrees_with_the_definitions(real):
  fake = np.random.default_rng(1).standard_normal((40, 4)) * 1.5
  got = prdc(real[:50], fake, k=3)
  assert got == pytest.approx(brute_force(real[:50], fake, 3))
  assert 0 < got["coverage"] < 1


def test_prdc_tells_missing_modes_from_bad_samples(real):
  narrow = np.random.default_rng(2).standard_normal((200, 4)) * 0.1
  wide = np.random.default_rng(3).standard_normal((200, 4)) * 10
  collapsed, noisy = prdc(real, narrow), prdc(real, wide)
  assert collapsed["precision"] > 0.95 and collapsed["recall"] < 0.2
  assert noisy["precision"] < 0.2 and noisy["recall"] > 0.8


def test_prdc_of_equal_sets_is_perfect(real):
  got = prdc(real, real)
  assert got["precision"] == got["recall"] == got["coverage"] == 1


def test_nearest_distances_leave_the_point_itself_out():
  points = np.array([[0.0], [1.0], [3.0]])
  np.testing.assert_allclose(nearest_distances(points, 1), [1, 1, 2])


def test_realism_ranks_the_outlier_last(real):
  fake = np.concatenate([real[:5] + 0.01, [[9, 9, 9, 9]]])
  scores = realism(real, fake)
  assert scores.argmin() == 5 and scores[5] < 1


def test_prdc_asks_for_more_clips_than_neighbours(real):
  with pytest.raises(ValueError, match="lower k or add clips"):
    prdc(real, real[:5], k=5)
