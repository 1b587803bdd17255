import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax import models
from mmdiff_jax.convert import convert_checkpoint
from mmdiff_jax.models.plan import make_plan
from tests import unet_golden as golden
from tests.unet_golden import TINY

# One level: the cheapest network that has every kind of layer but resampling.
FLAT = TINY | {
  "channel_mult": (1,),
  "video_attention_resolutions": (),
  "cross_attention_resolutions": (1,),
}
# Kernels and rematerialisation of the training passes that are compared; in
# those of a CPU the order of the backward pass is imposed.
PLAIN = ("plain", "none")
OTHERS = (("cpu", "blocks"), ("plain", "attention"), ("plain", "products"))
VIDEO, AUDIO = (1, 4, 4, 4, 3), (1, 64, 1)


@pytest.fixture(scope="module")
def flat():
  """Weights and inputs of a network with four RS-MMA blocks."""
  variables = golden.random_params(models.abstract_variables(FLAT))
  inputs = golden.normal("video", VIDEO), golden.normal("audio", AUDIO)
  return variables, *inputs, np.array([300])


@pytest.fixture(scope="module")
def flat_apply():
  """`(variables, video, audio, t, shifts, window_key)` -> outputs, jitted."""
  model = models.create_model(FLAT)

  def apply(variables, video, audio, t, shifts=None, window=None):
    rngs = {} if window is None else {"window": window}
    return model.apply(variables, video, audio, t, shifts, rngs=rngs)

  return jax.jit(apply)


@functools.cache
def golden_network(keys, **config):
  """Importer and jitted network of a listing of published keys."""
  variables = convert_checkpoint(golden.state_dict(keys), "av_unet", config)
  return variables, jax.jit(models.create_model(config).apply)


@pytest.mark.parametrize(
  ("name", "keys", "kernels"),
  [
    ("unet_tiny_noshift", "unet_tiny_keys.json", "plain"),
    ("unet_tiny_shift", "unet_tiny_keys.json", "plain"),
    ("unet_tiny_sigma_audioattn", "unet_tiny_sigma_audioattn_keys.json", "cpu"),
    ("unet_tiny_wrap", "unet_tiny_wrap_keys.json", "plain"),
  ],
)
def test_network_and_importer_match_golden_numbers(name, keys, kernels):
  case = golden.load_json(f"{name}.json")
  # Given shifts count whether or not the network would draw its own: two
  # cases share one compiled network.
  config = golden.model_config(
    case, cross_attention_shift=True, kernels=kernels
  )
  config = {
    k: tuple(v) if isinstance(v, list) else v for k, v in config.items()
  }
  with jax.default_matmul_precision("highest"):
    variables, apply = golden_network(keys, **config)
    assert sum(x.size for x in jax.tree.leaves(variables)) == case["num_params"]

    batch = case["batch"]
    video = golden.normal(f"{name}/video", (batch, *case["video_size"]))
    audio = golden.normal(f"{name}/audio", (batch, *case["audio_size"]))
    blocks = case["blocks_window_shift_in_forward_order"]
    frames = video.shape[1]
    limits = models.create_model(config).max_shifts(frames)
    assert limits == tuple(frames - window for window, _ in blocks)
    video_out, audio_out = apply(
      variables,
      video.transpose(0, 1, 3, 4, 2),
      audio.swapaxes(1, 2),
      np.array(case["timesteps"]),
      [shift for _, shift in blocks],
    )
  expected = np.load(golden.DATA / f"{name}.npz")
  video_out = np.asarray(video_out).transpose(0, 1, 4, 2, 3)
  audio_out = np.asarray(audio_out).swapaxes(1, 2)
  assert np.abs(video_out - expected["video_out"]).max() < 2e-5
  assert np.abs(audio_out - expected["audio_out"]).max() < 2e-5


def test_dilations_follow_the_schedule():
  layout = make_plan(
    128,
    (1, 2, 3, 4),
    2,
    (2, 4, 8),
    attention_name="cross",
    middle_attention=True,
  )
  # Written out by hand from the schedule: n at each residual block.
  down = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
  middle = [12, 12]
  up = [11, 10, 9, 8, 8, 7, 6, 5, 5, 4, 3, 2, 2, 1, 0]
  blocks = [x for x in layout.layers if x.kind == "block"]
  assert [x.dilation_power for x in blocks] == down + middle + up
  assert [x.resample for x in blocks if x.resample] == ["down"] * 3 + ["up"] * 3
  crosses = [x.ds for x in layout.layers if x.kind == "attention"]
  assert crosses == [2] * 2 + [4] * 2 + [8] * 2 + [8] + [8] * 3 + [4] * 3 + (
    [2] * 3
  )


