"""Inputs of the joint network: embedded one by one, nothing until learnt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax import checkpoint, models
from mmdiff_jax.models import embedders
from mmdiff_jax.task import make_task
from tests import unet_golden as golden
from tests.conftest import make_tiny_config
from tests.test_av_unet import AUDIO, FLAT, VIDEO

TOLD = FLAT | {"num_classes": 3, "text_dim": 6, "embedding_dim": 2}
TIME = jnp.array([300, 20])
RNG = np.random.default_rng(0)
INPUTS = {
  "label": jnp.array([2, 0]),
  "text": jnp.asarray(RNG.standard_normal((2, 6)), jnp.float32),
  "embedding": jnp.asarray(RNG.standard_normal((2, 2)), jnp.float32),
}
STREAMS = (
  golden.normal("video", (2, *VIDEO[1:])),
  golden.normal("audio", (2, *AUDIO[1:])),
)


@pytest.fixture(scope="module")
def variables():
  return golden.random_params(models.abstract_variables(TOLD))


@pytest.fixture(scope="module")
def run():
  """`(variables, inputs)` -> video and audio of the network that is told."""
  apply = jax.jit(models.create_model(TOLD).apply)
  return lambda variables, inputs: apply(
    variables, *STREAMS, TIME, inputs=inputs
  )


def initial(**fields):
  network = models.create_network(FLAT | fields)
  init = jax.jit(lambda rng: network.init(rng, *network.smallest()))
  return init(jax.random.key(3))["params"]


def same(a, b):
  return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def test_a_network_with_inputs_begins_as_the_one_without():
  """Its own parameters are drawn apart; its outputs are the same bits."""
  plain, told = initial(), initial(num_classes=3, text_dim=6, embedding_dim=2)
  new = {name: told[name] for name in told.keys() - plain.keys()}
  assert new.keys() == {
    "label_embedding",
    "text_embedding",
    "embedding_embedding",
  }
  assert same(plain, {name: told[name] for name in plain})
  # Where the heads are not zero, as they are in the beginning.
  trained = golden.random_params({"params": plain})["params"]
  outputs = [
    jax.jit(models.create_model(FLAT | fields).apply)(
      {"params": params}, *STREAMS, TIME, inputs=inputs
    )
    for fields, params, inputs in (
      ({}, trained, {}),
      (
        {"num_classes": 3, "text_dim": 6, "embedding_dim": 2},
        trained | new,
        INPUTS,
      ),
    )
  ]
  assert np.asarray(outputs[0][0]).any()
  assert same(*outputs)


def test_first_layers_of_vectors_are_drawn():
  for name, size in (("text_embedding", 6), ("embedding_embedding", 2)):
    module = initial(text_dim=6, embedding_dim=2)[name]
    kernel = np.asarray(module["dense_0"]["kernel"])
    assert 0.5 < np.abs(kernel).max() * np.sqrt(size) <= 1
    assert not any(np.asarray(x).any() for x in module["dense_1"].values())


def test_an_input_is_learnt_from_the_first_step():
  """Its last layer has a gradient although it is zero."""
  params = initial(text_dim=6)
  params |= golden.random_params(
    {k: x for k, x in params.items() if k != "text_embedding"}
  )
  model = models.create_model(FLAT | {"text_dim": 6})

  def loss(params):
    video, _ = model.apply(
      {"params": params}, *STREAMS, TIME, inputs={"text": INPUTS["text"]}
    )
    return jnp.sum(video**2)

  gradient = jax.jit(jax.grad(loss))(params)["text_embedding"]["dense_1"]
  assert np.abs(np.asarray(gradient["kernel"])).max() > 1e-3


@pytest.mark.parametrize("name", INPUTS)
def test_each_input_matters_to_its_own_sample(run, variables, name):
  """A value of the second sample leaves the first one as it is."""
  before = run(variables, INPUTS)
  changed = INPUTS | {name: INPUTS[name].at[1].set(1)}
  after = run(variables, changed)
  for old, new in zip(before, after, strict=True):
    np.testing.assert_array_equal(old[0], new[0])
    assert np.abs(np.asarray(old[1] - new[1])).max() > 1e-3


@pytest.mark.parametrize(
  "name, null", [("label", 3), ("text", 0.0), ("embedding", 0.0)]
)
def test_what_is_missing_is_withheld(run, variables, name, null):
  network = models.create_network(TOLD)
  assert network.null[name] == null
  rest = {k: x for k, x in INPUTS.items() if k != name}
  withheld = rest | {name: jnp.full_like(INPUTS[name], null)}
  assert same(run(variables, rest), run(variables, withheld))
  assert not same(run(variables, rest), run(variables, INPUTS))


def test_vectors_of_length_1_come_with_numbers_of_size_1():
  """So that a wide one is seen as well as a narrow one."""
  kind = embedders.KINDS["text"]
  module = kind.embedder(16, 4, "plain", "text")
  vector = jnp.full((1, 16), 0.25)
  params = {
    "dense_0": {"kernel": jnp.eye(16, 4), "bias": jnp.zeros(4)},
    "dense_1": {"kernel": jnp.eye(4), "bias": jnp.zeros(4)},
  }
  out = module.apply({"params": params}, vector)
  np.testing.assert_allclose(out, np.full((1, 4), 1 / (1 + np.exp(-1))), 1e-6)


@pytest.mark.parametrize(
  "inputs, message",
  [
    (
      {"text": jnp.zeros((2, 5))},
      r"text is float32\[2, 5\]; .*float32\[2, 6\]",
    ),
    ({"text": jnp.zeros((1, 6))}, r"takes float32\[2, 6\]"),
    ({"text": jnp.zeros((2, 6), jnp.int32)}, r"text is int32\[2, 6\]"),
    ({"label": jnp.zeros(2)}, r"label is float32\[2\]; .* takes int32\[2\]"),
  ],
)
def test_inputs_that_do_not_fit_are_refused(variables, inputs, message):
  model = models.create_model(TOLD)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      lambda v: model.apply(v, *STREAMS, TIME, inputs=inputs), variables
    )


@pytest.mark.parametrize("value", [-1, 1.5, True, "384"])
def test_sizes_that_make_no_sense_are_refused(value):
  with pytest.raises(ValueError, match="model.text_dim=.* or 0 for a network"):
    models.create_network(FLAT | {"text_dim": value})


def test_values_that_an_input_cannot_have_are_refused():
  network = models.create_network(TOLD)
  network.check_inputs({"label": 2, "text": np.zeros(6)})
  with pytest.raises(ValueError, match="label=3 must lie in 0..2"):
    network.check_inputs({"label": 3})
  with pytest.raises(ValueError, match="text holds NaN"):
    network.check_inputs({"text": np.full(6, np.nan)})


def test_a_task_declares_all_inputs_and_their_absence():
  config = make_tiny_config()
  config.model.update(num_classes=3, text_dim=6)
  task = make_task(config)
  assert {k: (x.shape, x.dtype) for k, x in task.inputs.items()} == {
    "label": ((), jnp.int32),
    "text": ((6,), jnp.float32),
  }
  absent = task.absent()
  assert absent["label"] == 3 and absent["label"].dtype == np.int32
  np.testing.assert_array_equal(absent["text"], np.zeros(6, np.float32))


def test_parameters_of_a_network_without_inputs_can_be_gone_on_from(tmp_path):
  """Nothing but the new embeddings may be missing."""
  plain, told = initial(), initial(text_dim=6, num_classes=3)
  plain = golden.random_params({"params": plain})["params"]
  config = make_tiny_config()
  config.model.update(FLAT)
  checkpoint.save_params(tmp_path, plain, config)
  fields = {"text_dim": 6, "num_classes": 3}
  grown = models.create_network(FLAT | fields).grown
  loaded = checkpoint.load_params(tmp_path, told, initial=told, grown=grown)
  assert same(
    loaded,
    plain
    | {name: told[name] for name in ("text_embedding", "label_embedding")},
  )
  with pytest.raises(ValueError, match="does not fit this model"):
    checkpoint.load_params(tmp_path, told)
  with pytest.raises(ValueError, match="does not fit this model"):
    checkpoint.load_params(
      tmp_path, told | {"more": told["video_stem"]}, initial=told, grown=grown
    )
