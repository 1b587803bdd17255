import logging

import jax
import numpy as np
import pytest

from mmdiff_jax import convert, models
from tests import unet_golden as golden

SR_TINY = {
  "model_channels": 32,
  "channel_mult": (1, 2, 2),
  "num_res_blocks": 1,
  "attention_resolutions": (2, 4),
}


@pytest.fixture
def weights():
  return golden.state_dict("sr_tiny_keys.json")


@pytest.mark.parametrize(
  ("kind", "listing", "keys", "parameters"),
  [
    ("av_unet", "unet_full_keys.json", 1046, 133_675_524),
    ("sr_unet", "sr_full_keys.json", 566, 311_027_910),
  ],
)
def test_published_checkpoints_convert_whole(kind, listing, keys, parameters):
  # Only shapes: a view of one number per array, of the right type already.
  shapes = golden.load_json(listing)
  assert len(shapes) == keys
  state_dict = {
    key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()
  }
  variables = convert.convert_checkpoint(state_dict, kind)
  assert sum(x.size for x in jax.tree.leaves(variables)) == parameters
  abstract = models.abstract_variables({"name": kind})
  assert jax.tree.structure(variables) == jax.tree.structure(abstract)


def test_layouts_change_as_each_layer_needs(weights):
  params = convert.convert_checkpoint(weights, "sr_unet", SR_TINY)["params"]
  conv = weights["input_blocks.1.0.in_layers.2.weight"]
  ours = params["down_0_block_0"]["conv_in"]["kernel"]
  assert ours[0, 2, 5, 7] == conv[7, 5, 0, 2]
  linear = weights["time_embed.0.weight"]
  assert params["time_embedding"]["dense_0"]["kernel"][3, 9] == linear[9, 3]
  qkv = weights["middle_block.1.qkv.weight"]
  assert params["middle_attention"]["qkv"]["kernel"][3, 9] == qkv[9, 3, 0]
  norm = params["up_1_block_0"]["norm_in"]
  np.testing.assert_array_equal(
    norm["scale"], weights["output_blocks.2.0.in_layers.0.weight"]
  )


def test_half_precision_becomes_float32(weights):
  halves = {key: x.astype(np.float16) for key, x in weights.items()}
  variables = convert.convert_checkpoint(halves, "sr_unet", SR_TINY)
  assert {x.dtype for x in jax.tree.leaves(variables)} == {np.dtype("float32")}


def test_every_misfit_is_listed_at_once(weights):
  del weights["out.0.bias"]
  weights["extra.weight"] = np.zeros(3)
  weights["out.2.bias"] = np.zeros(5)
  weights["time_embed.0.weight"] = np.zeros(7)
  weights["middle_block.1.qkv.weight"] = np.zeros((192, 64, 3))
  with pytest.raises(ValueError) as error:
    convert.convert_checkpoint(weights, "sr_unet", SR_TINY)
  message = str(error.value)
  assert "missing (1): out.0.bias" in message
  assert "unexpected (1): extra.weight" in message
  assert "wrong shape (3)" in message
  for key in ("out.2.bias", "time_embed.0.weight", "middle_block.1.qkv.weight"):
    assert key in message


def test_checkpoint_of_another_configuration_is_refused(weights):
  with pytest.raises(ValueError, match="model configuration"):
    convert.convert_checkpoint(
      weights, "sr_unet", SR_TINY | {"model_channels": 64}
    )
  with pytest.raises(ValueError, match=r"missing \(\d+\).*unexpected \(\d+\)"):
    convert.convert_checkpoint(weights, "av_unet")


def test_class_embedding_is_dropped_with_a_message(weights, caplog):
  plain = convert.convert_checkpoint(weights, "sr_unet", SR_TINY)
  weights["label_emb.weight"] = np.ones((1000, 128), np.float32)
  with caplog.at_level(logging.INFO):
    converted = convert.convert_checkpoint(weights, "sr_unet", SR_TINY)
  assert "label_emb.weight" in caplog.text
  for a, b in zip(*map(jax.tree.leaves, (plain, converted)), strict=True):
    np.testing.assert_array_equal(a, b)


def test_unknown_kind_names_the_known_ones():
  with pytest.raises(ValueError, match="'unet' is unknown.*av_unet.*vggish"):
    convert.convert_checkpoint({}, "unet")