def test_window_stream_draws_one_shift_per_block(flat, flat_apply):
  draws = {
    shifts: np.asarray(flat_apply(*flat, jnp.array([*shifts]))[0])
    for shifts in itertools.product(range(3), [0], range(3), range(3))
  }
  seen = set()
  for seed in range(16):
    out = np.asarray(flat_apply(*flat, None, jax.random.key(seed))[0])
    closest = min(draws, key=lambda s: np.abs(draws[s] - out).max())
    assert np.abs(draws[closest] - out).max() < 1e-5
    seen.add(closest)
  assert len(seen) > 3
  # Blocks draw independently, and every shift 0..F-w occurs.
  for place in (0, 2, 3):
    assert {shifts[place] for shifts in seen} == {0, 1, 2}

  no_stream = np.asarray(flat_apply(*flat)[0])
  np.testing.assert_allclose(no_stream, draws[0, 0, 0, 0], atol=1e-6)


def test_shift_switched_off_ignores_the_window_stream(flat, flat_apply):
  model = models.create_model(FLAT | {"cross_attention_shift": False})
  out = jax.jit(model.apply)(*flat, rngs={"window": jax.random.key(3)})
  np.testing.assert_allclose(out[0], flat_apply(*flat)[0], atol=1e-5)


@pytest.fixture(scope="module")
def gradients(flat):
  """Loss and gradients of training passes, by kernels and rematerialisation."""
  variables, *inputs = flat

  def compute(kernels, remat):
    model = models.create_model(FLAT | {"kernels": kernels, "remat": remat})

    def loss(variables, key):
      dropout, window = jax.random.split(key)
      rngs = {"dropout": dropout, "window": window}
      out = model.apply(variables, *inputs, train=True, rngs=rngs)
      return sum(jnp.mean(x**2) for x in out)

    grad = jax.jit(jax.value_and_grad(loss))
    return [
      jax.tree.map(np.asarray, grad(variables, jax.random.key(seed)))
      for seed in (1, 2)
    ]

  return {case: compute(*case) for case in (PLAIN, *OTHERS)}


@pytest.mark.parametrize("case", OTHERS)
def test_neither_kernels_nor_remat_change_gradients(gradients, case):
  for plain, other in zip(gradients[PLAIN], gradients[case], strict=True):
    for a, b in zip(*map(jax.tree.leaves, (plain, other)), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_training_is_random_and_reaches_every_parameter(gradients):
  (loss_1, grads_1), (loss_2, _) = gradients[PLAIN]
  assert loss_1 != loss_2
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads_1):
    assert np.abs(leaf).max() > 0, path


def test_dropout_acts_when_training_only(flat):
  model = models.create_model(FLAT)
  apply = jax.jit(model.apply, static_argnames=("train",))

  def run(train, seed):
    rngs = {"dropout": jax.random.key(seed)}
    return np.asarray(apply(*flat, train=train, rngs=rngs)[1])

  np.testing.assert_array_equal(run(False, 0), run(False, 1))
  assert np.abs(run(True, 0) - run(True, 1)).max() > 1e-3
  assert np.abs(run(True, 0) - run(False, 0)).max() > 1e-3


def test_fresh_network_predicts_zero(flat):
  model = models.create_model(FLAT)

  def run(key, *inputs):
    return model.init_with_output(key, *inputs)

  out, variables = jax.jit(run)(jax.random.key(0), *flat[1:])
  assert not any(np.asarray(x).any() for x in out)
  assert np.asarray(variables["params"]["video_stem"]["spatial"]["bias"]).any()


LABELLED = FLAT | {"num_classes": 3}


@pytest.fixture(scope="module")
def labelled(flat):
  """`run(label)` of the flat network with three classes, and its table."""
  variables = golden.random_params(models.abstract_variables(LABELLED))
  apply = jax.jit(models.create_model(LABELLED).apply)

  def run(label, variables=variables):
    label = None if label is None else jnp.asarray(label, jnp.int32)
    inputs = {} if label is None else {"label": label}
    return np.asarray(apply(variables, *flat[1:], inputs=inputs)[0])

  return run, variables


