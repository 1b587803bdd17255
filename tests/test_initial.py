"""Parameters from one draw are distributed as the layers' own."""

import flax
import jax
import numpy as np
import pytest

from mmdiff_jax.task import make_task
from tests.conftest import make_tiny_config
from tests.sr_fixtures import make_tiny_sr_config


@pytest.mark.parametrize("make_config", [make_tiny_config, make_tiny_sr_config])
def test_one_draw_has_the_structure_and_spread_of_separate_ones(make_config):
  task = make_task(make_config())
  key = jax.random.key(0)
  ours = flax.traverse_util.flatten_dict(jax.jit(task.init)(key))
  module = task.network.module
  x = {name: np.zeros((1, *leaf.shape)) for name, leaf in task.x.items()}
  inputs = {
    name: np.zeros((1, *leaf.shape)) for name, leaf in task.inputs.items()
  }
  separate = jax.jit(
    lambda key: module.init(
      key, x, np.zeros(1, int), inputs, False, method=task.network
    )
  )(key)
  separate = flax.traverse_util.flatten_dict(separate["params"])
  assert {k: v.shape for k, v in ours.items()} == {
    k: v.shape for k, v in separate.items()
  }
  for path, theirs in separate.items():
    a, b = np.asarray(ours[path]), np.asarray(theirs)
    if b.std() == 0:
      np.testing.assert_array_equal(a, b, err_msg=str(path))
    elif b.size > 500:
      # Uniform: a spread known to a few per cent, and the same bound.
      assert a.std() == pytest.approx(b.std(), rel=0.1), path
      assert np.abs(a).max() == pytest.approx(np.abs(b).max(), rel=0.05), path
