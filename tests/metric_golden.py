"""Golden data of the metrics' networks: weights and inputs by recipe."""

import json
import pathlib
import zlib

import librosa
import numpy as np

DATA = pathlib.Path(__file__).parent / "data"


def rng(name):
  return np.random.default_rng(zlib.crc32(name.encode()))


def key_shapes(kind):
  """Published keys and shapes of a network of the metrics.

  Of i3d, audioclip_audio, vggish, panns and synchformer; synchformer_small is
  that network in other sizes.
  """
  return json.loads((DATA / f"{kind}_keys.json").read_text())


def published_weights(kind):
  """Weights by the recipe of the golden data, under the published keys."""
  return {
    key: golden_weight(key, shape, kind)
    for key, shape in key_shapes(kind).items()
  }


def golden_weight(key, shape, kind):
  leaf = key.split(".")[-1]
  if leaf == "num_batches_tracked":
    return np.zeros((), np.int64)
  if leaf == "window":
    from scipy.signal.windows import blackmanharris

    return blackmanharris(1654, sym=False).astype(np.float32)
  if leaf == "melW":
    return librosa.filters.mel(
      sr=32000, n_fft=1024, n_mels=64, fmin=50, fmax=14000
    ).T
  if leaf in ("m", "fb", "fc"):
    value = {"m": np.zeros, "fb": np.ones, "fc": np.arange}[leaf](shape[0])
    return value.astype(np.float32)
  z = rng(key.removeprefix("audio.")).standard_normal(shape)
  if leaf == "running_var":
    value = 1 + 0.1 * np.abs(z)
  elif kind == "synchformer_small" and len(shape) == 3:
    value = 0.5 * z  # Tokens and positions.
  elif len(shape) > 1:
    value = z * np.sqrt(2 / np.prod(shape[1:]))
  elif leaf == "weight" and kind != "vggish":
    value = 1 + 0.1 * z
  else:
    value = 0.1 * z
  return value.astype(np.float32)
