"""DPM-Solver and DPM-Solver++ on fixed grids.

Every update is linear in x and the latest network outputs, with coefficients
that depend on the grid alone. They are computed on the host in float64 from
the equations in `exponential.py`; the loop then only forms weighted sums.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.diffusion import gaussian
from mmdiff_jax.diffusion.gaussian import expand_to
from mmdiff_jax.diffusion.schedule import Schedule
from mmdiff_jax.samplers import exponential
from mmdiff_jax.samplers.base import Call, Plan, Sampler, State
from mmdiff_jax.samplers.exponential import GRIDS, ContinuousSchedule, Node

Tree = Any

METHODS = ("singlestep", "multistep", "singlestep_fixed")


@dataclasses.dataclass(frozen=True)
class DPMOptions:
  """What all DPM-Solvers share: the family and how x_start is treated.

  Attributes:
    plus_plus: whether the solver works on x_start (DPM-Solver++) or on eps.
    learn_sigma: whether the network's channels are doubled; the variance is
      split off and dropped.
    prediction: what the network predicts, "eps" or "x_start".
    clip_denoised: clip the predicted x_start to [-1, 1].
    dynamic_thresholding: clip it to its own .995 quantile of |x_start|, if
      above 1, and rescale (Saharia et al. 2022); DPM-Solver++ only.
    denoise_final: one more network call, at the end, returns its x_start.
  """

  plus_plus: bool = False
  learn_sigma: bool = False
  prediction: str = "eps"
  clip_denoised: bool = False
  dynamic_thresholding: bool = False
  denoise_final: bool = False

  def __post_init__(self):
    gaussian.validate_prediction(self.prediction)
    if self.dynamic_thresholding and not self.plus_plus:
      raise ValueError(
        "dynamic_thresholding acts on x_start, which 'dpm_solver' does not "
        "use; take 'dpm_solver++'."
      )
    if self.dynamic_thresholding and self.clip_denoised:
      raise ValueError(
        "clip_denoised and dynamic_thresholding exclude each other; give one."
      )

  def predict(self, output: Tree, x: Tree, call: Call) -> Tree:
    """The solver's m (eps, or x_start for ++) from a network's output."""
    output, _ = gaussian.split_output(output, x, self.learn_sigma)
    return jax.tree.map(
      lambda out, x: self._predict_leaf(
        out, x, expand_to(call.alpha, x), expand_to(call.sigma, x)
      ),
      output,
      x,
    )

  def _predict_leaf(
    self, out: jax.Array, x: jax.Array, alpha: jax.Array, sigma: jax.Array
  ) -> jax.Array:
    is_eps = self.prediction == "eps"
    if is_eps and not self.plus_plus and not self.clip_denoised:
      return out
    x_start = (x - sigma * out) / alpha if is_eps else out
    if self.clip_denoised:
      x_start = jnp.clip(x_start, -1.0, 1.0)
    if self.dynamic_thresholding:
      x_start = threshold_dynamically(x_start)
    return x_start if self.plus_plus else (x - alpha * x_start) / sigma

  def final_weights(self, end: Node, terms: int) -> np.ndarray:
    """Weights of the update that returns x_start at the last node."""
    x, m, *_ = np.eye(terms)
    return m if self.plus_plus else (x - end.sigma * m) / end.alpha


def threshold_dynamically(x_start: jax.Array) -> jax.Array:
  """Clips each sample to s = max(1, .995 quantile of |x|), divides by s."""
  flat = jnp.abs(x_start).reshape(x_start.shape[0], -1)
  position = 0.995 * (flat.shape[1] - 1)
  below, above = _order_statistics(flat, int(position))
  quantile = below + (position % 1) * (above - below)
  s = expand_to(jnp.maximum(quantile, 1.0), x_start)
  return jnp.clip(x_start, -s, s) / s


def _order_statistics(x: jax.Array, rank: int) -> tuple[jax.Array, jax.Array]:
  """The rank-th and next smallest of non-negative rows [B, N], from 0.

  Bisection on the bits, which are ordered as the numbers are: some thirty
  counts are much cheaper than the sort behind jnp.quantile.
  """
  bits = 8 * x.dtype.itemsize
  integers = jax.lax.bitcast_convert_type(x, jnp.dtype(f"int{bits}"))

  def refine(i: jax.Array, found: jax.Array) -> jax.Array:
    trial = found | jnp.left_shift(jnp.ones_like(found), bits - 2 - i)
    smaller = jnp.sum(integers < trial[:, None], axis=1)
    return jnp.where(smaller <= rank, trial, found)

  found = jax.lax.fori_loop(
    0, bits - 1, refine, jnp.zeros(x.shape[0], integers.dtype)
  )
  value = jax.lax.bitcast_convert_type(found, x.dtype)[:, None]
  larger = jnp.min(jnp.where(x > value, x, jnp.inf), axis=1)
  repeated = jnp.sum(x <= value, axis=1) > rank + 1
  value = value[:, 0]
  return value, jnp.where(repeated | jnp.isinf(larger), value, larger)


def combine(weights: jax.Array, terms: tuple[Tree, ...]) -> Tree:
  """Sum of terms by weights [terms] or, per sample, [terms, B]."""
  return jax.tree.map(
    lambda *leaves: sum(
      expand_to(w, leaf) * leaf for w, leaf in zip(weights, leaves, strict=True)
    ),
    *terms,
  )


@dataclasses.dataclass(frozen=True)
class DPMSolver(DPMOptions, Sampler):
  """DPM-Solver(++) with a fixed number of network calls.

  Attributes:
    steps: number of grid cells (and, but for singlestep_fixed's remainder
      and the options that add one, of network calls).
    order: 1, 2 or 3.
    method: "singlestep", "multistep" or "singlestep_fixed".
    grid: "logSNR", "time_uniform" or "time_quadratic".
    singlestep_start: start the history of order-3 multistep by a singlestep
      of order 2, at the cost of one more call; without it the low-order
      start limits the whole run to order 2.
    keep_trajectory: also return x after every step.
  """

  steps: int = 20
  order: int = 3
  method: str = "singlestep"
  grid: str = "logSNR"
  singlestep_start: bool = False
  keep_trajectory: bool = False

  methods: ClassVar[tuple[str, ...]] = METHODS

  def __post_init__(self):
    super().__post_init__()
    _check("order", self.order, (1, 2, 3))
    _check("method", self.method, self.methods)
    _check("grid", self.grid, GRIDS)
    fewest = self.order if self.method == "singlestep_fixed" else 1
    if isinstance(self.steps, str) or self.steps < fewest:
      raise ValueError(
        f"steps={self.steps!r}; method {self.method!r} of order {self.order} "
        f"needs a whole number of at least {fewest}."
      )
    if self.singlestep_start and (self.method, self.order) != ("multistep", 3):
      raise ValueError(
        "singlestep_start belongs to method 'multistep' of order 3, not to "
        f"{self.method!r} of order {self.order}."
      )

  @property
  def num_terms(self) -> int:
    """Terms of an update: x_s and the latest network outputs."""
    return 1 + self.order

  def init(self, x: Tree) -> Tree:
    """Returns x_s and the earlier network outputs, none of them yet made."""
    zeros = jax.tree.map(jnp.zeros_like, x)
    return x, (zeros,) * (self.num_terms - 2)

  def step(
    self,
    denoise: Callable[[Tree], Tree],
    schedule: Schedule,
    x: Tree,
    call: Call,
    noise: Tree | None,
    carry: Tree,
  ) -> State:
    """Makes one network call and the weighted sum that follows it."""
    x_s, history = carry
    x_s = jax.tree.map(
      lambda new, old: jnp.where(call.begins, new, old), x, x_s
    )
    m = self.predict(denoise(x), x, call)
    terms = (x_s, m, *history)
    return self.update(call, terms, noise), (x_s, terms[1:-1])

  def update(
    self, call: Call, terms: tuple[Tree, ...], noise: Tree | None
  ) -> Tree:
    """Returns the new x from x_s and the latest m."""
    del noise
    return combine(call.update, terms)

  def plan(self, schedule: Schedule) -> Plan:
    """Computes the grid and the weights of every update, in float64."""
    continuous = ContinuousSchedule(schedule)
    if self.method == "singlestep":
      plan, end = self._singlestep_plan(continuous, _fast_orders(self))
    elif self.method == "singlestep_fixed":
      orders = [self.order] * (self.steps // self.order)
      plan, end = self._singlestep_plan(continuous, orders)
    else:
      plan, end = self._multistep_plan(continuous)
    if not self.denoise_final:
      return plan
    weights = self.final_weights(end, self.num_terms)
    return plan._replace(final=make_call(end, end, self.pack(weights)))

  def pack(self, weights: np.ndarray) -> Any:
    """A call's `update` from weights; solvers with noise add its scale."""
    return weights

  def _singlestep_plan(
    self, continuous: ContinuousSchedule, orders: list[int]
  ) -> tuple[Plan, Node]:
    nodes = continuous.grid(sum(orders), self.grid)
    starts = np.cumsum([0, *orders])

    def calls(index: int, depth: int) -> list[Call]:
      del depth
      span = nodes[starts[index] : starts[index + 1] + 1]
      return self.singlestep_calls(span)

    return Plan(len(orders), calls), nodes[-1]

  def singlestep_calls(self, nodes: list[Node]) -> list[Call]:
    """The calls of one singlestep over start, inner nodes and end."""
    weights = exponential.singlestep_weights(self.plus_plus, nodes)
    return [
      make_call(node, nodes[-1], _lengthen(w, self.num_terms), begins=i == 0)
      for i, (node, w) in enumerate(zip(nodes, weights, strict=False))
    ]

  def _multistep_plan(
    self, continuous: ContinuousSchedule
  ) -> tuple[Plan, Node]:
    nodes = continuous.grid(self.steps, self.grid)

    def calls(index: int, depth: int) -> list[Call]:
      s, t = nodes[index], nodes[index + 1]
      # Nodes of the outputs remembered since the trajectory was (re)started.
      past = nodes[index - depth : index][::-1]
      if self.singlestep_start:
        start = nodes[index - depth : index - depth + 2]
        middle = _middle(continuous, *start)
        if depth == 0:
          return self.singlestep_calls([s, middle, t])
        past = [*past[:-1], middle, past[-1]]
      return [self.multistep_call(s, t, past[: self.order - 1])]

    return Plan(self.steps, calls), nodes[-1]

  def multistep_call(self, s: Node, t: Node, past: list[Node]) -> Call:
    """The call of one multistep from s to t."""
    weights = exponential.multistep_weights(
      self.plus_plus, s, t, past, self.num_terms
    )
    return make_call(s, t, weights)


