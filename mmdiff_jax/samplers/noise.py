"""Random numbers of a sampling run.

Sample i draws everything from its own key, so that it depends on neither the
batch size nor its place in the batch. The `window` key, which the network's
attention windows are drawn from, is shared by the batch and depends on the
number of the network call alone.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any

# Independent streams below a sample's key.
INITIAL, STEP, KNOWN, RESAMPLE, UNCOUPLED = range(5)


def make_rng(key: jax.Array, indices: jax.Array) -> dict[str, jax.Array]:
  """Keys of a batch whose samples are numbered `indices` under one seed.

  Args:
    key: one key, the seed of all samples.
    indices: [B] int numbers of the samples.

  Returns:
    `{"noise": [B] keys, "window": key}`, which every sampler accepts as rng.
  """
  noise = jax.random.fold_in(key, 0)
  return {
    "noise": jax.vmap(lambda i: jax.random.fold_in(noise, i))(indices),
    "window": jax.random.fold_in(key, 1),
  }


def as_rng(
  rng: jax.Array | Mapping[str, jax.Array], batch: int
) -> Mapping[str, jax.Array]:
  """Expands one key to a batch of samples 0..batch-1; checks a given set."""
  if not isinstance(rng, Mapping):
    return make_rng(rng, jnp.arange(batch))
  if set(rng) != {"noise", "window"} or rng["noise"].shape[0] != batch:
    raise ValueError(
      f"rng holds {sorted(rng)} for a batch of {batch}; give one key or "
      '{"noise": [B] keys, "window": key} with B equal to the batch.'
    )
  return rng


def normal_like(
  keys: jax.Array, x: Tree, stream: int, step: jax.Array | int = 0
) -> Tree:
  """Standard normal noise like x, each sample from its own key.

  Args:
    keys: [B] keys.
    x: tree of [B, ...] arrays or shapes (ShapeDtypeStruct).
    stream: which of the independent streams.
    step: number within the stream; an array [B] gives each sample its own.

  Returns:
    Tree of noise in float32, or wider where x is wider.
  """
  steps = jnp.broadcast_to(step, keys.shape[:1])
  keys = jax.vmap(
    lambda k, s: jax.random.fold_in(jax.random.fold_in(k, stream), s)
  )(keys, steps)

  def draw(number: int, leaf: Any) -> jax.Array:
    shape, dtype = leaf.shape[1:], jnp.promote_types(leaf.dtype, jnp.float32)
    return jax.vmap(
      lambda k: jax.random.normal(jax.random.fold_in(k, number), shape, dtype)
    )(keys)

  leaves, treedef = jax.tree.flatten(x)
  drawn = [draw(number, leaf) for number, leaf in enumerate(leaves)]
  return jax.tree.unflatten(treedef, drawn)


def initial_noise(
  rng: jax.Array | Mapping[str, jax.Array], shapes: Tree, batch: int
) -> Tree:
  """Draws x_init for a sampler from the run's own keys.

  Args:
    rng: as given to the sampler.
    shapes: tree of per-sample shapes, such as `{"video": (F, H, W, 3)}`.
    batch: number of samples B.

  Returns:
    Tree of standard normal float32 arrays [B, ...].
  """
  like = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct((batch, *shape), jnp.float32),
    shapes,
    is_leaf=lambda node: isinstance(node, tuple),
  )
  return normal_like(as_rng(rng, batch)["noise"], like, INITIAL)
