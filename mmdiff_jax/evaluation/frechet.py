"""Distances between two sets of features, in float64 on the host.

`frechet_distance` is what FVD and FAD are made of, `polynomial_mmd` is KVD and
`rbf_mmd` is KAD.
"""

import numpy as np

# Rows of a kernel matrix that are held at once: 2048 x 2048 float64 is 32 MiB.
_BLOCK = 2048


def _feature_pair(
  a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns both sets as float64, or says what is wrong with them."""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  for name, x in (("first", a), ("second", b)):
    if x.ndim != 2:
      raise ValueError(
        f"The {name} feature set must be [N, D], got shape {x.shape}."
      )
    if x.shape[0] < 2:
      raise ValueError(
        f"The {name} feature set has {x.shape[0]} samples; a distance between "
        "distributions needs at least 2."
      )
    if not np.isfinite(x).all():
      bad = int((~np.isfinite(x)).any(axis=1).sum())
      raise ValueError(
        f"The {name} feature set has NaN or infinity in {bad} of its "
        f"{x.shape[0]} samples; look for silent or damaged clips."
      )
  if a.shape[1] != b.shape[1]:
    raise ValueError(
      f"The feature sets differ in width: {a.shape[1]} and {b.shape[1]}."
    )
  return a, b


def _scatter_root(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean, and a matrix R with at most D rows and R^T R = covariance(x)."""
  mean = x.mean(axis=0)
  root = (x - mean) / np.sqrt(x.shape[0] - 1)
  if root.shape[0] > root.shape[1]:
    root = np.linalg.qr(root, mode="r")
  return mean, root


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
  """Frechet distance of the Gaussians fitted to two feature sets.

  |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), covariances with n - 1.
  With S = R^T R the trace of the root is the nuclear norm of R_a R_b^T: no
  matrix root is taken, so that singular covariances (N <= D) are not a special
  case and no precision is lost to the square of the condition number.

  Args:
    a: features `[N, D]`.
    b: features `[M, D]`.

  Returns:
    The distance (squared units of the features), never below 0.

  Raises:
    ValueError: on wrong shapes, fewer than 2 samples, NaN or infinity.
  """
  a, b = _feature_pair(a, b)
  mean_a, root_a = _scatter_root(a)
  mean_b, root_b = _scatter_root(b)
  cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
  distance = (
    np.sum((mean_a - mean_b) ** 2)
    + np.sum(root_a**2)
    + np.sum(root_b**2)
    - 2 * cross
  )
  return float(max(distance, 0.0))


def _kernel_mean(
  a: np.ndarray, b: np.ndarray, kernel, drop_diagonal: bool
) -> float:
  """Mean of kernel(a_i, b_j), without i = j if asked, in blocks of rows."""
  total = 0.0
  for start in range(0, a.shape[0], _BLOCK):
    values = kernel(a[start : start + _BLOCK], b)
    total += values.sum()
    if drop_diagonal:
      total -= np.diagonal(values[:, start:]).sum()
  pairs = a.shape[0] * (b.shape[0] - int(drop_diagonal))
  return float(total / pairs)


def _unbiased_mmd(a: np.ndarray, b: np.ndarray, kernel) -> float:
  """Unbiased MMD^2: E k(a,a') + E k(b,b') - 2 E k(a,b), without i = j."""
  return (
    _kernel_mean(a, a, kernel, drop_diagonal=True)
    + _kernel_mean(b, b, kernel, drop_diagonal=True)
    - 2 * _kernel_mean(a, b, kernel, drop_diagonal=False)
  )


def polynomial_mmd(a: np.ndarray, b: np.ndarray) -> float:
  """Unbiased MMD^2 with the kernel (x.y / D + 1)^3, over all samples.

  Of I3D logits this is KVD; it can be slightly negative.

  Args:
    a: features `[N, D]`.
    b: features `[M, D]`.

  Returns:
    The estimate of MMD^2.

  Raises:
    ValueError: on wrong shapes, fewer than 2 samples, NaN or infinity.
  """
  a, b = _feature_pair(a, b)
  return _unbiased_mmd(a, b, lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3)


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """All |a_i - b_j|^2, `[N, M]` in float64, from centred data.

  Centring on b's mean keeps the cancellation of |a|^2 + |b|^2 - 2 a.b small
  where the features lie far from the origin.
  """
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  centre = b.mean(axis=0)
  a, b = a - centre, b - centre
  squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
  return np.maximum(squares, 0)


def median_distance(x: np.ndarray, limit: int = 2048) -> float:
  """Median distance between different samples, of at most `limit` rows."""
  x = np.asarray(x, np.float64)[:limit]
  squares = squared_distances(x, x)[np.triu_indices(x.shape[0], 1)]
  return float(np.sqrt(np.median(squares)))


def rbf_mmd(
  a: np.ndarray, b: np.ndarray, bandwidth: float | None = None
) -> float:
  """Unbiased MMD^2 with the kernel exp(-|x - y|^2 / (2 bandwidth^2)).

  With the reference's median distance as bandwidth, times 1000, this is the
  Kernel Audio Distance (KAD, arXiv 2502.15602): unbiased for any n, and it
  assumes no Gaussian.

  Args:
    a: features `[N, D]` of the reference set.
    b: features `[M, D]`.
    bandwidth: width of the kernel; None takes the median distance within a.

  Returns:
    The estimate of MMD^2.

  Raises:
    ValueError: on wrong shapes or values, or if all rows of a are equal.
  """
  a, b = _feature_pair(a, b)
  if bandwidth is None:
    bandwidth = median_distance(a)
  if not bandwidth > 0:
    raise ValueError(
      f"The kernel's bandwidth must be positive, got {bandwidth}; the "
      "reference features are all equal (silent audio?)."
    )
  return _unbiased_mmd(
    a, b, lambda x, y: np.exp(squared_distances(x, y) / (-2 * bandwidth**2))
  )
