"""Floating-point operations: those of a program, and those of a model."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmdiff_jax.task import Task
from mmdiff_jax.training.step import make_loss_fn


def count_flops(jaxpr: Any) -> float:
  """Floating-point operations of all matrix products and convolutions.

  Counted from what was traced, a multiply-add as two: XLA's own count is
  missing on GPUs and TPUs, and takes the body of a loop once.

  Args:
    jaxpr: such as `jax.make_jaxpr(f)(*args).jaxpr`. The body of a `scan`, of
      a Pallas kernel and of a `shard_map` over all devices counts as often as
      it runs, that of a `while` once; of branches the dearest.
  """
  total = 0.0
  for eqn in jaxpr.eqns:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
      (contracted, _), _ = params["dimension_numbers"]
      shape = eqn.invars[0].aval.shape
      taps = math.prod(shape[axis] for axis in contracted)
      total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * taps
    elif name == "conv_general_dilated":
      kernel = params["dimension_numbers"].rhs_spec
      shape = eqn.invars[1].aval.shape
      taps = math.prod(shape[axis] for axis in kernel[1:])
      total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * taps
    elif name.startswith("dot_product_attention_"):
      # cuDNN's kernels: two products forward, five backward, of queries
      # [B, T, K, D] with keys [B, S, K, D].
      queries, keys = (x.aval.shape for x in eqn.invars[:2])
      products = 2 if "_fwd" in name else 5
      total += 2.0 * products * math.prod(queries) * keys[1]
    elif name == "cond":
      total += max(count_flops(branch.jaxpr) for branch in params["branches"])
    else:
      repeats = 1
      if name == "scan":
        repeats = params["length"]
      elif name == "pallas_call":
        repeats = math.prod(params["grid_mapping"].grid)
      elif name == "shard_map":
        # Its body is what one of the devices does.
        repeats = params["mesh"].size
      inner = [getattr(value, "jaxpr", value) for value in params.values()]
      total += repeats * sum(
        count_flops(value) for value in inner if hasattr(value, "eqns")
      )
  return total


def model_flops(task: Task, config: ConfigDict, params: Any) -> float:
  """Floating-point operations that the model needs for a training step.

  Three forward passes: the backward pass needs twice the products of the
  forward one. What is rematerialised, computed again by a kernel or computed
  and masked does not count. The utilisation by these is MFU (Chowdhery et al.,
  PaLM, appendix B), that by the program's own operations is HFU.

  Args:
    task: what is learnt.
    config: of the run.
    params: arrays or shapes.
  """
  size = config.train.batch_size
  plain = task.plainly()
  loss_fn = make_loss_fn(plain, config.diffusion.loss)

  def forward(params: Any, batch: Any) -> jax.Array:
    x_start, inputs = plain.split(batch)
    t, weights = jnp.zeros((size,), jnp.int32), jnp.ones((size,))
    rng = jax.random.key(0)
    return loss_fn(params, x_start, inputs, x_start, t, weights, rng)[0]

  # Without shardings: one device stands for all.
  params = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params
  )
  traced = jax.make_jaxpr(forward)(params, task.abstract_batch(size))
  return 3.0 * count_flops(traced.jaxpr)
