"""The extractors: networks and descriptors as features of batches of clips."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mmdiff_jax.evaluation import descriptors, pairing
from mmdiff_jax.evaluation.features import Batch, Extractor, shard_batch
from mmdiff_jax.metric_networks import audioclip, i3d, mel, vggish

RANDOM_SEED = 0
# Raised when a descriptor's definition changes: old cache files are stale.
_DESCRIPTORS = "1"


@dataclasses.dataclass(frozen=True)
class WeightFile:
  """A published file of weights.

  Attributes:
    file: its name.
    size: in words.
    publisher: where its authors offer it.
  """

  file: str
  size: str
  publisher: str


WEIGHT_FILES = {
  "i3d": WeightFile(
    "i3d_pretrained_400.pt",
    "about 51 MB",
    "the VideoGPT release, https://github.com/wilson1yan/VideoGPT",
  ),
  "audioclip": WeightFile(
    "AudioCLIP-Full-Training.pt",
    "about 0.5 GB",
    "https://github.com/AndreyGuzhov/AudioCLIP/releases (v0.1)",
  ),
  "vggish": WeightFile(
    "vggish-10086976.pth",
    "about 289 MB",
    "https://github.com/harritaylor/torchvggish/releases (v0.1)",
  ),
}


def find_weights(weights_dir: pathlib.Path) -> dict[str, pathlib.Path]:
  """Weight files that are there, by kind.

  Beside the published file an .npz of the same name, with the same keys and
  layouts, is taken: it needs no PyTorch.
  """
  found = {}
  for kind, weight in WEIGHT_FILES.items():
    for suffix in (".npz", pathlib.Path(weight.file).suffix):
      path = weights_dir / (pathlib.Path(weight.file).stem + suffix)
      if path.is_file() and kind not in found:
        found[kind] = path
  return found


def missing_weights(kind: str, weights_dir: pathlib.Path) -> str:
  """Says which file a network lacks and where it is to be had."""
  weight = WEIGHT_FILES[kind]
  return (
    f"{weight.file} ({weight.size}) is not in {weights_dir}; its authors "
    f"publish it at {weight.publisher}. Put it there or name its folder with "
    "--weights_dir."
  )


def make_extractors(
  names: list[str],
  variables: Mapping[str, Any],
  hashes: Mapping[str, str],
  protocol: str,
  sample_rate: int,
) -> list[Extractor]:
  """Extractors of the features that are asked for.

  Args:
    names: of the features: i3d, i3d_random, both also with "_mirrored",
      audioclip, vggish, mel, scene, onsets, flow_peaks, motion_and_sound,
      thumbnails, mel_picture.
    variables: of the networks, by kind.
    hashes: of the weight files, by kind.
    protocol: "paper" or "clean".
    sample_rate: of the clips' audio.

  Returns:
    One extractor per name.
  """
  makers = {
    "i3d": lambda: _i3d(variables["i3d"]),
    "i3d_random": lambda: _i3d(i3d.init_variables(RANDOM_SEED)),
    "audioclip": lambda: _audioclip(
      variables["audioclip"], protocol, sample_rate
    ),
    "vggish": lambda: _vggish(variables["vggish"], sample_rate),
  }
  loaded: dict[str, Any] = {}
  out = []
  for name in names:
    base = name.removesuffix("_mirrored")
    if base not in makers:
      out.append(_descriptor(name, sample_rate))
      continue
    if base not in loaded:
      loaded[base] = makers[base]()
    apply, audio = loaded[base], base in ("audioclip", "vggish")
    if name != base:
      apply = _mirrored(apply)
    version = hashes.get(base, f"seed {RANDOM_SEED}")
    if base == "audioclip":
      version += f" {protocol}"
    out.append(Extractor(name, version, apply, needs_audio=audio))
  return out


def _mirrored(apply):
  def mirrored(batch: Batch) -> jax.Array:
    video = np.ascontiguousarray(batch["video"][..., ::-1, :])
    return apply({"video": video, "audio": batch["audio"]})

  return mirrored


def _i3d(variables: Any):
  variables = jax.device_put(variables)

  def apply(batch: Batch) -> jax.Array:
    video = batch["video"]
    frames = video.shape[1]
    if frames < i3d.MIN_FRAMES:
      # Short clips are played again from the start.
      video = video[:, np.arange(i3d.MIN_FRAMES) % frames]
    return i3d.logits(variables, shard_batch({"x": video})["x"])

  return apply


def _audioclip(variables: Any, protocol: str, sample_rate: int):
  variables = jax.device_put(variables)

  def apply(batch: Batch) -> jax.Array:
    wave = descriptors.resample(
      batch["audio"], sample_rate, audioclip.SAMPLE_RATE
    )
    return audioclip.embed(variables, shard_batch({"x": wave})["x"], protocol)

  return apply


def _vggish(variables: Any, sample_rate: int):
  variables = jax.device_put(variables)

  def apply(batch: Batch) -> jax.Array:
    wave = descriptors.resample(batch["audio"], sample_rate, mel.SAMPLE_RATE)
    return vggish.embed(variables, wave)

  return apply


def _descriptor(name: str, sample_rate: int) -> Extractor:
  """An extractor without weights."""

  def at_16_khz(function):
    return lambda batch: function(
      descriptors.resample(batch["audio"], sample_rate, mel.SAMPLE_RATE)
    )

  apply = {
    "mel": at_16_khz(mel.mel_statistics),
    "mel_picture": at_16_khz(descriptors.mel_picture),
    "onsets": at_16_khz(pairing.onset_frames),
    "scene": lambda batch: descriptors.scene(batch["video"]),
    "thumbnails": lambda batch: descriptors.thumbnails(batch["video"]),
    "flow_peaks": lambda batch: pairing.flow_peaks(batch["video"]),
    "motion_and_sound": lambda batch: descriptors.motion_and_sound(
      batch["video"], batch["audio"]
    ),
  }[name]
  audio = name in ("mel", "mel_picture", "onsets", "motion_and_sound")
  return Extractor(name, _DESCRIPTORS, apply, needs_audio=audio)
