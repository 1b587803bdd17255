import pathlib
import zlib

import numpy as np
import pytest
import scipy.linalg

from mmdiff_jax.evaluation import frechet

DATA = pathlib.Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def golden():
  r = np.random.default_rng(zlib.crc32(b"pub/frechet"))
  a = r.standard_normal((300, 40))
  b = r.standard_normal((280, 40)) * 1.3 + 0.2
  return a, b, np.load(DATA / "i3d_pub.npz")


def test_frechet_distance_is_the_golden_one(golden):
  a, b, values = golden
  distance = frechet.frechet_distance(a, b)
  np.testing.assert_allclose(distance, values["frechet"], rtol=1e-6)


def test_polynomial_mmd_is_the_golden_one(golden):
  a, b, values = golden
  mmd = frechet.polynomial_mmd(a, b)
  np.testing.assert_allclose(mmd, values["kvd"], rtol=1e-9)


@pytest.mark.parametrize("n, m", [(60, 90), (500, 300)])
def test_frechet_distance_agrees_with_a_matrix_square_root(n, m):
  rng = np.random.default_rng(n)
  a = rng.standard_normal((n, 20)) @ rng.standard_normal((20, 20))
  b = rng.standard_normal((m, 20)) @ rng.standard_normal((20, 20)) + 1
  s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
  root = scipy.linalg.sqrtm(s @ t).real
  wanted = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(s + t - 2 * root)
  np.testing.assert_allclose(frechet.frechet_distance(a, b), wanted, rtol=1e-9)


def whitened(rng, n, d):
  """Rows with mean exactly 0 and covariance exactly the identity."""
  x = rng.standard_normal((n, d))
  x -= x.mean(0)
  return x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / (n - 1))).T


def test_frechet_distance_of_gaussians_is_the_closed_form():
  rng = np.random.default_rng(0)
  s, t = rng.uniform(0.1, 3, 8), rng.uniform(0.1, 3, 8)
  shift = rng.standard_normal(8)
  a = whitened(rng, 100, 8) * s
  b = whitened(rng, 70, 8) * t + shift
  wanted = np.sum(shift**2) + np.sum((s - t) ** 2)
  np.testing.assert_allclose(frechet.frechet_distance(a, b), wanted, rtol=1e-9)


@pytest.mark.parametrize("n, m", [(5, 7), (5, 300), (300, 5)])
def test_frechet_distance_is_right_with_fewer_samples_than_dimensions(n, m):
  """Both sets live in a few axes, where the closed form is known."""
  rng = np.random.default_rng(1)
  basis, _ = np.linalg.qr(rng.standard_normal((50, 50)))
  a = whitened(rng, n, 3) * [1, 2, 3] @ basis[:3]
  b = whitened(rng, m, 3) * [2, 2, 0.5] @ basis[1:4]
  # Shared axes carry deviations (2, 2) and (3, 2); one axis each is alone.
  wanted = 1**2 + (2 - 2) ** 2 + (3 - 2) ** 2 + 0.5**2
  np.testing.assert_allclose(frechet.frechet_distance(a, b), wanted, rtol=1e-9)


def test_frechet_distance_of_a_set_to_itself_is_zero_when_singular():
  a = np.random.default_rng(2).standard_normal((20, 400)) * 100
  scale = np.cov(a, rowvar=False).trace()
  assert frechet.frechet_distance(a, a) < 1e-12 * scale


def brute_force_mmd(a, b, kernel):
  n, m = len(a), len(b)
  within_a = sum(
    kernel(a[i], a[j]) for i in range(n) for j in range(n) if i != j
  )
  within_b = sum(
    kernel(b[i], b[j]) for i in range(m) for j in range(m) if i != j
  )
  across = sum(kernel(x, y) for x in a for y in b)
  return (
    within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * across / (n * m)
  )


@pytest.fixture
def small_sets(monkeypatch):
  # Blocks smaller than the sets: their borders are exercised.
  monkeypatch.setattr(frechet, "_BLOCK", 4)
  rng = np.random.default_rng(3)
  return rng.standard_normal((11, 6)), rng.standard_normal((9, 6)) + 0.5


def test_polynomial_mmd_agrees_with_a_double_loop(small_sets):
  wanted = brute_force_mmd(*small_sets, lambda x, y: (x @ y / 6 + 1) ** 3)
  np.testing.assert_allclose(frechet.polynomial_mmd(*small_sets), wanted)


def test_rbf_mmd_agrees_with_a_double_loop(small_sets):
  wanted = brute_force_mmd(
    *small_sets, lambda x, y: np.exp(-np.sum((x - y) ** 2) / (2 * 1.7**2))
  )
  np.testing.assert_allclose(frechet.rbf_mmd(*small_sets, 1.7), wanted)


def test_mmd_is_unbiased():
  rng = np.random.default_rng(4)
  for mmd in (frechet.polynomial_mmd, frechet.rbf_mmd):
    draws = [
      mmd(rng.standard_normal((20, 3)), rng.standard_normal((20, 3)))
      for _ in range(200)
    ]
    error = np.std(draws) / np.sqrt(len(draws))
    assert abs(np.mean(draws)) < 4 * error
    assert min(draws) < 0 < max(draws)


@pytest.mark.parametrize(
  "a, b, message",
  [
    (np.zeros((3, 4)), np.zeros((3, 5)), "differ in width: 4 and 5"),
    (np.zeros((1, 4)), np.zeros((3, 4)), "first feature set has 1 samples"),
    (np.zeros((3, 4)), np.full((3, 4), np.nan), "NaN or infinity in 3 of"),
    (np.zeros(4), np.zeros((3, 4)), r"must be \[N, D\]"),
  ],
)
def test_bad_features_are_named(a, b, message):
  for distance in (frechet.frechet_distance, frechet.polynomial_mmd):
    with pytest.raises(ValueError, match=message):
      distance(a, b)


def test_rbf_mmd_says_that_all_features_are_equal():
  with pytest.raises(ValueError, match="all equal"):
    frechet.rbf_mmd(np.zeros((3, 4)), np.ones((3, 4)))
