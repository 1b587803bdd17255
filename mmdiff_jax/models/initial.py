"""Initial parameters of our networks, from one draw of random numbers."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp


def init_in_one_draw(
  init: Callable[[jax.Array], Any], rng: jax.Array
) -> dict[str, Any]:
  """Does what `init(rng)` does, in a program that compiles quickly.

  The distributions are those of `models.layers`: weights and biases of a layer
  U(-1, 1)/sqrt(fan_in), zero where it is `zero_init`; scales of norms 1, their
  biases and all else 0. The numbers come from one draw for all parameters:
  hundreds of separate ones take longer to compile than the network itself.
  Modules with `separate_draw` have one of their own, so that the others begin
  as they do without them.

  Args:
    init: initialises the variables of modules that follow this rule.
    rng: one key.

  Returns:
    `{"params": ...}`, in the structure of `init(rng)`.
  """
  zero_modules, separate = set(), set()

  def note(call, args, kwargs, context):
    if getattr(context.module, "zero_init", False):
      zero_modules.add(context.module.path)
    if getattr(context.module, "separate_draw", False):
      separate.add(context.module.path)
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    variables = jax.eval_shape(init, rng)
  flat = flax.traverse_util.flatten_dict(variables["params"])
  drawn = {
    path: leaf
    for path, leaf in flat.items()
    if (*path[:-1], "kernel") in flat and path[:-1] not in zero_modules
  }
  values = {}
  own = {p: x for p, x in drawn.items() if p[:1] in separate}
  others = {p: x for p, x in drawn.items() if p not in own}
  for number, group in enumerate((others, own)):
    if not group:
      continue
    key = rng if number == 0 else jax.random.fold_in(rng, number)
    sizes = [leaf.size for leaf in group.values()]
    numbers = jax.random.uniform(key, (sum(sizes),), minval=-1.0, maxval=1.0)
    parts = jnp.split(numbers, list(itertools.accumulate(sizes))[:-1])
    for (path, leaf), part in zip(group.items(), parts, strict=True):
      fan_in = math.prod(flat[*path[:-1], "kernel"].shape[:-1])
      values[path] = part.reshape(leaf.shape) / math.sqrt(fan_in)
  for path, leaf in flat.items():
    if path not in values:
      fill = 1.0 if path[-1] == "scale" else 0.0
      values[path] = jnp.full(leaf.shape, fill)
  return {"params": flax.traverse_util.unflatten_dict(values)}
