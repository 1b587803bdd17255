"""The points of a process that DPM-Solvers visit.

Of a process whose last step is noise alone, where lambda has no bound, they
visit all but that step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.diffusion.process import Process

Array = Any

GRIDS = ("logSNR", "time_uniform", "time_quadratic")


class Node(NamedTuple):
  """A point on a trajectory, lambda_ = log(alpha / sigma).

  Attributes:
    t: original step index that the network is given there.
    alpha: scale of the signal.
    sigma: scale of the noise.
    lambda_: half the log signal-to-noise ratio.
  """

  t: Array
  alpha: Array
  sigma: Array
  lambda_: Array


def lambda_span(process: Process) -> tuple[float, float]:
  """The lambdas where a run starts (noise) and where it ends (data)."""
  start, end = 0.5 * process.log_snr[[process.num_finite - 1, 0]]
  return float(start), float(end)


def nodes_at(process: Process, times: np.ndarray) -> list[Node]:
  """Nodes at given times, float64."""
  count = process.num_timesteps
  index = np.floor((times - 1 / count) * count + 1e-6).astype(int)
  t = process.timestep_map[np.clip(index, 0, count - 1)]
  return [Node(*row) for row in zip(t, *process.at(times), strict=True)]


def grid(process: Process, cells: int, kind: str) -> list[Node]:
  """The `cells` + 1 nodes from noise to data (time 1/T).

  Args:
    process: that is walked.
    cells: number of cells.
    kind: "logSNR" (uniform in lambda), "time_uniform" or "time_quadratic"
      (uniform in the square root of time).

  Returns:
    Nodes in the order of sampling.
  """
  first, last = process.times[-1], process.times[0]
  if kind == "logSNR":
    times = process.time_of(np.linspace(*lambda_span(process), cells + 1))
    times[0], times[-1] = first, last
  elif kind == "time_uniform":
    times = np.linspace(first, last, cells + 1)
  else:
    times = np.linspace(np.sqrt(first), np.sqrt(last), cells + 1) ** 2
  return nodes_at(process, times)


def node_between(process: Process, s: Node, t: Node) -> Node:
  """The node half way from s to t in lambda."""
  lambda_ = np.array([(s.lambda_ + t.lambda_) / 2])
  return nodes_at(process, process.time_of(lambda_))[0]


def traced_node(process: Process, lambda_: jax.Array) -> Node:
  """The node at traced lambdas [B], in their own precision."""
  index = jnp.floor(process.position_of(lambda_) + 1e-3).astype(jnp.int32)
  t = jnp.asarray(process.timestep_map, jnp.int32)[index]
  return Node(t, *process.at_lambda(lambda_)[1])