def test_label_selects_a_row_that_is_added_to_the_time_embedding(
  flat, flat_apply, labelled
):
  run, variables = labelled
  params = dict(variables["params"])
  table = params.pop("label_embedding")["embedding"]
  assert table.shape == (4, 32)
  for label in range(4):
    # Without classes, the last bias of the time embedding does the same.
    time = params["time_embedding"]
    dense = time["dense_1"] | {"bias": time["dense_1"]["bias"] + table[label]}
    moved = params | {"time_embedding": time | {"dense_1": dense}}
    out = flat_apply({"params": moved}, *flat[1:])[0]
    np.testing.assert_allclose(run([label]), out, atol=1e-5)
  assert np.abs(run([0]) - run([1])).max() > 1e-3


def test_no_label_is_the_class_after_the_last(labelled):
  run, _ = labelled
  np.testing.assert_array_equal(run(None), run([3]))


def test_network_without_classes_has_no_table(flat):
  names = set(models.abstract_variables(FLAT)["params"])
  with_table = set(models.abstract_variables(LABELLED)["params"])
  assert with_table - names == {"label_embedding"}


def test_bfloat16_computes_and_parameters_are_float32(flat, flat_apply):
  config = FLAT | {"dtype": "bfloat16"}
  model = models.create_model(config)
  variables, *inputs = flat
  abstract = models.abstract_variables(config)
  assert {x.dtype for x in jax.tree.leaves(abstract)} == {jnp.dtype("float32")}

  out = jax.jit(model.apply)(variables, *inputs)
  exact = flat_apply(variables, *inputs)
  for a, b in zip(out, exact, strict=True):
    assert a.dtype == jnp.float32
    assert np.abs(a - b).max() < 0.05 * np.abs(b).max()


@pytest.mark.parametrize("kernels", ["plain", "cpu"])
def test_softmax_and_norms_of_bfloat16_networks_are_float32(flat, kernels):
  config = FLAT | {"dtype": "bfloat16", "kernels": kernels}
  jaxpr = jax.make_jaxpr(models.create_model(config).apply)(*flat)
  types = {"conv_general_dilated": set(), "exp": set(), "rsqrt": set()}
  for eqn in _equations(jaxpr.jaxpr):
    if eqn.primitive.name in types:
      types[eqn.primitive.name].add(eqn.invars[0].aval.dtype)
  assert types["conv_general_dilated"] == {jnp.dtype("bfloat16")}
  assert types["exp"] == {jnp.dtype("float32")}
  assert types["rsqrt"] == {jnp.dtype("float32")}


def _equations(jaxpr):
  for eqn in jaxpr.eqns:
    yield eqn
    for value in eqn.params.values():
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        yield from _equations(inner)


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"shifts": [0, 0, 0]}, "3 shifts; this network has 4"),
    ({"shifts": [0, 1, 0, 0]}, "Shift 1 of RS-MMA block 1.*0..0"),
    ({"shifts": [3, 0, 0, 0]}, "Shift 3 of RS-MMA block 0.*0..2"),
    ({"t": np.array([1, 2])}, "t has shape"),
    ({"inputs": {"label": np.array([0])}}, "takes no label.*num_classes=0"),
    (
      {"inputs": {"lable": np.array([0])}},
      "no input 'lable'; inputs are label",
    ),
  ],
)
def test_calls_that_do_not_fit_are_refused(flat, kwargs, message):
  variables, video, audio, t = flat
  model = models.create_model(FLAT)
  arguments = {"t": t} | kwargs
  with pytest.raises(ValueError, match=message):
    model.apply(variables, video, audio, **arguments)


@pytest.mark.parametrize("label", [np.zeros((), int), np.zeros(2), [1.0]])
def test_labels_that_do_not_fit_are_refused(labelled, label):
  _, variables = labelled
  model = models.create_model(LABELLED)
  inputs = np.zeros(VIDEO), np.zeros(AUDIO), np.array([1])
  with pytest.raises(ValueError, match=r"the network takes int32\[1\]"):
    model.apply(variables, *inputs, inputs={"label": np.asarray(label)})
