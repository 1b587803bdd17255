"""Transformers that normalise ahead of each layer, as published ones do.

Also with divided space-time attention (arXiv 2102.05095).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp


def attend(q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> jax.Array:
  """Scaled dot-product attention: `[..., N, D]` by `[..., M, D]`."""

  def split(x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-1], heads, -1)

  queries, keys, values = split(q), split(k), split(v)
  scores = jnp.einsum("...nhd,...mhd->...hnm", queries, keys)
  weights = nn.softmax(scores / math.sqrt(queries.shape[-1]))
  return jnp.einsum("...hnm,...mhd->...nhd", weights, values).reshape(q.shape)


def attend_divided(
  q: jax.Array, k: jax.Array, v: jax.Array, heads: int, over: str, steps: int
) -> jax.Array:
  """Attention within frames or along time; the first token sees all.

  Args:
    q: `[B, 1 + T * P, D]`: a class token, then P patches of each of T steps.
    k: likewise; the class token is a key of every group.
    v: likewise.
    heads: of the attention.
    over: "space" (the patches of one step) or "time" (those of one place).
    steps: T.

  Returns:
    Of the shape of `q`.
  """

  def groups(x: jax.Array) -> jax.Array:
    x = x[:, 1:].reshape(len(x), steps, -1, x.shape[-1])
    return x.swapaxes(1, 2) if over == "time" else x

  def with_first(x: jax.Array) -> jax.Array:
    grouped = groups(x)
    first = jnp.broadcast_to(
      x[:, None, :1], (*grouped.shape[:2], 1, x.shape[-1])
    )
    return jnp.concatenate([first, grouped], axis=2)

  first = attend(q[:, :1], k, v, heads)
  rest = attend(groups(q), with_first(k), with_first(v), heads)
  if over == "time":
    rest = rest.swapaxes(1, 2)
  rest = rest.reshape(len(q), -1, q.shape[-1])
  return jnp.concatenate([first, rest], axis=1)


class Attention(nn.Module):
  """Self-attention with its projections.

  Attributes:
    heads: of the attention.
    fused: whether one matrix makes queries, keys and values.
    over: None, or what `attend_divided` takes.
    steps: of the tokens, where it is divided.
  """

  heads: int
  fused: bool
  over: str | None = None
  steps: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[B, N, D]` -> `[B, N, D]`."""
    width = x.shape[-1]
    if self.fused:
      q, k, v = jnp.split(nn.Dense(3 * width, name="qkv")(x), 3, axis=-1)
    else:
      q, k, v = (
        nn.Dense(width, name=name)(x) for name in ("query", "key", "value")
      )
    if self.over is None:
      mixed = attend(q, k, v, self.heads)
    else:
      mixed = attend_divided(q, k, v, self.heads, self.over, self.steps)
    return nn.Dense(width, name="out")(mixed)


class Block(nn.Module):
  """Attention, then two layers, both on normalised input and added to it.

  Attributes:
    heads: of the attention.
    epsilon: of the norms.
    fused: as `Attention` has it.
    divided: into so many steps: attention along time, then within each step;
      0 is attention over all.
  """

  heads: int
  epsilon: float
  fused: bool = True
  divided: int = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[B, N, D]` -> `[B, N, D]`."""

    def norm(name: str) -> nn.LayerNorm:
      return layer_norm(self.epsilon, name)

    if self.divided:
      along = Attention(
        self.heads, self.fused, "time", self.divided, name="time_attention"
      )
      x = x + along(norm("time_attention_norm")(x))
    over = "space" if self.divided else None
    within = Attention(
      self.heads, self.fused, over, self.divided, name="attention"
    )
    x = x + within(norm("attention_norm")(x))
    hidden = nn.Dense(4 * x.shape[-1], name="mlp_in")(norm("mlp_norm")(x))
    hidden = nn.gelu(hidden, approximate=False)
    return x + nn.Dense(x.shape[-1], name="mlp_out")(hidden)


def layer_norm(epsilon: float, name: str) -> nn.LayerNorm:
  """A norm with another epsilon than Flax's, its variance in two passes."""
  return nn.LayerNorm(epsilon, use_fast_variance=False, name=name)
