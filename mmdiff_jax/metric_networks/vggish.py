"""VGGish: the audio network behind the FAD that the audio field quotes.

Hershey et al., arXiv 1609.09430. The 128-d embedding after the last ReLU,
without PCA.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdiff_jax.metric_networks import mel

EMBEDDING = 128
# One example, and the rest of its last frame.
MIN_SECONDS = 0.975
# Frames of 10 ms in one example.
_EXAMPLE = 96
# Channels of the convolutions, 0 a 2x2 max-pool; the position in this list
# with ReLUs counted is the layer's number in the published checkpoint.
_POOL = 0
_LAYERS = (64, _POOL, 128, _POOL, 256, 256, _POOL, 512, 512, _POOL)
_DENSE = (4096, 4096, EMBEDDING)


class VGGish(nn.Module):
  """The network on log-mel examples."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[N, 96, 64]` log-mel -> `[N, 128]`."""
    x = x[..., None]
    number = 0
    for layer in _LAYERS:
      if layer == _POOL:
        x = nn.max_pool(x, (2, 2), (2, 2))
        number += 1
      else:
        name = f"features_{number}"
        x = nn.Conv(layer, (3, 3), precision="highest", name=name)(x)
        x = nn.relu(x)
        number += 2
    x = x.reshape(x.shape[0], -1)
    for i, width in enumerate(_DENSE):
      name = f"embeddings_{2 * i}"
      x = nn.relu(nn.Dense(width, precision="highest", name=name)(x))
    return x


def abstract_variables() -> dict[str, Any]:
  """Shapes and dtypes of the variables, without computing any."""
  examples = jax.ShapeDtypeStruct((1, _EXAMPLE, mel.BANDS), jnp.float32)
  return jax.eval_shape(VGGish().init, jax.random.key(0), examples)


def log_mel_examples(wave: np.ndarray) -> np.ndarray:
  """Log-mel examples of 0.96 s without overlap; a shorter rest is dropped.

  Args:
    wave: `[B, L]` at 16 kHz.

  Returns:
    `[B, E, 96, 64]` float32.

  Raises:
    ValueError: if the waves are shorter than one example.
  """
  if np.ndim(wave) != 2:
    raise ValueError(
      f"VGGish takes mono waves [B, L], got shape {np.shape(wave)}."
    )
  spectrogram = mel.log_mel(wave)
  count = spectrogram.shape[1] // _EXAMPLE
  if count == 0:
    raise ValueError(
      "VGGish needs at least 0.975 s of audio at 16 kHz (15600 samples), got "
      f"{np.shape(wave)[1]}; use longer clips."
    )
  spectrogram = spectrogram[:, : count * _EXAMPLE].astype(np.float32)
  return spectrogram.reshape(-1, count, _EXAMPLE, mel.BANDS)


@jax.jit
def _embed(variables: dict[str, Any], examples: jax.Array) -> jax.Array:
  # Flax's type allows for the tuple that `mutable` asks for.
  return VGGish().apply(variables, examples)  # type: ignore[return-value]


def embed(variables: dict[str, Any], wave: np.ndarray) -> jax.Array:
  """VGGish embeddings of every 0.96 s of the waves.

  Args:
    variables: from `convert_checkpoint(..., "vggish")`.
    wave: `[B, L]` float in [-1, 1] at 16 kHz, L >= 15600.

  Returns:
    `[B, E, 128]` float32, E examples per wave.

  Raises:
    ValueError: on a wrong shape or waves that are too short.
  """
  examples = log_mel_examples(wave)
  batch, count = examples.shape[:2]
  embedding = _embed(variables, examples.reshape(-1, *examples.shape[2:]))
  return embedding.reshape(batch, count, EMBEDDING)
