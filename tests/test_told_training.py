"""Training of a network that is told captions and labels, from start to end."""

import pathlib
import shutil

import flax.linen as nn
import jax
import numpy as np
import pytest

from mmdiff_jax import checkpoint, models
from mmdiff_jax.checkpoint.text_encoder import TextEncoder
from mmdiff_jax.models import embedders
from mmdiff_jax.training import loop
from tests.toy import Toy, ToyNetwork, make_toy_config

pytest.importorskip("tokenizers")
ENCODER = pathlib.Path(__file__).parent / "data" / "tiny_bert"


class ToldToy(nn.Module):
  """`Toy`, which shifts all it makes by what it is told."""

  features: int = 4
  num_classes: int = 0
  text_dim: int = 0
  embedding_dim: int = 0
  kernels: str = "plain"

  @nn.compact
  def __call__(self, x, t, inputs):
    out = Toy(self.features, name="toy")(x, t)
    for shift in embedders.embed(self, inputs, len(t), 1):
      out = jax.tree.map(
        lambda o, s=shift: o + s.reshape(-1, *(1,) * (o.ndim - 1)), out
      )
    return out


class ToldToyNetwork(ToyNetwork):
  module_cls = ToldToy

  @property
  def null(self):
    return embedders.null(self.module)

  @property
  def grown(self):
    return frozenset(map(embedders.module_name, embedders.sizes(self.module)))

  def declare(self, config):
    return super().declare(config)[0], embedders.declare(self.module)

  def __call__(self, module, x, t, inputs, train):
    return module(x, t, inputs)


models.register("told_toy", ToldToyNetwork)


def make_config(**model):
  config = make_toy_config()
  config.model = {"name": "told_toy", "features": 8, **model}
  config.data.update(source="synthetic", text_encoder=str(ENCODER))
  config.data.synthetic_clips = 8
  config.train.update(num_steps=2, batch_size=4, preview_every=0)
  return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A run that is told captions and labels."""
  workdir = tmp_path_factory.mktemp("told")
  config = make_config(text_dim=8, num_classes=9)
  return loop.train(config, workdir), workdir


def test_captions_and_labels_are_learnt_from(trained):
  state, _ = trained
  for name in ("text_embedding", "label_embedding"):
    moved = jax.tree.leaves(state.params[name])
    assert all(np.asarray(x).any() for x in moved)


def test_a_run_notes_classes_and_text_encoder(trained):
  _, workdir = trained
  data = checkpoint.load_config(workdir).data
  assert data.classes[:2] == ("red disc", "red square")
  assert data.text_encoder_hash == TextEncoder(ENCODER).sha256


def test_a_run_does_not_go_on_with_another_encoder(trained, tmp_path):
  _, workdir = trained
  other = shutil.copytree(ENCODER, tmp_path / "other")
  with (other / "config.json").open("a") as file:
    file.write(" ")
  config = make_config(text_dim=8, num_classes=9)
  config.data.text_encoder = str(other)
  config.train.num_steps = 3
  with pytest.raises(ValueError, match="text_encoder_hash was"):
    loop.train(config, workdir)


def test_a_run_can_start_from_one_that_was_told_nothing(tmp_path):
  config = make_config()
  plain = loop.train(config, tmp_path / "plain")
  config = make_config(text_dim=8)
  config.train.update(
    init_from=str(tmp_path / "plain"), num_steps=1, learning_rate=0.0
  )
  told = loop.train(config, tmp_path / "told")
  jax.tree.map(
    np.testing.assert_array_equal, told.params["toy"], plain.ema_params["toy"]
  )
  assert np.asarray(told.params["text_embedding"]["dense_0"]["kernel"]).any()


def test_vectors_of_another_width_than_the_network_s_are_refused(tmp_path):
  with pytest.raises(ValueError, match=r"text of shape \(8,\).* takes \(7,\)"):
    loop.train(make_config(text_dim=7), tmp_path)


def test_more_classes_than_the_network_s_are_refused(tmp_path):
  with pytest.raises(
    ValueError, match="num_classes=4, but the data have 9: red"
  ):
    loop.train(make_config(num_classes=4), tmp_path)
