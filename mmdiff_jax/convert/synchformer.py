"""Where the published weights of Synchformer go."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdiff_jax.convert.targets import (
  Conversion,
  Target,
  affine,
  convolution,
  linear,
  pointwise,
  tree_shapes,
  vector,
)
from mmdiff_jax.metric_networks.synchformer import Sizes, abstract_variables

_PICTURE, _SOUND = "vfeat_extractor", "afeat_extractor"
_JOINT = "transformer"
# Published names of the layers of a block, by ours.
_PICTURE_BLOCK = {
  "time_attention_norm": "norm3",
  "time_attention/qkv": "timeattn.qkv",
  "time_attention/out": "timeattn.proj",
  "attention_norm": "norm1",
  "attention/qkv": "attn.qkv",
  "attention/out": "attn.proj",
  "mlp_norm": "norm2",
  "mlp_in": "mlp.fc1",
  "mlp_out": "mlp.fc2",
}
_SOUND_BLOCK = {
  "attention_norm": "layernorm_before",
  "attention/query": "attention.attention.query",
  "attention/key": "attention.attention.key",
  "attention/value": "attention.attention.value",
  "attention/out": "attention.output.dense",
  "mlp_norm": "layernorm_after",
  "mlp_in": "intermediate.dense",
  "mlp_out": "output.dense",
}
_JOINT_BLOCK = {
  "attention_norm": "ln1",
  "attention/query": "attn.query",
  "attention/key": "attn.key",
  "attention/value": "attn.value",
  "attention/out": "attn.proj",
  "mlp_norm": "ln2",
  "mlp_in": "mlp.0",
  "mlp_out": "mlp.2",
}
# PyTorch's encoder layer, whose joint projection has names of its own.
_POOL_BLOCK = {
  "attention_norm": "norm1",
  "attention/out": "self_attn.out_proj",
  "mlp_norm": "norm2",
  "mlp_in": "linear1",
  "mlp_out": "linear2",
}
_DROPPED = {
  rf"{_PICTURE}\.patch_embed\..*": "patches of single frames, which go unused"
}


def make_conversion(
  kind: str, model_config: Mapping[str, Any] | None = None
) -> Conversion:
  """Targets of the published weights.

  Args:
    kind: "synchformer".
    model_config: fields of `Sizes` that differ from the published network's.

  Returns:
    The conversion.
  """
  sizes = Sizes(**(model_config or {}))
  targets = _ends()
  for key, path, depth, layers in (
    (f"{_PICTURE}.blocks", "picture", sizes.depth, _PICTURE_BLOCK),
    (f"{_SOUND}.ast.encoder.layer", "sound", sizes.depth, _SOUND_BLOCK),
    (f"{_JOINT}.blocks", "joint", sizes.joint_depth, _JOINT_BLOCK),
  ):
    for i in range(depth):
      targets |= _block(f"{key}.{i}", f"{path}/block_{i}", layers)
  return Conversion(
    {
      key: Target(f"params/{target.path}", target.transform)
      for key, target in targets.items()
    },
    tree_shapes(abstract_variables(sizes)),
    _DROPPED,
  )


def _tokens(x: np.ndarray) -> np.ndarray:
  """Tokens and positions, published with a batch axis: 1, N, D -> N, D."""
  return x.reshape(x.shape[1:])


def _block(key: str, path: str, layers: Mapping[str, str]) -> dict[str, Target]:
  targets: dict[str, Target] = {}
  for ours, theirs in layers.items():
    layer = affine if ours.endswith("norm") else linear
    targets |= layer(f"{key}.{theirs}", f"{path}/{ours}")
  return targets


def _pool(key: str, path: str) -> dict[str, Target]:
  joint = f"{path}/block/attention/qkv"
  return {
    f"{key}.cls_token": Target(f"{path}/class_token", _tokens),
    f"{key}.self_attn.in_proj_weight": Target(f"{joint}/kernel", pointwise),
    f"{key}.self_attn.in_proj_bias": Target(f"{joint}/bias", vector),
    **_block(key, f"{path}/block", _POOL_BLOCK),
  }


def _ends() -> dict[str, Target]:
  """What comes ahead of the blocks, and after them."""
  embeddings = f"{_SOUND}.ast.embeddings"
  return {
    f"{_PICTURE}.cls_token": Target("picture/class_token", _tokens),
    f"{_PICTURE}.pos_embed": Target("picture/places", _tokens),
    f"{_PICTURE}.temp_embed": Target("picture/times", _tokens),
    **convolution(f"{_PICTURE}.patch_embed_3d.proj", "picture/patches"),
    **affine(f"{_PICTURE}.norm", "picture/norm"),
    **_pool(f"{_PICTURE}.spatial_attn_agg", "picture/pool"),
    f"{embeddings}.cls_token": Target("sound/class_token", _tokens),
    f"{embeddings}.distillation_token": Target(
      "sound/distillation_token", _tokens
    ),
    f"{embeddings}.position_embeddings": Target("sound/places", _tokens),
    **convolution(f"{embeddings}.patch_embeddings.projection", "sound/patches"),
    **affine(f"{_SOUND}.ast.layernorm", "sound/norm"),
    **_pool(f"{_SOUND}.freq_attn_agg", "sound/pool"),
    **linear("vproj", "joint/picture_in"),
    **linear("aproj", "joint/sound_in"),
    f"{_JOINT}.OFF_tok": Target("joint/offset_token", _tokens),
    f"{_JOINT}.MOD_tok": Target("joint/sound_token", _tokens),
    f"{_JOINT}.pos_emb_cfg.pos_emb": Target("joint/places", _tokens),
    **affine(f"{_JOINT}.vis_in_lnorm", "joint/picture_norm"),
    **affine(f"{_JOINT}.aud_in_lnorm", "joint/sound_norm"),
    **affine(f"{_JOINT}.ln_f", "joint/norm"),
    **linear(f"{_JOINT}.off_head", "joint/head"),
  }
