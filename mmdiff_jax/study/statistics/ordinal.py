"""A cumulative logit model with random raters and random sources.

  P(y <= k) = expit(threshold_k - x beta - u_rater - v_source),
  u ~ N(0, s_rater^2), v ~ N(0, s_source^2)

fitted by maximum likelihood, the random effects integrated out by Laplace's
approximation. Scores are ordered, not measured: a mean of scores assumes that
"poor" is as far from "fair" as "good" from "excellent"; this model does not.
"""

import dataclasses

import numpy as np
from scipy import optimize, special, stats

from mmdiff_jax.study.statistics.bootstrap import Interval


@dataclasses.dataclass(frozen=True)
class OrdinalFit:
  """The fitted model.

  Attributes:
    effects: beta of each column of x, in log odds of a higher score.
    thresholds: between neighbouring scores that occur.
    rater_spread: s_rater.
    source_spread: s_source.
    log_likelihood: by Laplace's approximation.
  """

  effects: list[Interval]
  thresholds: np.ndarray
  rater_spread: float
  source_spread: float
  log_likelihood: float


class _Likelihood:
  """Laplace's approximation, as a function of the parameters."""

  def __init__(self, y, x, rater, source):
    self.levels, self.y = np.unique(y, return_inverse=True)
    self.x = np.asarray(x, float)
    self.rater = np.unique(rater, return_inverse=True)[1]
    self.source = np.unique(source, return_inverse=True)[1]
    self.raters, self.sources = self.rater.max() + 1, self.source.max() + 1
    self._mode = np.zeros(self.raters), np.zeros(self.sources)

  def unpack(self, theta: np.ndarray):
    cuts = len(self.levels) - 1
    thresholds = theta[:1]
    if cuts > 1:
      steps = np.exp(theta[1:cuts])
      thresholds = np.concatenate([thresholds, theta[0] + np.cumsum(steps)])
    effects = theta[cuts : cuts + self.x.shape[1]]
    return thresholds, effects, np.exp(theta[-2]), np.exp(theta[-1])

  def _terms(self, thresholds, eta):
    """Log-likelihood, its slope and curvature in eta, of each vote."""
    ends = np.concatenate([[-np.inf], thresholds, [np.inf]])
    upper = special.expit(ends[self.y + 1] - eta)
    lower = special.expit(ends[self.y] - eta)
    probability = np.maximum(upper - lower, 1e-300)
    # For the logistic: slope = F_up + F_low - 1, curvature from its square.
    slope = upper + lower - 1.0
    curvature = upper * (1 - upper) + lower * (1 - lower)
    return np.log(probability), slope, curvature

  def __call__(self, theta: np.ndarray) -> float:
    """Minus the log-likelihood."""
    thresholds, effects, s_rater, s_source = self.unpack(theta)
    fixed = self.x @ effects
    u, v = self._mode
    for _ in range(50):
      eta = fixed + u[self.rater] + v[self.source]
      _, slope, curvature = self._terms(thresholds, eta)
      gradient_u = self._by_rater(slope) - u / s_rater**2
      gradient_v = self._by_source(slope) - v / s_source**2
      d_u = self._by_rater(curvature) + 1 / s_rater**2
      d_v = self._by_source(curvature) + 1 / s_source**2
      cross = np.zeros((self.raters, self.sources))
      np.add.at(cross, (self.rater, self.source), curvature)
      # Both diagonal blocks are diagonal: only raters need a dense solve.
      schur = np.diag(d_u) - (cross / d_v) @ cross.T
      step_u = np.linalg.solve(schur, gradient_u - cross @ (gradient_v / d_v))
      step_v = (gradient_v - cross.T @ step_u) / d_v
      size = max(np.abs(step_u).max(), np.abs(step_v).max())
      shrink = min(1.0, 2.0 / max(size, 1e-12))
      u, v = u + shrink * step_u, v + shrink * step_v
      if size < 1e-10:
        break
    self._mode = u, v
    eta = fixed + u[self.rater] + v[self.source]
    joint = self._terms(thresholds, eta)[0].sum()
    joint -= (u**2).sum() / 2 / s_rater**2 + (v**2).sum() / 2 / s_source**2
    joint -= self.raters * np.log(s_rater) + self.sources * np.log(s_source)
    determinant = np.linalg.slogdet(schur)[1] + np.log(d_v).sum()
    return float(determinant / 2 - joint)

  def _by_rater(self, values):
    return np.bincount(self.rater, values, self.raters)

  def _by_source(self, values):
    return np.bincount(self.source, values, self.sources)


def fit(
  y: np.ndarray, x: np.ndarray, rater: np.ndarray, source: np.ndarray
) -> OrdinalFit:
  """Fits the model.

  Args:
    y: `[N]` scores.
    x: `[N, P]` fixed effects, without a constant.
    rater: `[N]`.
    source: `[N]`.

  Raises:
    ValueError: if all scores are the same, or the fit does not converge.
  """
  likelihood = _Likelihood(y, x, rater, source)
  cuts = len(likelihood.levels) - 1
  if cuts < 1:
    raise ValueError("All scores are the same: there is nothing to fit.")
  shares = np.cumsum(np.bincount(likelihood.y))[:-1] / len(likelihood.y)
  start = special.logit(shares)
  # Spreads below 0.05 are as good as none, and flat.
  bounds = [(-15, 15)] * cuts + [(-15, 15)] * likelihood.x.shape[1]
  bounds += [(np.log(0.05), np.log(10))] * 2
  theta = np.concatenate([
    start[:1], np.log(np.maximum(np.diff(start), 1e-3)),
    np.zeros(likelihood.x.shape[1]), np.log([0.5, 0.5]),
  ])  # fmt: skip
  best = optimize.minimize(
    lambda theta: likelihood(theta) / len(y), theta, method="L-BFGS-B",
    bounds=bounds, options={"eps": 1e-5, "ftol": 1e-13, "gtol": 1e-6},
  )  # fmt: skip
  if not best.success:
    raise ValueError(f"The ordinal model does not converge: {best.message}")
  errors = np.sqrt(np.maximum(np.diag(_covariance(likelihood, best.x)), 0))
  thresholds, effects, s_rater, s_source = likelihood.unpack(best.x)
  z = stats.norm.ppf(0.975)
  own = errors[cuts : cuts + len(effects)]
  return OrdinalFit(
    [
      Interval(float(b), float(b - z * e), float(b + z * e))
      for b, e in zip(effects, own, strict=True)
    ],
    thresholds,
    float(s_rater),
    float(s_source),
    -float(best.fun) * len(y),
  )


def _covariance(likelihood: _Likelihood, theta: np.ndarray) -> np.ndarray:
  """Inverse of the second derivatives, by central differences."""
  size, step = len(theta), 1e-3
  hessian = np.zeros((size, size))
  steps = step * np.eye(size)
  for i in range(size):
    for j in range(i, size):
      corners = [
        sign_i
        * sign_j
        * likelihood(theta + sign_i * steps[i] + sign_j * steps[j])
        for sign_i in (1, -1)
        for sign_j in (1, -1)
      ]
      hessian[i, j] = hessian[j, i] = sum(corners) / (4 * step**2)
  # A spread at its lower bound has no curvature.
  return np.linalg.pinv(hessian, hermitian=True)
