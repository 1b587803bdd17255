"""Published weights -> checkpoints that this package reads."""

import logging
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mmdiff_jax import checkpoint
from mmdiff_jax.convert.checkpoints import convert_checkpoint
from mmdiff_jax.convert.torch_file import load_weight_file
from mmdiff_jax.disk.files import as_path, check_directory, local_copy
from mmdiff_jax.disk.locks import locked

_log = logging.getLogger(__name__)


def import_checkpoint(
  config: ConfigDict, *, source: str, workdir: str
) -> pathlib.Path:
  """Converts a published U-Net and writes it with the config that fits it.

  The network's kind must be that of `config.model.name`; its width and
  whether it learns a variance are read off the file.

  Args:
    config: the configuration to store beside the parameters.
    source: a `.pt` or `.safetensors` file; no code in it is run.
    workdir: receives `checkpoints/0`.

  Returns:
    The path of the checkpoint, which may be there already.

  Raises:
    FileExistsError: if `workdir` holds another checkpoint.
    OSError: if `workdir` cannot be written to.
    ValueError: if the file does not fit the network, key by key.
  """
  folder = as_path(workdir)
  check_directory(workdir, "--workdir")
  with local_copy(source) as file:
    state_dict = load_weight_file(file)
  config = config.copy_and_resolve_references()
  _adopt(config, state_dict)
  variables = convert_checkpoint(state_dict, config.model.name, config.model)
  with locked(folder):
    path = _find_imported(folder, variables["params"], config)
    if path is not None:
      _log.info("%s holds these parameters already.", path)
      return path
    # The checkpoint last: where there is one, the import is done.
    checkpoint.write_config(config, folder)
    path = checkpoint.save_params(folder, variables["params"], config)
  count = sum(x.size for x in jax.tree.leaves(variables))
  _log.info("Imported %s parameters into %s.", f"{count:,}", path)
  return path


def _find_imported(
  folder: pathlib.Path, params: Any, config: ConfigDict
) -> pathlib.Path | None:
  """What an import that was killed at its end has left, or None.

  Raises:
    FileExistsError: if there is another checkpoint.
  """
  found = checkpoint.list_checkpoints(folder)
  if not found:
    return None
  if [path.name for path in found] != ["0"] or not checkpoint.holds(
    found[0], params, config
  ):
    raise FileExistsError(
      f"{folder} holds other checkpoints already; give another --workdir."
    )
  return found[0]


def _adopt(config: ConfigDict, state_dict: dict[str, np.ndarray]) -> None:
  """Sets the model's width and `learn_sigma` to those of the file."""
  stem_key, head_key = {
    "av_unet": (
      "input_blocks.0.0.video_conv.video_conv_spatial.weight",
      "video_out.2.video_conv.weight",
    ),
    "sr_unet": ("input_blocks.0.0.weight", "out.2.weight"),
  }[config.model.name]
  if stem_key not in state_dict or head_key not in state_dict:
    raise ValueError(
      f"The file has no {stem_key!r} or no {head_key!r}: it is not a "
      f"{config.model.name}. Choose --config=configs/default.py for the joint "
      "model, configs/superres.py for the 64 -> 256 upsampler."
    )
  found = {
    "model_channels": int(state_dict[stem_key].shape[0]),
    "learn_sigma": state_dict[head_key].shape[0] == 6,
  }
  for name, value in found.items():
    if config.model[name] != value:
      _log.info("config.model.%s becomes %s, as in the file.", name, value)
      config.model[name] = value
  if not config.model.learn_sigma:
    config.diffusion.loss = "mse"
  elif config.diffusion.loss == "mse":
    config.diffusion.loss = "rescaled_mse_vb"
