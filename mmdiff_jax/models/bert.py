"""BERT (Devlin et al. 2018, arXiv 1810.04805), which makes a vector of a text.

The vector is that of Sentence-BERT (arXiv 1908.10084): the last layer's tokens
pooled, and brought to length 1.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "gelu": functools.partial(nn.gelu, approximate=False),
  "gelu_new": functools.partial(nn.gelu, approximate=True),
  "relu": nn.relu,
}
POOLINGS = ("mean", "cls")


@dataclasses.dataclass(frozen=True)
class BertSizes:
  """Sizes of the network, by default those of MiniLM-L6.

  Attributes:
    vocabulary: tokens that it knows.
    positions: the most tokens of a text.
    types: kinds of token; a single text has the first.
    width: of a token.
    depth: layers.
    heads: of the attention.
    hidden: width between the two maps that follow the attention.
    activation: between them, a key of `ACTIVATIONS`.
    epsilon: of the norms.
    pooling: "mean" of the tokens, or "cls", the first one alone.
  """

  vocabulary: int = 30522
  positions: int = 512
  types: int = 2
  width: int = 384
  depth: int = 6
  heads: int = 12
  hidden: int = 1536
  activation: str = "gelu"
  epsilon: float = 1e-12
  pooling: str = "mean"


class _Layer(nn.Module):
  """Attention, then two maps; each is added to its input, then normalised."""

  sizes: BertSizes

  @nn.compact
  def __call__(self, x: jax.Array, real: jax.Array) -> jax.Array:
    """`[B, N, D]` and whether each is a token, `[B, N]` -> `[B, N, D]`."""
    sizes = self.sizes

    def heads(name: str) -> jax.Array:
      projected = nn.Dense(sizes.width, name=name)(x)
      return projected.reshape(*x.shape[:2], sizes.heads, -1)

    q, k, v = heads("query"), heads("key"), heads("value")
    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k) / math.sqrt(q.shape[-1])
    scores = jnp.where(real[:, None, None], scores, -jnp.inf)
    mixed = jnp.einsum("bhnm,bmhd->bnhd", nn.softmax(scores), v)
    mixed = nn.Dense(sizes.width, name="out")(mixed.reshape(x.shape))
    x = _norm(sizes, "attention_norm")(x + mixed)
    hidden = nn.Dense(sizes.hidden, name="mlp_in")(x)
    hidden = ACTIVATIONS[sizes.activation](hidden)
    hidden = nn.Dense(sizes.width, name="mlp_out")(hidden)
    return _norm(sizes, "mlp_norm")(x + hidden)


class Bert(nn.Module):
  """The network: tokens of texts to one vector each."""

  sizes: BertSizes = BertSizes()

  @nn.compact
  def __call__(self, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
    """Encodes a batch of texts.

    Args:
      tokens: int32 `[B, N]`, filled up with anything behind each text.
      lengths: tokens of each text, `[B]`, at least 1.

    Returns:
      `[B, width]` float32 of length 1.
    """
    sizes = self.sizes

    def table(name: str, count: int) -> nn.Embed:
      return nn.Embed(count, sizes.width, name=name)

    places = jnp.arange(tokens.shape[1])
    x = table("words", sizes.vocabulary)(tokens)
    x += table("positions", sizes.positions)(places)
    x += table("types", sizes.types)(jnp.zeros_like(places))
    x = _norm(sizes, "norm")(x)
    real = places < lengths[:, None]
    for i in range(sizes.depth):
      x = _Layer(sizes, name=f"layer_{i}")(x, real)
    if sizes.pooling == "cls":
      pooled = x[:, 0]
    else:
      total = jnp.sum(jnp.where(real[..., None], x, 0.0), axis=1)
      pooled = total / lengths[:, None]
    norm = jnp.linalg.norm(pooled, axis=-1, keepdims=True)
    return pooled / jnp.maximum(norm, 1e-12)


def _norm(sizes: BertSizes, name: str) -> nn.LayerNorm:
  return nn.LayerNorm(sizes.epsilon, use_fast_variance=False, name=name)


def abstract_bert(sizes: BertSizes) -> Any:
  """Shapes and types of the network's variables, without computing any."""
  return jax.eval_shape(
    Bert(sizes).init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 1), jnp.int32),
    jax.ShapeDtypeStruct((1,), jnp.int32),
  )


@functools.partial(jax.jit, static_argnames="sizes")
def embed_tokens(
  variables: Any, tokens: jax.Array, lengths: jax.Array, sizes: BertSizes
) -> jax.Array:
  """`Bert` in full precision, whatever the hardware's default is."""
  with jax.default_matmul_precision("highest"):
    # Flax's type allows for the tuple that `mutable` asks for.
    return Bert(sizes).apply(  # type: ignore[return-value]
      variables, tokens, lengths
    )
