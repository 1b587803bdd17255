"""Precision, recall, density and coverage of generated features.

Precision and recall: Kynkaanniemi et al., arXiv 1904.06991. Density and
coverage: Naeem et al., arXiv 2002.09797.
"""

import numpy as np

from mmdiff_jax.evaluation.frechet import squared_distances


def nearest_distances(x: np.ndarray, k: int) -> np.ndarray:
  """Distance of each row to its k-th nearest OTHER row, `[N]`."""
  squares = squared_distances(x, x)
  np.fill_diagonal(squares, np.inf)
  return np.sqrt(np.partition(squares, k - 1, axis=1)[:, k - 1])


def prdc(real: np.ndarray, fake: np.ndarray, k: int = 5) -> dict[str, float]:
  """Fidelity and diversity of `fake` measured by balls of k neighbours.

  A ball around each real sample reaches to its k-th nearest real neighbour
  (and likewise for fake samples).

  Args:
    real: features `[N, D]`.
    fake: features `[M, D]`.
    k: neighbours that set a ball's radius.

  Returns:
    `precision`: share of fakes inside some real ball. `recall`: share of reals
    inside some fake ball. `density`: mean number of real balls that hold a
    fake, over k (can exceed 1). `coverage`: share of real balls that hold a
    fake.

  Raises:
    ValueError: if a set has k samples or fewer, or the widths differ.
  """
  real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
  if min(len(real), len(fake)) <= k or k < 1:
    raise ValueError(
      f"prdc with k={k} needs k >= 1 and more than k samples on both sides, "
      f"got {len(real)} real and {len(fake)} fake; lower k or add clips."
    )
  if real.shape[1:] != fake.shape[1:]:
    raise ValueError(
      f"The feature sets differ in width: {real.shape[1:]}, {fake.shape[1:]}."
    )
  real_radius = nearest_distances(real, k)
  fake_radius = nearest_distances(fake, k)
  distance = np.sqrt(squared_distances(real, fake))
  in_real_ball = distance <= real_radius[:, None]
  in_fake_ball = distance <= fake_radius[None]
  return {
    "precision": float(in_real_ball.any(axis=0).mean()),
    "recall": float(in_fake_ball.any(axis=1).mean()),
    "density": float(in_real_ball.sum(axis=0).mean() / k),
    "coverage": float(in_real_ball.any(axis=1).mean()),
  }


def realism(real: np.ndarray, fake: np.ndarray, k: int = 5) -> np.ndarray:
  """Realism of each fake sample, `[M]` (arXiv 1904.06991, section 5).

  The largest ratio of a real ball's radius to the fake's distance from its
  centre; at least 1 inside some ball. As there, the half of the real balls
  with the larger radii is left out, since outliers have huge balls.
  """
  radius = nearest_distances(real, min(k, len(real) - 1))
  kept = radius <= np.median(radius)
  distance = np.sqrt(squared_distances(np.asarray(real)[kept], fake))
  return (radius[kept][:, None] / np.maximum(distance, 1e-12)).max(axis=0)