@dataclasses.dataclass(frozen=True)
class DPMSolverSDE(DPMSolver):
  """DPM-Solver++(2M) SDE: second-order multistep with noise in every step."""

  order: int = 2
  method: str = "sde"

  methods: ClassVar[tuple[str, ...]] = ("sde",)

  def __post_init__(self):
    super().__post_init__()
    if self.order != 2 or not self.plus_plus:
      raise ValueError(
        "method 'sde' is DPM-Solver++(2M) SDE: it needs 'dpm_solver++' and "
        f"order=2, got order={self.order}, plus_plus={self.plus_plus}."
      )

  stochastic = True

  def pack(self, weights: np.ndarray) -> Any:
    """An update without noise."""
    return weights, 0.0

  def multistep_call(self, s: Node, t: Node, past: list[Node]) -> Call:
    """The call of one stochastic step from s to t."""
    update = exponential.sde_weights(s, t, past, self.num_terms)
    return make_call(s, t, update)

  def update(
    self, call: Call, terms: tuple[Tree, ...], noise: Tree | None
  ) -> Tree:
    """Returns the weighted sum plus scaled noise."""
    weights, scale = call.update
    return jax.tree.map(
      lambda x, n: x + scale * n, combine(weights, terms), noise
    )


def make_call(node: Node, end: Node, update: Any, begins: bool = True) -> Call:
  """A network call at `node` in a step that leads to `end`."""
  return Call(
    node.t,
    node.alpha,
    node.sigma,
    end.alpha,
    end.sigma,
    update,
    begins=begins,
  )


def _middle(continuous: ContinuousSchedule, s: Node, t: Node) -> Node:
  lambda_ = (s.lambda_ + t.lambda_) / 2
  return continuous.nodes(continuous.time_of(np.array([lambda_])))[0]


def _lengthen(weights: np.ndarray, terms: int) -> np.ndarray:
  return np.pad(weights, (0, terms - weights.size))


def _fast_orders(solver: DPMSolver) -> list[int]:
  """Orders of singlesteps that fill exactly `steps` network calls."""
  steps, order = solver.steps, solver.order
  if order == 1:
    return [1] * steps
  if order == 2:
    return [2] * (steps // 2) + [1] * (steps % 2)
  threes, rest = divmod(steps, 3)
  if rest == 0:
    return [3] * (threes - 1) + [2, 1]
  return [3] * threes + [rest]


def _check(name: str, value: Any, allowed: tuple) -> None:
  if value not in allowed:
    raise ValueError(
      f"{name}={value!r}; allowed are {', '.join(map(str, allowed))}."
    )
