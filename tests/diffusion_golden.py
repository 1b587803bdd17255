"""The published numbers of diffusion and samplers, in our axes, and their toy.

A golden is an independent computation; see the tests that use it for the
tolerances. Video is stored [B,F,C,H,W] and audio [B,C,L].
"""

import json
import pathlib
import zlib

import jax.numpy as jnp
import numpy as np

from mmdiff_jax.diffusion import make_schedule

_DATA = pathlib.Path(__file__).parent / "data"
GOLDEN = np.load(_DATA / "diffusion_pub.npz")
NFE = {
  entry["name"]: entry["nfe"]
  for entry in json.loads((_DATA / "diffusion_pub.json").read_text())
}
SHAPES = {"video": (2, 4, 3, 8, 8), "audio": (2, 1, 64)}


def generator(name):
  return np.random.default_rng(zlib.crc32(name.encode()))


def channels_last(modality, value):
  """Transposes a published array to [B,F,H,W,C] or [B,L,C]."""
  axes = (0, 1, 3, 4, 2) if modality == "video" else (0, 2, 1)
  return value.transpose(axes) if value.ndim == len(axes) else value


def golden(prefix):
  """Both modalities of a golden entry, channels last."""
  return {m: channels_last(m, GOLDEN[f"{prefix}/{m}"]) for m in SHAPES}


def recipe(name):
  """The input `pub/<name>` of both modalities."""
  return {
    m: channels_last(
      m, generator(f"pub/{name}/{m}").standard_normal(shape)
    ).astype(np.float32)
    for m, shape in SHAPES.items()
  }


X = recipe("x")
X_START = {m: np.clip(x, -1, 1) for m, x in recipe("x0").items()}
NOISE = recipe("noise")


def make_toy(learn_sigma=False):
  """The toy denoiser of the goldens; t is the original step of T=1000."""
  table = make_schedule("linear", 1000).alphas_cumprod

  def denoise_fn(x, t, rng):
    del rng
    video, audio = x["video"], x["audio"]
    ab = jnp.asarray(table, video.dtype)[t]
    c = jnp.sqrt(1 - ab) / (0.25 * ab + 1 - ab)
    mean_video = jnp.mean(video, axis=(1, 2, 3, 4))
    mean_audio = jnp.mean(audio, axis=(1, 2))
    out = {
      "video": c[:, None, None, None, None] * video
      + 0.2 * jnp.sin(3 * mean_audio)[:, None, None, None, None],
      "audio": c[:, None, None] * audio
      + 0.2 * jnp.sin(3 * mean_video)[:, None, None],
    }
    if not learn_sigma:
      return out
    return {m: jnp.concatenate([out[m], jnp.sin(x[m])], axis=-1) for m in out}

  return denoise_fn


def assert_close(actual, expected, tolerance):
  """Largest difference, relative to the expected size where that exceeds 1."""
  for modality, value in expected.items():
    got = np.asarray(actual[modality], np.float64)
    error = np.abs(got - value) / np.maximum(1.0, np.abs(value))
    assert np.max(error) <= tolerance, (modality, np.max(error))
