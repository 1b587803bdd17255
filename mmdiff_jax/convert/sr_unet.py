"""Keys of the published super-resolution U-Net.

guided-diffusion's class-conditional 64 -> 256 upsampler has the same keys and
a label embedding besides, which is dropped.
"""

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

_DROPPED = {
  r"label_emb\.weight": "the class embedding; this network has no classes",
}


def _layer(key: str, layer: Layer) -> dict[str, Target]:
  path = f"params/{layer.name}"
  if layer.kind == "attention":
    return (
      affine(f"{key}.norm", f"{path}/norm")
      | linear(f"{key}.qkv", f"{path}/qkv", taps=1)
      | linear(f"{key}.proj_out", f"{path}/out", taps=1)
    )
  return (
    affine(f"{key}.in_layers.0", f"{path}/norm_in")
    | convolution(f"{key}.in_layers.2", f"{path}/conv_in")
    | linear(f"{key}.emb_layers.1", f"{path}/embedding")
    | affine(f"{key}.out_layers.0", f"{path}/norm_out")
    | convolution(f"{key}.out_layers.3", f"{path}/conv_out")
    | linear(f"{key}.skip_connection", f"{path}/skip", taps=2)
  )


def make_conversion(
  kind: str, model_config: Mapping[str, Any] | None
) -> Conversion:
  """The conversion of a super-resolution U-Net; see `convert_checkpoint`."""
  config = dict(model_config or {}, name=kind)
  layout = models.create_model(config).plan()
  shapes = tree_shapes(models.abstract_variables(config))

  targets = (
    linear("time_embed.0", "params/time_embedding/dense_0")
    | linear("time_embed.2", "params/time_embedding/dense_1")
    | convolution("input_blocks.0.0", "params/stem")
    | affine("out.0", "params/norm")
    | convolution("out.2", "params/head")
  )
  for i, cell in enumerate(layout.down, start=1):
    for j, layer in enumerate(cell):
      targets |= _layer(f"input_blocks.{i}.{j}", layer)
  for j, layer in enumerate(layout.middle):
    targets |= _layer(f"middle_block.{j}", layer)
  for i, cell in enumerate(layout.up):
    for j, layer in enumerate(cell):
      targets |= _layer(f"output_blocks.{i}.{j}", layer)
  # Only some blocks have a skip convolution.
  targets = {key: t for key, t in targets.items() if t.path in shapes}
  return Conversion(targets, shapes, _DROPPED)
