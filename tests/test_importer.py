"""Import of published checkpoints as runs."""

import jax
import numpy as np
import pytest

from configs import default, superres
from mmdiff_jax import checkpoint
from mmdiff_jax.convert import convert_checkpoint, exporter, importer
from mmdiff_jax.disk.safetensors import load_safetensors, save_safetensors
from tests import unet_golden

CASE = unet_golden.load_json("unet_tiny_sigma_audioattn.json")


@pytest.fixture(scope="module")
def weights():
  return unet_golden.state_dict("unet_tiny_sigma_audioattn_keys.json")


@pytest.fixture
def source(weights, tmp_path, monkeypatch):
  """A file whose content is `weights`, without PyTorch to write it."""
  path = tmp_path / "published.pt"
  monkeypatch.setattr(importer, "load_weight_file", {path: weights}.__getitem__)
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


@pytest.mark.parametrize(
  "change",
  [
    lambda x: x.astype(np.int64),
    lambda x: x.astype(np.complex64),
    lambda x: x > 0,
    lambda x: x * np.nan,
    lambda x: x + np.inf,
    lambda x: x.astype(np.float64) + 1e300,
  ],
)
def test_numbers_that_are_no_weights_are_one_line_and_nothing_is_written(
  source, weights, config, tmp_path, monkeypatch, change
):
  key = "time_embed.2.weight"
  monkeypatch.setitem(weights, key, change(weights[key]))
  with pytest.raises(ValueError, match=f"no finite .*{key}: ") as error:
    importer.import_checkpoint(
      config, source=source, workdir=str(tmp_path / "run")
    )
  assert "\n" not in str(error.value)
  assert not (tmp_path / "run").exists()


def check_round_trip(weights, config, folder):
  """Published weights come back from safetensors; returns the last file."""
  published, exported = folder / "a.safetensors", folder / "b.safetensors"
  save_safetensors(published, weights)
  importer.import_checkpoint(
    config, source=str(published), workdir=str(folder / "run")
  )
  exporter.export_safetensors(folder / "run", exported)
  back = load_safetensors(exported)
  assert back.keys() == weights.keys()
  for key, value in weights.items():
    np.testing.assert_array_equal(back[key], value, err_msg=key)
  return exported


def test_a_model_goes_to_safetensors_and_back_under_its_published_names(
  weights, config, tmp_path
):
  exported = check_round_trip(weights, config, tmp_path)
  content = exported.read_bytes()
  exporter.export_safetensors(tmp_path / "run", exported)
  assert exported.read_bytes() == content
  first = next(iter(weights))
  save_safetensors(exported, weights | {first: weights[first] + 1})
  with pytest.raises(FileExistsError, match="b.safetensors exists"):
    exporter.export_safetensors(tmp_path / "run", exported)


def test_an_import_that_was_killed_at_its_end_is_done(
  weights, config, tmp_path, caplog
):
  source, run = tmp_path / "a.safetensors", tmp_path / "run"
  save_safetensors(source, weights)
  path = importer.import_checkpoint(
    config, source=str(source), workdir=str(run)
  )
  (run / ".lock").touch()
  (run / f".config.json.{'0' * 16}.tmp").touch()
  mark = (path / "_CHECKPOINT_METADATA").read_bytes()
  with caplog.at_level("INFO", "mmdiff_jax"):
    again = importer.import_checkpoint(
      config, source=str(source), workdir=str(run)
    )
  assert again == path and "holds these parameters already" in caplog.text
  assert (path / "_CHECKPOINT_METADATA").read_bytes() == mark
  assert {p.name for p in run.iterdir()} == {"checkpoints", "config.json"}
  first = next(iter(weights))
  save_safetensors(source, weights | {first: weights[first] + 1})
  with pytest.raises(FileExistsError, match="holds other checkpoints already"):
    importer.import_checkpoint(config, source=str(source), workdir=str(run))


def test_a_super_resolution_model_goes_to_safetensors_and_back(tmp_path):
  case = unet_golden.load_json("sr_tiny.json")
  config = superres.get_config()
  config.model.update(unet_golden.model_config(case))
  weights = unet_golden.state_dict("sr_tiny_keys.json")
  check_round_trip(weights, config, tmp_path)
