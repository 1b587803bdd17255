"""Floating-point operations of a program, and what devices can do at most."""

import math
from typing import Any

import jax

# Peak rates of matrix products in bfloat16 (float32 accumulation), dense, in
# FLOP/s, by the beginning of `device_kind`. Of the makers' data sheets.
_PEAKS = {
  "NVIDIA H100": 989e12,
  "NVIDIA H200": 989e12,
  "NVIDIA A100": 312e12,
  "NVIDIA L40S": 362e12,
  "NVIDIA L4": 121e12,
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5e": 197e12,
  "TPU v5p": 459e12,
  "TPU v5": 459e12,
  "TPU v6 lite": 918e12,
  "TPU v6e": 918e12,
}


def peak_flops(device: jax.Device) -> float | None:
  """Peak FLOP/s of a device in bfloat16; None where it is not known."""
  kinds = [kind for kind in _PEAKS if device.device_kind.startswith(kind)]
  return _PEAKS[max(kinds, key=len)] if kinds else None


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
