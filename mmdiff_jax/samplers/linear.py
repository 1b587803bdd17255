"""DPM-Solver and DPM-Solver++ on fixed grids: solvers as plans of weights.

Every update is linear in x and the latest network outputs, with weights that
depend on the grid alone (`exponential.py`): they are computed on the host in
float64, and the loop only forms weighted sums.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.diffusion.gaussian import expand_to
from mmdiff_jax.diffusion.process import Process
from mmdiff_jax.samplers.base import Call, State, Tree
from mmdiff_jax.samplers.dpm_options import DPMOptions, check_choice
from mmdiff_jax.samplers.exponential import (
  multistep_weights,
  sde_weights,
  singlestep_weights,
)
from mmdiff_jax.samplers.nodes import GRIDS, Node, grid, node_between
from mmdiff_jax.samplers.plan import PlannedSampler, SamplingPlan

Array = Any


class Update(NamedTuple):
  """x from x_s and the latest m, newest first: a weighted sum, plus noise."""

  weights: Array
  noise_scale: Array = 0.0


def combine(weights: Array, terms: Sequence[Tree]) -> Tree:
  """Sum of terms by weights [terms] or, per sample, [terms, B]."""
  return jax.tree.map(
    lambda *leaves: sum(
      expand_to(w, leaf) * leaf for w, leaf in zip(weights, leaves, strict=True)
    ),
    *terms,
  )


def make_call(node: Node, end: Node, update: Any, begins: bool = True) -> Call:
  """A network call at `node` in a step that leads to `end`."""
  return Call(
    t=node.t,
    alpha=node.alpha,
    sigma=node.sigma,
    alpha_next=end.alpha,
    sigma_next=end.sigma,
    update=update,
    begins=begins,
  )


@dataclasses.dataclass(frozen=True)
class DPMSolver(DPMOptions, PlannedSampler):
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

  methods: ClassVar[tuple[str, ...]] = (
    "singlestep",
    "multistep",
    "singlestep_fixed",
  )

  def __post_init__(self):
    super().__post_init__()
    check_choice("order", self.order, (1, 2, 3))
    check_choice("method", self.method, self.methods)
    check_choice("grid", self.grid, GRIDS)
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
    process: Process,
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
    x = combine(call.update.weights, terms)
    if self.stochastic:
      scale = call.update.noise_scale
      x = jax.tree.map(lambda leaf, n: leaf + scale * n, x, noise)
    return x, (x_s, terms[1:-1])

  def plan(self, process: Process) -> SamplingPlan:
    """Computes the grid and the weights of every update, in float64."""
    if self.method == "singlestep":
      plan, end = self._singlestep_plan(process, self._fast_orders())
    elif self.method == "singlestep_fixed":
      orders = [self.order] * (self.steps // self.order)
      plan, end = self._singlestep_plan(process, orders)
    else:
      plan, end = self._multistep_plan(process)
    if not self.denoise_final:
      return plan
    update = Update(self.final_weights(end, self.num_terms))
    return plan._replace(final=make_call(end, end, update))

  def _fast_orders(self) -> list[int]:
    """Orders of singlesteps that fill exactly `steps` network calls."""
    whole, rest = divmod(self.steps, self.order)
    if self.order == 3 and rest == 0:
      return [3] * (whole - 1) + [2, 1]
    return [self.order] * whole + [rest] * (rest > 0)

  def _singlestep_plan(
    self, process: Process, orders: list[int]
  ) -> tuple[SamplingPlan, Node]:
    nodes = grid(process, sum(orders), self.grid)
    starts = np.cumsum([0, *orders])

    def calls(index: int, depth: int) -> list[Call]:
      del depth
      span = nodes[starts[index] : starts[index + 1] + 1]
      return self._singlestep_calls(span)

    return SamplingPlan(len(orders), calls), nodes[-1]

  def _singlestep_calls(self, nodes: list[Node]) -> list[Call]:
    """The calls of one singlestep over start, inner nodes and end."""
    calls: list[Call] = []
    for weights in singlestep_weights(self.plus_plus, nodes):
      weights = np.pad(weights, (0, self.num_terms - weights.size))
      node, begins = nodes[len(calls)], not calls
      calls.append(make_call(node, nodes[-1], Update(weights), begins))
    return calls

  def _multistep_plan(self, process: Process) -> tuple[SamplingPlan, Node]:
    nodes = grid(process, self.steps, self.grid)

    def calls(index: int, depth: int) -> list[Call]:
      s, t = nodes[index], nodes[index + 1]
      # Nodes of the outputs remembered since the trajectory was (re)started.
      past = nodes[index - depth : index][::-1]
      if self.singlestep_start:
        start = nodes[index - depth : index - depth + 2]
        middle = node_between(process, *start)
        if depth == 0:
          return self._singlestep_calls([s, middle, t])
        past = [*past[:-1], middle, past[-1]]
      update = self.multistep_update(s, t, past[: self.order - 1])
      return [make_call(s, t, update)]

    return SamplingPlan(self.steps, calls), nodes[-1]

  def multistep_update(self, s: Node, t: Node, past: list[Node]) -> Update:
    """The update of one multistep from s to t; see `multistep_weights`."""
    return Update(multistep_weights(self.plus_plus, s, t, past, self.num_terms))


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

  @property
  def stochastic(self) -> bool:
    """Every step needs noise."""
    return True

  def multistep_update(self, s: Node, t: Node, past: list[Node]) -> Update:
    """The update of one multistep from s to t; see `sde_weights`."""
    return Update(*sde_weights(s, t, past, self.num_terms))
