"""Rematerialisation: what of a block is kept for the backward pass, and how.

By `config.model.remat`: "none" keeps all; "blocks" keeps a block's input alone,
and computes the block again; "products" keeps what products, convolutions and
attention make, and computes again what is between them: norms, activations,
dropout; "attention" computes attention layers again, and nothing else.
"""

from typing import Any

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

NAMES = ("none", "blocks", "products", "attention")
_PRODUCT = "product"

# Options of XLA's by platform. By default it computes blocks again long before
# they are needed, which saves no memory: on CPUs to keep cores busy, on several
# GPUs to have work beside the sums of gradients (a joint model of the release's
# size on eight: 47 GiB of temporaries in place of 12 on each; the sums take 1 %
# of the step).
MEMORY_FIRST: dict[str, dict[str, str]] = {
  "cpu": {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"},
  "gpu": {"xla_disable_hlo_passes": "latency-hiding-scheduler"},
}


def product(x: jax.Array) -> jax.Array:
  """Marks what a product made, which "products" keeps."""
  return checkpoint_name(x, _PRODUCT)


def _kept(primitive: Any, *args: Any, **params: Any) -> Any:
  """Products by their mark, and what cuDNN's attention makes."""
  if primitive.name.startswith("dot_product_attention_fwd"):
    return True
  named = jax.checkpoint_policies.save_only_these_names(_PRODUCT)
  return named(primitive, *args, **params)


def rematerialised(module: Any, remat: str, attention: bool = False) -> Any:
  """The class of a block, as `remat` says.

  Args:
    module: class of a Linen module.
    remat: one of `NAMES`.
    attention: whether it is an attention layer.
  """
  if remat == "none" or (remat == "attention" and not attention):
    return module
  if remat == "products":
    return nn.remat(module, policy=_kept)
  return nn.remat(module)
