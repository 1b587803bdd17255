"""Operations are counted from what was traced, as by hand."""

import math

import jax
import jax.numpy as jnp
import pytest

from mmdiff_jax.devices.chips import CHIPS, chip_of
from mmdiff_jax.devices.mesh import make_mesh
from mmdiff_jax.models import attention
from mmdiff_jax.task import make_task
from mmdiff_jax.training.flops import count_flops, model_flops
from mmdiff_jax.training.program import build_program
from tests.conftest import make_tiny_config
from tests.toy import make_toy_config


def count(function, *args):
  return count_flops(jax.make_jaxpr(function)(*args).jaxpr)


def test_products_and_convolutions_count_two_per_multiply_add():
  a, b = jnp.ones((5, 7)), jnp.ones((7, 3))
  assert count(jnp.matmul, a, b) == 2 * 5 * 7 * 3
  x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 6))

  def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  assert count(convolve, x, kernel) == 2 * (2 * 8 * 8 * 6) * (3 * 3 * 4)
  # The gradients of both arguments, and the value, whose graph it needs not.
  loss = jax.value_and_grad(lambda b: (a @ b).sum())
  assert count(loss, b) == 2 * (2 * 5 * 7 * 3)


def test_loops_count_as_often_as_they_run():
  a = jnp.ones((4, 4))

  def repeated(a):
    return jax.lax.scan(lambda x, _: (x @ a, None), a, None, length=9)[0]

  assert count(jax.jit(repeated), a) == 9 * 2 * 4**3


@pytest.mark.parametrize(
  ("kind", "name"),
  [
    ("NVIDIA H100 80GB HBM3", "h100"),
    ("NVIDIA A100-SXM4-80GB", "a100"),
    ("NVIDIA A100-SXM4-40GB", "a100-40"),
    ("NVIDIA L40S", "l40s"),
    ("NVIDIA L4", "l4"),
    ("NVIDIA GeForce RTX 4090", "4090"),
    ("TPU v5 lite", "v5e"),
    ("TPU v5", "v5p"),
  ],
)
def test_chips_are_known_by_what_jax_calls_them(kind, name):
  assert chip_of(kind) is CHIPS[name]


def test_other_devices_have_no_peak():
  assert chip_of("cpu") is None


def make_program(config):
  return build_program(make_task(config), config, make_mesh())


def test_the_model_needs_three_forward_passes():
  config = make_toy_config()
  program = make_program(config)
  needed = model_flops(program.task, config, program.abstract_state.params)
  width, values = 128, program.task.x
  # One number, the time, to the width, and that to itself and to each stream's
  # channels; the channels of each element to themselves.
  products = width + width**2 + width * (3 + 1)
  products += math.prod(values["video"].shape) * 3
  products += math.prod(values["audio"].shape)
  assert needed == 3 * 2 * config.train.batch_size * products


def test_what_is_computed_again_does_not_count_for_the_model():
  executed, needed = {}, {}
  for remat in ("none", "blocks"):
    config = make_tiny_config()
    config.model.update(remat=remat, kernels="plain", attention="xla")
    program = make_program(config)
    executed[remat] = count_flops(program.traced_step.jaxpr.jaxpr)
    needed[remat] = model_flops(
      program.task, config, program.abstract_state.params
    )
  assert needed["none"] == needed["blocks"]
  # The gradient of the first layer's input is left out, and it is cheap.
  assert 0.9 < executed["none"] / needed["none"] <= 1.1
  assert 1.2 < executed["blocks"] / needed["blocks"] <= 1.4


def test_attention_kernels_count_their_products(monkeypatch):
  from jax._src.cudnn import fused_attention_stablehlo as fused

  # Tracing asks whether there is a cuDNN; compiling is not needed here.
  monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
  monkeypatch.setattr(fused, "check_compute_capability", lambda _: True)
  q = jnp.zeros((2, 64, 4, 32), jnp.bfloat16)
  k = jnp.zeros((2, 128, 4, 32), jnp.bfloat16)
  forward = 2 * 2 * (2 * 4 * 64 * 128 * 32)
  assert count(attention.cudnn, q, k, k) == forward

  def loss(q, k, v):
    return attention.cudnn(q, k, v).sum()

  # Scores and four gradients more.
  assert count(jax.grad(loss, (0, 1, 2)), q, k, k) == forward * (2 + 5) / 2
  q = jnp.zeros((2, 256, 4, 32))
  # A head of 32 channels is multiplied as the 128 of its group.
  kernel = attention.BOUNDED["pallas"]
  assert count(kernel, q, q, q) == 2 * 2 * (2 * 4 * 256 * 256 * 128)
