"""Makes a TFDS data set (ArrayRecord) of a prepared folder, without TensorFlow.

The examples are those of the TFRecord shards, feature by feature, in the same
order. Train on them with data.source="tfds:NAME" and data.tfds_dir=DIR. Needs
the extra `tfds`.
"""

import os
import re
from collections.abc import Iterator, Mapping

import numpy as np

from mmdiff_jax.data.clips import CAPTIONS, FRAME_FORMATS, INPUT_PREFIXES
from mmdiff_jax.data.codec import Feature, decode_example
from mmdiff_jax.data.manifest import Manifest
from mmdiff_jax.data.tfrecord import read_records

VERSION = "1.0.0"


def build(
  input_dir: str | os.PathLike, name: str, tfds_dir: str | os.PathLike
) -> int:
  """Writes the data set `name` below `tfds_dir`.

  Returns:
    The number of examples; what is there already is left as it is.

  Raises:
    ValueError: if the input is not a prepared folder, the name not a TFDS name,
      another data set has that name, or TFDS is not installed.
  """
  if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
    raise ValueError(
      f"--name must be lower case letters, digits and _, got {name!r}."
    )
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise ValueError(
      "this program needs TFDS: pip install tensorflow-datasets array_record."
    ) from error
  manifest = Manifest.load(input_dir)
  builder = _builder_class(name, os.fspath(input_dir), manifest)(
    data_dir=os.fspath(tfds_dir), file_format=tfds.core.FileFormat.ARRAY_RECORD
  )
  config = tfds.download.DownloadConfig(try_download_gcs=False)
  builder.download_and_prepare(download_config=config)
  stored = (builder.info.metadata or {}).get("manifest")
  if stored is None or Manifest.from_json(stored, name) != manifest:
    raise ValueError(
      f"{builder.data_path} holds another data set; choose another --name, or"
      " delete it."
    )
  return builder.info.splits["train"].num_examples


def _builder_class(name: str, input_dir: str, manifest: Manifest):
  """A TFDS builder class named so that its data set is called `name`."""
  import tensorflow_datasets as tfds

  features = _features(input_dir, manifest)

  # The base class has no types.
  class Builder(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder, skip_registration=True
  ):
    """Clips of videos with sound, prepared for mmdiff_jax."""

    VERSION = tfds.core.Version(VERSION)

    def _info(self) -> tfds.core.DatasetInfo:
      return tfds.core.DatasetInfo(
        builder=self,
        description=(
          "Segments of videos with their sound; frames are"
          f" {'/'.join(FRAME_FORMATS)}, audio is 16-bit PCM."
        ),
        features=tfds.features.FeaturesDict(features),
        # The manifest lists the clips in the order of the records.
        disable_shuffling=True,
        metadata=tfds.core.MetadataDict(manifest=manifest.to_json()),
      )

    def _split_generators(self, dl_manager) -> dict:
      del dl_manager
      return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
      number = 0
      for shard, _ in manifest.shards:
        for record in read_records(os.path.join(input_dir, shard)):
          yield number, _values(decode_example(record), features)
          number += 1

  Builder.__name__ = Builder.__qualname__ = name
  Builder.name = name
  return Builder


def _features(input_dir: str, manifest: Manifest) -> dict:
  """TFDS's types of the features that the records have."""
  import tensorflow_datasets as tfds

  # Strings are objects: numpy's own would lose trailing zero bytes.
  text = tfds.features.Tensor(shape=(), dtype=np.object_)
  texts = tfds.features.Tensor(shape=(None,), dtype=np.object_)
  integer = tfds.features.Scalar(dtype=np.int64)
  real = tfds.features.Scalar(dtype=np.float32)
  first = read_records(os.path.join(input_dir, manifest.shards[0][0]))
  kinds = {
    key: np.asarray(values).dtype
    for key, values in decode_example(next(first)).items()
    if key.startswith(INPUT_PREFIXES)
  }
  # These some videos may lack, the first among them.
  values, shape = INPUT_PREFIXES
  for name in manifest.vectors:
    kinds[values + name] = np.dtype(np.float32)
    kinds[shape + name] = np.dtype(np.int64)
  given = {
    key: tfds.features.Tensor(shape=(None,), dtype=kind)
    for key, kind in kinds.items()
  }
  captions = {CAPTIONS: texts} if "text" in manifest.vectors else {}
  return (
    given
    | captions
    | {
      "clip/source": text,
      "clip/start": integer,
      "clip/windows": integer,
      "clip/window_frames": integer,
      "video/frames": texts,
      "video/format": text,
      "video/height": integer,
      "video/width": integer,
      "video/fps": real,
      "audio/pcm16": text,
      "audio/sample_rate": integer,
    }
  )


def _values(features: Mapping[str, Feature], types: Mapping) -> dict:
  """An example as TFDS wants it: scalars, bytes, and a few arrays.

  What the example lacks of `types` is an empty array.
  """
  values: dict[str, bytes | np.ndarray] = {
    key: np.zeros(0, types[key].np_dtype) for key in types.keys() - features
  }
  for key, feature in features.items():
    if key in ("video/frames", CAPTIONS):
      values[key] = np.array([bytes(item) for item in feature], object)
    elif key.startswith(INPUT_PREFIXES):
      values[key] = np.asarray(feature)
    elif isinstance(feature, np.ndarray):
      values[key] = feature[0]
    else:
      values[key] = bytes(feature[0])
  return values
