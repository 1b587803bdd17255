"""Golden weights and inputs of the U-Nets; they are recipes, not files."""

import json
import pathlib
import zlib

import jax
import numpy as np

DATA = pathlib.Path(__file__).parent / "data"

_MODEL_KEYS = (
  "model_channels",
  "channel_mult",
  "num_res_blocks",
  "num_heads",
  "num_head_channels",
  "video_attention_resolutions",
  "audio_attention_resolutions",
  "cross_attention_resolutions",
  "cross_attention_windows",
  "cross_attention_shift",
  "middle_cross_attention",
  "attention_resolutions",
  "use_scale_shift_norm",
  "learn_sigma",
)
# A small network that resamples, attends and drops out.
TINY = {
  "name": "av_unet",
  "model_channels": 32,
  "channel_mult": (1, 2),
  "num_res_blocks": 1,
  "num_heads": 2,
  "num_head_channels": 16,
  "video_attention_resolutions": (2,),
  "audio_attention_resolutions": (),
  "cross_attention_resolutions": (2,),
  "cross_attention_windows": (2,),
  "dropout": 0.3,
  "dtype": "float32",
}


def generator(name):
  return np.random.default_rng(zlib.crc32(name.encode()))


def normal(name, shape):
  return generator(name).standard_normal(shape).astype(np.float32)


def load_json(name):
  return json.loads((DATA / name).read_text())


def state_dict(keys_file):
  """The weights of a listing of published keys."""
  weights = {}
  for key, shape in load_json(keys_file).items():
    z = generator(key).standard_normal(shape)
    if len(shape) > 1:
      z /= np.sqrt(np.prod(shape[1:]))
    else:
      z = 0.1 * z + (1.0 if key.endswith("weight") else 0.0)
    weights[key] = z.astype(np.float32)
  return weights


def model_config(case, **overrides):
  config = {k: case[k] for k in _MODEL_KEYS if k in case}
  return config | {"dtype": "float32"} | overrides


def random_params(variables, seed=0):
  """Like `variables`, with no zero-initialised layer left."""
  leaves, tree = jax.tree.flatten(variables)
  rng = np.random.default_rng(seed)

  def leaf(x):
    scale = 0.2 if x.ndim == 1 else 1 / np.sqrt(np.prod(x.shape[:-1]))
    return (scale * rng.standard_normal(x.shape)).astype(np.float32)

  return jax.tree.unflatten(tree, [leaf(x) for x in leaves])
