"""Import of published checkpoints as runs."""

import jax
import numpy as np
import pytest

from configs import default, superres
from mmdiff_jax import checkpoint
from mmdiff_jax.convert import convert_checkpoint, importer
from tests import unet_golden

CASE = unet_golden.load_json("unet_tiny_sigma_audioattn.json")


@pytest.fixture(scope="module")
def weights():
  return unet_golden.state_dict("unet_tiny_sigma_audioattn_keys.json")


@pytest.fixture
def source(weights, tmp_path, monkeypatch):
  """A file whose content is `weights`, without PyTorch to write it."""
  path = tmp_path / "published.pt"
  monkeypatch.setattr(
    importer, "load_torch_file", {str(path): weights}.__getitem__
  )
  return str(path)


@pytest.fixture
def config():
  """All of the golden network's settings but those that the file shows."""
  config = default.get_config()
  config.model.update(unet_golden.model_config(CASE))
  config.model.update(model_channels=128, learn_sigma=False)
  return config


def test_imported_run_has_the_weights_and_the_config_that_fits(
  source, weights, config, tmp_path
):
  path = importer.import_checkpoint(
    config, source=source, workdir=str(tmp_path / "run")
  )
  stored = checkpoint.load_config(tmp_path / "run")
  assert stored.model.model_channels == 32
  assert stored.model.learn_sigma
  assert stored.diffusion.loss == "rescaled_mse_vb"
  assert config.model.model_channels == 128  # The caller's stays as it was.
  expected = convert_checkpoint(weights, "av_unet", stored.model)["params"]
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), expected
  )
  for ema in (True, False):
    loaded = checkpoint.load_params(path, abstract, ema=ema)
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)


def test_a_run_is_not_overwritten(source, config, tmp_path):
  (tmp_path / "run" / "checkpoints").mkdir(parents=True)
  with pytest.raises(FileExistsError, match="another --workdir"):
    importer.import_checkpoint(
      config, source=source, workdir=str(tmp_path / "run")
    )


def test_file_of_the_other_network_names_both_configs(source, tmp_path):
  with pytest.raises(ValueError, match="not a sr_unet.*configs/default.py"):
    importer.import_checkpoint(
      superres.get_config(), source=source, workdir=str(tmp_path / "run")
    )
  assert not (tmp_path / "run").exists()


def test_left_over_keys_leave_nothing_behind(
  source, weights, config, tmp_path, monkeypatch
):
  monkeypatch.setitem(weights, "extra.weight", np.zeros(3))
  with pytest.raises(ValueError, match="unexpected.*extra.weight"):
    importer.import_checkpoint(
      config, source=source, workdir=str(tmp_path / "run")
    )
  assert not (tmp_path / "run").exists()
