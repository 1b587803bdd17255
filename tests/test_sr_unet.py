import jax
import numpy as np
import pytest

from mmdiff_jax import models
from mmdiff_jax.convert import convert_checkpoint
from tests import unet_golden as golden

TINY = {
  "name": "sr_unet",
  "model_channels": 32,
  "channel_mult": (1, 1),
  "num_res_blocks": 1,
  "num_heads": 2,
  "attention_resolutions": (2,),
  "learn_sigma": False,
  "dropout": 0.3,
  "dtype": "float32",
}


@pytest.fixture(scope="module")
def tiny():
  """Weights, noisy images, steps and small images."""
  variables = golden.random_params(models.abstract_variables(TINY))
  image = golden.normal("image", (2, 8, 8, 3))
  low_res = golden.normal("low_res", (2, 2, 2, 3))
  return variables, image, np.array([5, 600]), low_res


@pytest.mark.parametrize("kernels", ["plain", "cpu"])
def test_network_and_importer_match_golden_numbers(kernels):
  case = golden.load_json("sr_tiny.json")
  config = golden.model_config(
    case,
    name="sr_unet",
    learn_sigma=case["out_channels"] == 6,
    kernels=kernels,
  )
  weights = golden.state_dict("sr_tiny_keys.json")
  variables = convert_checkpoint(weights, "sr_unet", config)
  image = golden.normal("sr_tiny/x", (2, 3, 32, 32)).transpose(0, 2, 3, 1)
  low_res = golden.normal("sr_tiny/low_res", (2, 3, 8, 8))
  model = models.create_model(config)
  with jax.default_matmul_precision("highest"):
    out = jax.jit(model.apply)(
      variables,
      image,
      np.array(case["timesteps"]),
      low_res.transpose(0, 2, 3, 1),
    )
  expected = np.load(golden.DATA / "sr_tiny.npz")["out"]
  assert np.abs(expected - np.asarray(out).transpose(0, 3, 1, 2)).max() < 2e-5


def test_images_of_a_batch_do_not_mix(tiny):
  variables, image, t, low_res = tiny
  model = models.create_model(TINY)
  apply = jax.jit(model.apply)
  both = apply(variables, image, t, low_res)
  swapped = apply(variables, image[::-1], t[::-1], low_res[::-1])
  np.testing.assert_allclose(both, swapped[::-1], atol=1e-5)
  other = apply(variables, image, t, low_res[::-1])
  assert np.abs(np.asarray(both) - np.asarray(other)).max() > 1e-3


def test_neither_kernels_nor_remat_change_gradients(tiny):
  variables, *inputs = tiny

  def gradient(kernels, remat):
    model = models.create_model(TINY | {"kernels": kernels, "remat": remat})

    def loss(variables):
      rngs = {"dropout": jax.random.key(0)}
      out = model.apply(variables, *inputs, train=True, rngs=rngs)
      return (out**2).mean()

    return jax.tree.leaves(jax.jit(jax.grad(loss))(variables))

  plain = gradient("plain", "none")
  for other in (("cpu", "blocks"), ("plain", "attention")):
    for a, b in zip(plain, gradient(*other), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  assert all(np.abs(leaf).max() > 0 for leaf in plain)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"num_heads": 5}, "num_heads=5 does not divide"),
    ({"attention_resolutions": (6,)}, "attention_resolutions=.*powers of two"),
    ({"model_channels": 48}, "multiple of 32"),
    ({"attention": "cudnn"}, "impossible here"),
  ],
)
def test_senseless_configurations_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    models.create_model(TINY | change).check_shapes((8, 8, 3))


@pytest.mark.parametrize(
  ("image", "low_res", "message"),
  [
    ((7, 8, 3), None, "7x8 pixels"),
    ((8, 3), None, "expected .H, W, C."),
    ((2, 8, 8, 3), (1, 2, 2, 3), "low_res"),
    ((2, 8, 8, 3), (2, 2, 2, 1), "channels of the image"),
  ],
)
def test_images_that_do_not_fit_are_refused(image, low_res, message):
  shapes = [image] if low_res is None else [image, low_res]
  with pytest.raises(ValueError, match=message):
    models.create_model(TINY).check_shapes(*shapes)


def test_a_small_version_is_required(tiny):
  variables, image, t, _ = tiny
  with pytest.raises(ValueError, match="needs low_res"):
    models.create_model(TINY).apply(variables, image, t)
