"""Where the published weights of Synchformer go."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdiff_jax.convert import (
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
  targets = {
    **_picture(sizes.depth),
    **_sound(sizes.depth),
    **_joint(sizes.joint_depth),
  }
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


def _picture(depth: int) -> dict[str, Target]:
  targets = {
    f"{_PICTURE}.cls_token": Target("picture/class_token", _tokens),
    f"{_PICTURE}.pos_embed": Target("picture/places", _tokens),
    f"{_PICTURE}.temp_embed": Target("picture/times", _tokens),
    **convolution(f"{_PICTURE}.patch_embed_3d.proj", "picture/patches"),
    **affine(f"{_PICTURE}.norm", "picture/norm"),
    **_pool(f"{_PICTURE}.spatial_attn_agg", "picture/pool"),
  }
  for i in range(depth):
    key, path = f"{_PICTURE}.blocks.{i}", f"picture/block_{i}"
    for theirs, norm, ours in (
      ("timeattn", "norm3", "time_attention"),
      ("attn", "norm1", "attention"),
    ):
      targets |= affine(f"{key}.{norm}", f"{path}/{ours}_norm")
      targets |= linear(f"{key}.{theirs}.qkv", f"{path}/{ours}/qkv")
      targets |= linear(f"{key}.{theirs}.proj", f"{path}/{ours}/out")
    targets |= affine(f"{key}.norm2", f"{path}/mlp_norm")
    targets |= linear(f"{key}.mlp.fc1", f"{path}/mlp_in")
    targets |= linear(f"{key}.mlp.fc2", f"{path}/mlp_out")
  return targets


def _sound(depth: int) -> dict[str, Target]:
  root = f"{_SOUND}.ast"
  embeddings = f"{root}.embeddings"
  targets = {
    f"{embeddings}.cls_token": Target("sound/class_token", _tokens),
    f"{embeddings}.distillation_token": Target(
      "sound/distillation_token", _tokens
    ),
    f"{embeddings}.position_embeddings": Target("sound/places", _tokens),
    **convolution(f"{embeddings}.patch_embeddings.projection", "sound/patches"),
    **affine(f"{root}.layernorm", "sound/norm"),
    **_pool(f"{_SOUND}.freq_attn_agg", "sound/pool"),
  }
  for i in range(depth):
    key, path = f"{root}.encoder.layer.{i}", f"sound/block_{i}"
    targets |= affine(f"{key}.layernorm_before", f"{path}/attention_norm")
    for name in ("query", "key", "value"):
      targets |= linear(
        f"{key}.attention.attention.{name}", f"{path}/attention/{name}"
      )
    targets |= linear(f"{key}.attention.output.dense", f"{path}/attention/out")
    targets |= affine(f"{key}.layernorm_after", f"{path}/mlp_norm")
    targets |= linear(f"{key}.intermediate.dense", f"{path}/mlp_in")
    targets |= linear(f"{key}.output.dense", f"{path}/mlp_out")
  return targets


def _joint(depth: int) -> dict[str, Target]:
  targets = {
    f"{_JOINT}.OFF_tok": Target("joint/offset_token", _tokens),
    f"{_JOINT}.MOD_tok": Target("joint/sound_token", _tokens),
    f"{_JOINT}.pos_emb_cfg.pos_emb": Target("joint/places", _tokens),
    **linear("vproj", "joint/picture_in"),
    **linear("aproj", "joint/sound_in"),
    **affine(f"{_JOINT}.vis_in_lnorm", "joint/picture_norm"),
    **affine(f"{_JOINT}.aud_in_lnorm", "joint/sound_norm"),
    **affine(f"{_JOINT}.ln_f", "joint/norm"),
    **linear(f"{_JOINT}.off_head", "joint/head"),
  }
  for i in range(depth):
    key, path = f"{_JOINT}.blocks.{i}", f"joint/block_{i}"
    targets |= affine(f"{key}.ln1", f"{path}/attention_norm")
    for theirs, ours in (
      ("query", "query"),
      ("key", "key"),
      ("value", "value"),
      ("proj", "out"),
    ):
      targets |= linear(f"{key}.attn.{theirs}", f"{path}/attention/{ours}")
    targets |= affine(f"{key}.ln2", f"{path}/mlp_norm")
    targets |= linear(f"{key}.mlp.0", f"{path}/mlp_in")
    targets |= linear(f"{key}.mlp.2", f"{path}/mlp_out")
  return targets


def _pool(key: str, path: str) -> dict[str, Target]:
  """Of PyTorch's encoder layer with a class token."""
  block = f"{path}/block"
  return {
    f"{key}.cls_token": Target(f"{path}/class_token", _tokens),
    **affine(f"{key}.norm1", f"{block}/attention_norm"),
    f"{key}.self_attn.in_proj_weight": Target(
      f"{block}/attention/qkv/kernel", pointwise
    ),
    f"{key}.self_attn.in_proj_bias": Target(
      f"{block}/attention/qkv/bias", vector
    ),
    **linear(f"{key}.self_attn.out_proj", f"{block}/attention/out"),
    **affine(f"{key}.norm2", f"{block}/mlp_norm"),
    **linear(f"{key}.linear1", f"{block}/mlp_in"),
    **linear(f"{key}.linear2", f"{block}/mlp_out"),
  }
