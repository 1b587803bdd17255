import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax.models import av_blocks, layers
from tests.attention_oracle import normal, softmax_attention

SIDES = pytest.mark.parametrize("kernels", ["plain", "cpu"])


@SIDES
def test_group_norm_matches_its_definition(kernels):
  x = 3.0 + 2.0 * normal(2, 3, 5, 64)
  scale, shift = normal(2, 64, seed=1), normal(2, 64, seed=2)
  gamma, beta = normal(64, seed=3), normal(64, seed=4)
  variables = {"params": {"scale": gamma, "bias": beta}}
  norm = layers.GroupNorm(kernels=kernels)
  out = norm.apply(variables, x, scale, shift)

  groups = x.astype(np.float64).reshape(2, 15, 32, 2)
  mean = groups.mean((1, 3), keepdims=True)
  variance = groups.var((1, 3), keepdims=True)
  y = ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
  y = (y * gamma + beta) * (1 + scale[:, None, None]) + shift[:, None, None]
  np.testing.assert_allclose(out, y, atol=1e-5)


@SIDES
@pytest.mark.parametrize("activate", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_group_norm_has_the_gradients_of_its_definition(
  batch, activate, kernels
):
  x, scale, weights = (
    normal(*shape, seed=i)
    for i, shape in enumerate([(batch, 30, 64), (batch, 64), (batch, 30, 64)])
  )
  params = {"scale": normal(64, seed=3), "bias": normal(64, seed=4)}

  def norm(params, x, scale):
    module = layers.GroupNorm(kernels=kernels, activate=activate)
    return module.apply({"params": params}, x, scale)

  def definition(params, x, scale):
    groups = x.reshape(batch, 30, 32, 2)
    mean = groups.mean((1, 3), keepdims=True)
    y = (groups - mean) / jnp.sqrt(groups.var((1, 3), keepdims=True) + 1e-5)
    y = y.reshape(x.shape) * params["scale"] + params["bias"]
    y = y * (1 + scale[:, None])
    return y / (1 + jnp.exp(-y)) if activate else y

  def gradients(function):
    def loss(*args):
      return jnp.sum(weights * jnp.sin(function(*args)))

    return jax.tree.leaves(jax.grad(loss, (0, 1, 2))(params, x, scale))

  for a, b in zip(gradients(norm), gradients(definition), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_group_norm_over_frames_is_that_of_each_pixel():
  x, weights = normal(2, 6, 5, 64), normal(2, 6, 5, 64, seed=1)
  params = {"scale": normal(64, seed=3), "bias": normal(64, seed=4)}

  def loss(params, x, apart):
    module = layers.GroupNorm(kernels="plain", axes=None if apart else (1,))
    if apart:
      moved = x.swapaxes(1, 2).reshape(10, 6, 64)
      y = module.apply({"params": params}, moved)
      y = y.reshape(2, 5, 6, 64).swapaxes(1, 2)
    else:
      y = module.apply({"params": params}, x)
    return jnp.sum(weights * jnp.sin(y))

  results = (
    jax.value_and_grad(loss, (0, 1))(params, x, apart)
    for apart in (True, False)
  )
  for a, b in zip(*map(jax.tree.leaves, results), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@SIDES
def test_a_gain_of_each_frame_has_the_gradients_of_its_definition(kernels):
  x, scale = normal(2, 3, 5, 64), normal(2, 3, 1, 64, seed=1)
  shift, weights = normal(2, 3, 1, 64, seed=2), normal(2, 3, 5, 64, seed=3)
  params = {"scale": normal(64, seed=4), "bias": normal(64, seed=5)}

  def norm(params, x, scale, shift):
    module = layers.GroupNorm(kernels=kernels)
    return module.apply({"params": params}, x, scale, shift)

  def definition(params, x, scale, shift):
    groups = x.reshape(2, 15, 32, 2)
    mean = groups.mean((1, 3), keepdims=True)
    y = (groups - mean) / jnp.sqrt(groups.var((1, 3), keepdims=True) + 1e-5)
    y = y.reshape(x.shape) * params["scale"] + params["bias"]
    return y * (1 + scale) + shift

  def gradients(function):
    def loss(*args):
      return jnp.sum(weights * jnp.sin(function(*args)))

    grads = jax.grad(loss, (0, 1, 2, 3))(params, x, scale, shift)
    return jax.tree.leaves(grads)

  for a, b in zip(gradients(norm), gradients(definition), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_gradient_of_a_norm_keeps_half_precision_alone():
  x = jnp.ones((2, 64, 64), jnp.bfloat16)
  module = layers.GroupNorm(jnp.bfloat16, kernels="plain", activate=True)
  variables = module.init(jax.random.key(0), x)
  _, vjp = jax.vjp(lambda x: module.apply(variables, x), x)
  kept = [leaf for leaf in jax.tree.leaves(vjp) if leaf.size >= x.size]
  assert [leaf.dtype for leaf in kept] == [jnp.bfloat16]


@SIDES
def test_group_norm_of_half_precision_keeps_exact_statistics(kernels):
  # 300 is exact in bfloat16; sums of it in bfloat16 would stall.
  x = jnp.full((1, 4096, 32), 300.0, jnp.bfloat16)
  variables = {"params": {"scale": np.ones(32), "bias": np.zeros(32)}}
  norm = layers.GroupNorm(jnp.bfloat16, kernels=kernels)
  out = norm.apply(variables, x)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float32(out), 0.0, atol=1e-2)


@pytest.mark.parametrize("heads_first", [False, True])
def test_self_attention_splits_the_projection_as_published(heads_first):
  channels, heads, width = 64, 4, 16
  x = normal(2, 5, channels)
  qkv, out = normal(channels, 3 * channels, seed=1) / 8, normal(64, 64) / 8
  params = {
    "norm": {"scale": np.ones(channels), "bias": np.zeros(channels)},
    "qkv": {"kernel": qkv, "bias": normal(3 * channels, seed=2)},
    "out": {"kernel": out, "bias": np.zeros(channels)},
  }
  module = layers.SelfAttention(heads, heads_first)
  result = module.apply({"params": params}, x)

  norm = layers.GroupNorm().apply({"params": params["norm"]}, x)
  projected = np.asarray(norm) @ qkv + params["qkv"]["bias"]
  q, k, v = np.empty((3, 2, 5, heads, width))
  for head in range(heads):
    for i, part in enumerate((q, k, v)):
      start = (
        (head * 3 + i) * width if heads_first else i * channels + head * width
      )
      part[:, :, head] = projected[..., start : start + width]
  expected = x + softmax_attention(q, k, v).reshape(x.shape) @ out
  np.testing.assert_allclose(result, expected, atol=2e-5)


def test_timestep_embedding_is_cosines_then_sines():
  t = np.array([0, 7, 999])
  out = layers.timestep_embedding(t, 8)
  angles = t[:, None] * 10000.0 ** (-np.arange(4) / 4)
  expected = np.concatenate([np.cos(angles), np.sin(angles)], 1)
  np.testing.assert_allclose(out, expected, atol=1e-4)


def test_resampling_averages_and_repeats():
  x = normal(1, 2, 4, 6, 3)
  down = layers.downsample(x, (1, 2, 2))
  up = layers.upsample(x, (1, 2, 2))
  assert down.shape == (1, 2, 2, 3, 3)
  assert up.shape == (1, 2, 8, 12, 3)
  for f, h, w in np.ndindex(2, 2, 3):
    patch = x[0, f, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2]
    np.testing.assert_allclose(down[0, f, h, w], patch.mean((0, 1)), atol=1e-6)
  for f, h, w in np.ndindex(2, 8, 12):
    np.testing.assert_array_equal(up[0, f, h, w], x[0, f, h // 2, w // 2])


def dilated_taps(x, kernel, dilation):
  """A zero-padded convolution of three taps over axis 1, tap by tap."""
  out = np.zeros((*x.shape[:-1], kernel.shape[-1]))
  for i, offset in enumerate((-dilation, 0, dilation)):
    for position in range(x.shape[1]):
      if 0 <= position + offset < x.shape[1]:
        out[:, position] += x[:, position + offset] @ kernel[i]
  return out


@pytest.mark.parametrize("dilation", [1, 4, 16])
def test_dilated_convolution_pads_with_zeros(dilation):
  x, kernel, bias = normal(2, 9, 3), normal(3, 3, 5, seed=1), normal(5)
  module = layers.Conv(5, (3,), dilation)
  out = module.apply({"params": {"kernel": kernel, "bias": bias}}, x)
  expected = dilated_taps(x, kernel, dilation) + bias
  np.testing.assert_allclose(out, expected, atol=1e-5)


def test_video_convolution_is_spatial_then_temporal():
  x = normal(2, 4, 3, 5, 6)
  spatial, temporal = normal(3, 3, 6, 7, seed=1), normal(3, 7, 7, seed=2)
  biases = normal(7, seed=3), normal(7, seed=4)
  params = {
    "spatial": {"kernel": spatial, "bias": biases[0]},
    "temporal": {"kernel": temporal, "bias": biases[1]},
  }
  out = av_blocks.VideoConv(7).apply({"params": params}, x)

  padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])
  h = sum(
    padded[:, :, i : i + 3, j : j + 5] @ spatial[i, j]
    for i, j in np.ndindex(3, 3)
  )
  expected = dilated_taps(h + biases[0], temporal, 1) + biases[1]
  np.testing.assert_allclose(out, expected, atol=1e-4)


def test_video_head_is_a_convolution_over_space_and_time():
  x, kernel, bias = normal(2, 4, 3, 5, 6), normal(3, 3, 3, 6, 2, seed=1), [1, 2]
  params = {"kernel": kernel, "bias": np.float32(bias)}
  out = av_blocks.VideoHead(2).apply({"params": params}, x)
  padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (1, 1), (0, 0)])
  expected = sum(
    padded[:, i : i + 4, j : j + 3, k : k + 5] @ kernel[i, j, k]
    for i, j, k in np.ndindex(3, 3, 3)
  )
  np.testing.assert_allclose(out, expected + bias, atol=1e-4)


def test_layers_start_uniform_or_at_zero():
  x = np.zeros((1, 4, 4, 64), np.float32)
  key = jax.random.key(0)
  for module, fan_in in (
    (layers.Conv(32, (3, 3)), 9 * 64),
    (layers.Dense(32), 64),
  ):
    params = module.init(key, x)["params"]
    for name in ("kernel", "bias"):
      values = np.asarray(params[name]) * np.sqrt(fan_in)
      assert np.abs(values).max() <= 1
      assert np.abs(values).max() > 0.8
    np.testing.assert_allclose(
      np.var(np.asarray(params["kernel"])) * fan_in, 1 / 3, rtol=0.1
    )
  zeros = layers.Dense(32, zero_init=True).init(key, x)["params"]
  assert not any(leaf.any() for leaf in jax.tree.leaves(zeros))


def test_pixels_first_can_be_undone():
  x = normal(2, 3, 20, 6)
  tokens = layers.pixels_first(x)
  assert tokens.shape == (2 * 20, 3, 6)
  np.testing.assert_array_equal(tokens[7], x[0, :, 7])
  np.testing.assert_array_equal(layers.frames_first(tokens, x.shape), x)
