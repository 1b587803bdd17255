"""Keys of the published coupled U-Net (Landscape.pt, AIST++.pt)."""

from collections.abc import Mapping
from typing import Any

from mmdiff_jax import models
from mmdiff_jax.convert.targets import (
  Conversion,
  Target,
  affine,
  convolution,
  linear,
  tree_shapes,
)
from mmdiff_jax.models.plan import Layer

# Dimensions of the convolutions of one tap.
_TAPS = {"video": 3, "audio": 1}


def _video_conv(key: str, path: str) -> dict[str, Target]:
  return convolution(
    f"{key}.video_conv_spatial", f"{path}/spatial"
  ) | convolution(f"{key}.video_conv_temporal", f"{path}/temporal")


def _self_attention(key: str, path: str) -> dict[str, Target]:
  return (
    affine(f"{key}.norm.GroupNorm", f"{path}/norm")
    | linear(f"{key}.qkv", f"{path}/qkv", taps=1)
    | linear(f"{key}.proj_out", f"{path}/out", taps=1)
  )


def _block(key: str, path: str) -> dict[str, Target]:
  """All that a residual block can have."""
  targets = linear(f"{key}.emb_layers.1", f"{path}/embedding")
  targets |= _video_conv(f"{key}.video_in_layers.2", f"{path}/video_conv")
  targets |= convolution(
    f"{key}.audio_in_layers.2.audio_conv", f"{path}/audio_conv"
  )
  for s, taps in _TAPS.items():
    targets |= affine(f"{key}.{s}_in_layers.0.GroupNorm", f"{path}/{s}_norm_in")
    targets |= affine(
      f"{key}.{s}_out_layers.0.GroupNorm", f"{path}/{s}_norm_out"
    )
    targets |= linear(
      f"{key}.{s}_out_layers.3.{s}_conv", f"{path}/{s}_out", taps=taps
    )
    targets |= linear(
      f"{key}.{s}_skip_connection.{s}_conv", f"{path}/{s}_skip", taps=taps
    )
  for name in ("spatial", "temporal", "audio"):
    targets |= _self_attention(
      f"{key}.{name}_attention_block", f"{path}/{name}_attention"
    )
  return targets


def _cross(key: str, path: str) -> dict[str, Target]:
  targets: dict[str, Target] = {}
  for s, taps in _TAPS.items():
    targets |= affine(f"{key}.{s[0]}_norm.GroupNorm", f"{path}/{s}_norm")
    targets |= linear(f"{key}.{s[0]}_qkv", f"{path}/{s}_qkv", taps=1)
    targets |= linear(
      f"{key}.{s}_proj_out.{s}_conv", f"{path}/{s}_out", taps=taps
    )
  return targets


def _layer(key: str, layer: Layer) -> dict[str, Target]:
  make = _cross if layer.kind == "attention" else _block
  return make(key, f"params/{layer.name}")


def make_conversion(
  kind: str, model_config: Mapping[str, Any] | None
) -> Conversion:
  """The conversion of a coupled U-Net; see `convert_checkpoint`."""
  config = dict(model_config or {}, name=kind)
  layout = models.create_model(config).plan()
  shapes = tree_shapes(models.abstract_variables(config))

  targets = (
    linear("time_embed.0", "params/time_embedding/dense_0")
    | linear("time_embed.2", "params/time_embedding/dense_1")
    | _video_conv("input_blocks.0.0.video_conv", "params/video_stem")
    | convolution("input_blocks.0.0.audio_conv.audio_conv", "params/audio_stem")
    | affine("video_out.0.GroupNorm", "params/video_norm")
    | affine("audio_out.0.GroupNorm", "params/audio_norm")
    | convolution("video_out.2.video_conv", "params/video_head")
    | convolution("audio_out.2.audio_conv", "params/audio_head")
  )
  for i, cell in enumerate(layout.down, start=1):
    for j, layer in enumerate(cell):
      targets |= _layer(f"input_blocks.{i}.{j}", layer)
  for j, layer in enumerate(layout.middle):
    targets |= _layer(f"middle_blocks.{j}", layer)
  for i, cell in enumerate(layout.up):
    for j, layer in enumerate(cell):
      targets |= _layer(f"output_blocks.{i}.{j}", layer)
  # Optional parts of a block are those that this network's tree has.
  targets = {key: t for key, t in targets.items() if t.path in shapes}
  return Conversion(targets, shapes)
